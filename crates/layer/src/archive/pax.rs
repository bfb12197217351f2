use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use robot_env_diag::{Error, Kind, Result};

use super::{Entry, Segment, Time, Xattr};

/// What PAX and GNU extended headers said about the next entry.
#[derive(Default)]
pub(crate) struct Extensions {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    /// GNU long name and link: they win over PAX, as in Go's reader, which other engines use.
    pub(crate) gnu_path: Option<Vec<u8>>,
    pub(crate) gnu_link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    atime: Option<Time>,
    xattrs: Vec<Xattr>,
    libarchive_xattrs: Vec<Xattr>,
    pub(crate) sparse: PaxSparse,
}

/// The GNU.sparse.* records.
#[derive(Default)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<u64>,
    pub(crate) map: Option<Vec<Segment>>,
    pending_offset: Option<u64>,
}

impl Extensions {
    pub(crate) fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.gnu_path.is_none() && self.gnu_link.is_none()
    }

    /// Reads the records of a PAX extended header: `<length> <key>=<value>\n`.
    pub(crate) fn read(&mut self, mut records: &[u8]) -> Result<()> {
        while !records.is_empty() {
            // Some writers pad with NULs behind the last record.
            if records.iter().all(|b| *b == 0) {
                break;
            }
            let space = records.iter().take(20).position(|b| *b == b' ').ok_or_else(|| bad("record"))?;
            let length = decimal(&records[..space])
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| bad("length"))?;
            if length <= space + 1 || length > records.len() {
                return Err(bad("length"));
            }
            let (record, rest) = records.split_at(length);
            let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(|| bad("record"))?;
            let equals = body.iter().position(|b| *b == b'=').ok_or_else(|| bad("record"))?;
            self.record(&body[..equals], &body[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            return push_xattr(&mut self.xattrs, name.to_vec(), value.to_vec());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let value = LENIENT_BASE64.decode(value).map_err(|_| bad("LIBARCHIVE.xattr"))?;
            return push_xattr(&mut self.libarchive_xattrs, percent_decode(name), value);
        }
        // An empty value means: as in the header.
        if value.is_empty() {
            return Ok(());
        }
        let number = |name: &str| decimal(value).ok_or_else(|| bad(name));
        match key {
            b"path" => self.path = Some(without_nul(value, "path")?),
            b"linkpath" => self.link = Some(without_nul(value, "linkpath")?),
            b"size" => self.size = Some(number("size")?),
            b"uid" => self.uid = Some(u32::try_from(number("uid")?).map_err(|_| bad("uid"))?),
            b"gid" => self.gid = Some(u32::try_from(number("gid")?).map_err(|_| bad("gid"))?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| bad("mtime"))?),
            b"atime" => self.atime = Some(time(value).ok_or_else(|| bad("atime"))?),
            b"GNU.sparse.major" => self.sparse.major = Some(number("GNU.sparse.major")?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number("GNU.sparse.minor")?),
            b"GNU.sparse.name" => self.sparse.name = Some(without_nul(value, "GNU.sparse.name")?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(number("GNU.sparse.realsize")?);
            }
            b"GNU.sparse.numblocks" => {
                self.sparse.map.get_or_insert_with(Vec::new);
            }
            b"GNU.sparse.offset" => {
                let offset = number("GNU.sparse.offset")?;
                let before = self.sparse.pending_offset.replace(offset);
                before.map_or(Ok(()), |_| Err(bad("GNU.sparse.offset")))?;
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.pending_offset.take().ok_or_else(|| bad("GNU.sparse.numbytes"))?;
                let length = number("GNU.sparse.numbytes")?;
                self.sparse.map.get_or_insert_with(Vec::new).push(Segment { offset, length });
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> = value.split(|b| *b == b',').map(decimal).collect();
                let numbers = numbers.filter(|n| n.len() % 2 == 0).ok_or_else(|| bad("GNU.sparse.map"))?;
                self.sparse.map = Some(
                    numbers.chunks(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect(),
                );
            }
            _ => {}
        }
        Ok(())
    }

    /// Moves everything but the sparse map and the size into `entry`.
    pub(crate) fn apply(&mut self, entry: &mut Entry) {
        if let Some(path) = self.gnu_path.take().or(self.sparse.name.take()).or(self.path.take()) {
            entry.path = path;
        }
        if let Some(link) = self.gnu_link.take().or(self.link.take()) {
            entry.link = link;
        }
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.mtime = self.mtime.unwrap_or(entry.mtime);
        entry.atime = self.atime.or(entry.atime);
        for xattr in self.xattrs.drain(..).chain(self.libarchive_xattrs.drain(..)) {
            if !entry.xattrs.iter().any(|known| known.name == xattr.name) {
                entry.xattrs.push(xattr);
            }
        }
    }
}

/// The most xattrs of one entry.
const XATTR_LIMIT: usize = 4096;

fn push_xattr(list: &mut Vec<Xattr>, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
    if name.is_empty() || name.contains(&0) || list.len() == XATTR_LIMIT {
        return Err(bad("xattr"));
    }
    // Within one writer's records the last one wins.
    match list.iter_mut().find(|known| known.name == name) {
        Some(known) => known.value = value,
        None => list.push(Xattr { name, value }),
    }
    Ok(())
}

const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn without_nul(value: &[u8], name: &str) -> Result<Vec<u8>> {
    if value.contains(&0) { Err(bad(name)) } else { Ok(value.to_vec()) }
}

fn bad(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("a PAX header of the tar archive has a bad {what}"))
}

/// A number in decimal digits, nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// `[-]seconds[.fraction]`; digits behind the ninth are cut.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..dot])?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9)
        .fold(0, |value, index| value * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0')));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1700000000.25", Some((1_700_000_000, 250_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("99999999999999999999", None),
        ] {
            let expected = expected.map(|(seconds, nanoseconds)| Time { seconds, nanoseconds });
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records() {
        let mut ext = Extensions::default();
        ext.read(b"12 path=a/b\n19 linkpath=target\n10 uid=42\n\0\0\0").unwrap();
        assert_eq!(ext.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(ext.link.as_deref(), Some(&b"target"[..]));
        for bad in [
            &b"12 path=a/bX"[..],
            b"99 path=a\n",
            b"3 \n",
            b"path=a\n",
            b"x path=a\n",
            b"7 nope\n",
            b"11 path=a\0\n",
            b"0 path=a\n",
            b"18446744073709551616 path=a\n",
            b"13 uid=-1\n",
            b"9 uid=x\n",
            b"22 GNU.sparse.map=1\n",
            b"22 GNU.sparse.numbytes=1\n",
            b"\xff\xff",
        ] {
            assert!(Extensions::default().read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn libarchive_xattrs_yield_to_schily() {
        // Each record is between 10 and 99 bytes long.
        let record = |text: &str| format!("{} {text}\n", text.len() + 4);
        let all = [
            record("LIBARCHIVE.xattr.user.a%3D=eA"),
            record("SCHILY.xattr.user.b=two"),
            record("LIBARCHIVE.xattr.user.b=b3RoZXI="),
        ]
        .concat();
        let mut ext = Extensions::default();
        ext.read(all.as_bytes()).unwrap();
        let mut entry = Entry::default();
        ext.apply(&mut entry);
        let mut seen: Vec<_> = entry.xattrs.iter().map(|x| (&x.name[..], &x.value[..])).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(&b"user.a="[..], &b"x"[..]), (b"user.b", b"two")]);
    }
}
