//! `.Xauthority`: the cookies by which X servers know their clients (Xau(3)).

/// Matches every host: `FamilyWild`.
const WILD: u16 = 0xffff;
/// Named by the host's name: `FamilyLocal`.
const LOCAL: u16 = 256;
/// The largest file that is looked at, in entries.
const ENTRIES: usize = 10_000;

/// One cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind of address.
    pub family: u16,
    /// The host.
    pub address: Vec<u8>,
    /// The display's number as text; empty: every one.
    pub number: Vec<u8>,
    /// The protocol, e.g. `MIT-MAGIC-COOKIE-1`.
    pub name: Vec<u8>,
    /// The cookie.
    pub data: Vec<u8>,
}

/// The entries of a file, up to the first that is damaged.
pub fn parse(mut bytes: &[u8]) -> Vec<Entry> {
    fn number(bytes: &mut &[u8]) -> Option<u16> {
        let (head, rest) = bytes.split_at_checked(2)?;
        *bytes = rest;
        Some(u16::from_be_bytes([head[0], head[1]]))
    }
    fn text(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let length = number(bytes)?;
        let (head, rest) = bytes.split_at_checked(usize::from(length))?;
        *bytes = rest;
        Some(head.to_vec())
    }
    let mut out = Vec::new();
    while out.len() < ENTRIES {
        let mut one = || {
            Some(Entry {
                family: number(&mut bytes)?,
                address: text(&mut bytes)?,
                number: text(&mut bytes)?,
                name: text(&mut bytes)?,
                data: text(&mut bytes)?,
            })
        };
        match one() {
            Some(entry) => out.push(entry),
            None => break,
        }
    }
    out
}

/// A cookie that is good for every host and display.
pub fn cookie(data: &[u8]) -> Entry {
    Entry {
        family: WILD,
        address: Vec::new(),
        number: Vec::new(),
        name: b"MIT-MAGIC-COOKIE-1".to_vec(),
        data: data.to_vec(),
    }
}

/// The bytes of a file with these entries.
pub fn write(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        out.extend(entry.family.to_be_bytes());
        for field in [&entry.address, &entry.number, &entry.name, &entry.data] {
            out.extend((field.len() as u16).to_be_bytes());
            out.extend(field);
        }
    }
    out
}

/// The cookie for a display of this host, as one that holds under every host name; `None` where
/// there is none.
pub fn for_display(entries: &[Entry], display: u32, hostname: &str) -> Option<Entry> {
    let number = display.to_string();
    let fits = |entry: &&Entry| entry.number.is_empty() || entry.number == number.as_bytes();
    let rank = |entry: &&Entry| match entry.family {
        LOCAL if entry.address == hostname.as_bytes() => 0,
        WILD => 1,
        // The host may have had another name when the server was started.
        LOCAL => 2,
        _ => 3,
    };
    let best = entries.iter().filter(fits).min_by_key(rank)?;
    Some(Entry { family: WILD, address: Vec::new(), number: Vec::new(), ..best.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(family: u16, address: &str, number: &str, data: &str) -> Entry {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Entry {
            family,
            address: bytes(address),
            number: bytes(number),
            name: bytes("MIT-MAGIC-COOKIE-1"),
            data: bytes(data),
        }
    }

    #[test]
    fn what_is_written_is_read_and_damage_ends_it() {
        let entries = [entry(256, "robot", "0", "aaaa"), entry(0, "\x7f\0\0\x01", "1", "bbbb")];
        let bytes = write(&entries);
        assert_eq!(parse(&bytes), entries);
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).len() < 2);
        }
    }

    #[test]
    fn the_best_cookie() {
        let all = [
            entry(0, "\x0a\0\0\x01", "0", "tcp"),
            entry(256, "old-name", "0", "old"),
            entry(256, "robot", "0", "own"),
            entry(256, "robot", "1", "other"),
            entry(WILD, "", "2", "wild"),
        ];
        let data = |display| for_display(&all, display, "robot").map(|e| String::from_utf8(e.data).unwrap());
        assert_eq!(data(0).as_deref(), Some("own"));
        assert_eq!(data(1).as_deref(), Some("other"));
        assert_eq!(data(2).as_deref(), Some("wild"));
        assert_eq!(data(3), None);
        assert_eq!(for_display(&all[..2], 0, "robot").unwrap().data, b"old");
        let made = for_display(&all, 0, "robot").unwrap();
        assert_eq!((made.family, made.address.len(), made.number.len()), (WILD, 0, 0));
    }
}
