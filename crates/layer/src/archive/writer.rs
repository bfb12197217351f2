use super::{BLOCK, EntryKind, Segment, Time, Xattr, padding};

/// What an entry says, for writing.
#[derive(Clone, Debug)]
pub(crate) struct Meta<'a> {
    pub(crate) kind: EntryKind,
    /// Without a slash at its end, also for directories.
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) xattrs: &'a [Xattr],
    /// Length of the file in bytes.
    pub(crate) size: u64,
    /// The data of a sparse file, if it shall be written as one.
    pub(crate) sparse: Option<&'a [Segment]>,
}

/// Makes the headers of entries, canonically: ustar, and a PAX header only for what ustar cannot
/// say (long or non-ASCII names, large numbers, sub-second times, xattrs, sparse files in format
/// 1.0).
#[derive(Default)]
pub(crate) struct EntryWriter {
    records: Vec<u8>,
    out: Vec<u8>,
}

impl EntryWriter {
    /// The bytes in front of the payload, and the payload's length in the archive. Behind the
    /// payload belong [`padding`] bytes.
    pub(crate) fn headers(&mut self, meta: &Meta<'_>) -> (&[u8], u64) {
        self.out.clear();
        self.records.clear();
        let mut name = meta.path.to_vec();
        if meta.kind == EntryKind::Directory && !name.ends_with(b"/") {
            name.push(b'/');
        }
        let map = meta.sparse.map(sparse_map);
        let size = match (meta.kind, meta.sparse, &map) {
            (EntryKind::File, Some(segments), Some(map)) => {
                map.len() as u64 + segments.iter().map(|s| s.length).sum::<u64>()
            }
            (EntryKind::File, ..) => meta.size,
            _ => 0,
        };
        let mut block = [0; BLOCK];
        if map.is_some() {
            self.record(b"GNU.sparse.major", b"1");
            self.record(b"GNU.sparse.minor", b"0");
            self.record(b"GNU.sparse.name", &name);
            self.record(b"GNU.sparse.realsize", meta.size.to_string().as_bytes());
            let stand_in = stand_in(b"GNUSparseFile.0/", &name);
            block[..stand_in.len()].copy_from_slice(&stand_in);
        } else {
            match split(&name) {
                Some((prefix, rest)) if name.is_ascii() => {
                    block[..rest.len()].copy_from_slice(rest);
                    block[345..345 + prefix.len()].copy_from_slice(prefix);
                }
                _ => {
                    self.record(b"path", &name);
                    let cut = &name[..name.len().min(100)];
                    block[..cut.len()].copy_from_slice(cut);
                }
            }
        }
        let link = &meta.link[..meta.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        if meta.link.len() > 100 || !meta.link.is_ascii() {
            self.record(b"linkpath", meta.link);
        }
        octal(&mut block[100..108], u64::from(meta.mode & 0o7777));
        self.number(&mut block, 108..116, b"uid", u64::from(meta.uid));
        self.number(&mut block, 116..124, b"gid", u64::from(meta.gid));
        self.number(&mut block, 124..136, b"size", size);
        let whole = u64::try_from(meta.mtime.seconds).ok().filter(|s| *s < 1 << 33);
        octal(&mut block[136..148], whole.unwrap_or(0));
        if whole.is_none() || meta.mtime.nanoseconds != 0 {
            self.record(b"mtime", time(meta.mtime).as_bytes());
        }
        block[156] = match meta.kind {
            EntryKind::File | EntryKind::Nothing => b'0',
            EntryKind::Hardlink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::Char => b'3',
            EntryKind::Block => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        };
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(meta.kind, EntryKind::Char | EntryKind::Block) {
            device(&mut block[329..337], meta.major);
            device(&mut block[337..345], meta.minor);
        }
        for xattr in meta.xattrs {
            let key = [b"SCHILY.xattr.", &xattr.name[..]].concat();
            self.record(&key, &xattr.value);
        }
        if !self.records.is_empty() {
            let mut extended = [0; BLOCK];
            let stand_in = stand_in(b"PaxHeaders.0/", &name);
            extended[..stand_in.len()].copy_from_slice(&stand_in);
            octal(&mut extended[100..108], 0o644);
            octal(&mut extended[108..116], 0);
            octal(&mut extended[116..124], 0);
            octal(&mut extended[124..136], self.records.len() as u64);
            octal(&mut extended[136..148], 0);
            extended[156] = b'x';
            extended[257..265].copy_from_slice(b"ustar\x0000");
            seal(&mut extended);
            self.out.extend_from_slice(&extended);
            self.out.extend_from_slice(&self.records);
            let pad = padding(self.records.len() as u64) as usize;
            self.out.resize(self.out.len() + pad, 0);
        }
        seal(&mut block);
        self.out.extend_from_slice(&block);
        if let Some(map) = map {
            self.out.extend_from_slice(&map);
        }
        (&self.out, size)
    }

    /// An octal number, and a record beside it where the field is too small.
    fn number(&mut self, block: &mut [u8; BLOCK], range: std::ops::Range<usize>, key: &[u8], value: u64) {
        let most = 1_u64 << (3 * (range.len() - 1));
        if value < most {
            octal(&mut block[range], value);
        } else {
            octal(&mut block[range], 0);
            self.record(key, value.to_string().as_bytes());
        }
    }

    /// A PAX record; its length counts its own digits.
    fn record(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + digits(rest);
        length = rest + digits(length);
        self.records.extend_from_slice(length.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(key);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }
}

fn digits(n: usize) -> usize {
    n.to_string().len()
}

/// The map of a sparse file in format 1.0, padded to whole blocks.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut out = format!("{}\n", segments.len()).into_bytes();
    for segment in segments {
        out.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    let pad = padding(out.len() as u64) as usize;
    out.resize(out.len() + pad, 0);
    out
}

/// Splits a name into ustar's prefix and name; none if it does not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The last slash that leaves a prefix of at most 155 bytes and a name of 1 to 100 bytes.
    let last = name.len().checked_sub(2)?.min(155);
    let slash = name[..=last].iter().rposition(|b| *b == b'/')?;
    let rest = &name[slash + 1..];
    (slash > 0 && rest.len() <= 100).then_some((&name[..slash], rest))
}

/// A name of at most 100 ASCII bytes that shows where a helper entry belongs to.
fn stand_in(start: &[u8], name: &[u8]) -> Vec<u8> {
    let trimmed = name.strip_suffix(b"/").unwrap_or(name);
    let base = trimmed.rsplit(|b| *b == b'/').next().unwrap_or(trimmed);
    start.iter().chain(base).map(|b| if b.is_ascii_graphic() { *b } else { b'_' }).take(100).collect()
}

fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let text = format!("{value:0width$o}");
    field[..width].copy_from_slice(&text.as_bytes()[text.len() - width..]);
    field[width] = 0;
}

/// A device number; base-256 where octal is too small, which no Linux device number needs in
/// practice.
fn device(field: &mut [u8], value: u32) {
    if value < 1 << 21 {
        octal(field, value.into());
    } else {
        field[0] = 0x80;
        field[4..8].copy_from_slice(&value.to_be_bytes());
    }
}

fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

fn time(time: Time) -> String {
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - time.nanoseconds)
    } else if time.seconds < 0 {
        ("-", time.seconds.unsigned_abs(), 0)
    } else {
        ("", time.seconds.unsigned_abs(), time.nanoseconds)
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, NoTap, Reader, SourceOptions};
    use super::*;

    fn meta(path: &[u8]) -> Meta<'_> {
        Meta {
            kind: EntryKind::Symlink,
            path,
            link: b"x",
            mode: 0o777,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            major: 0,
            minor: 0,
            xattrs: &[],
            size: 0,
            sparse: None,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let long = vec![b'a'; 300];
        let deep = [&[b'd'; 120][..], b"/", &[b'f'; 90]].concat();
        let edge = [&[b'd'; 155][..], b"/", &[b'f'; 100]].concat();
        let odd = Xattr { name: b"user.k".to_vec(), value: b"\0\n=\xff".to_vec() };
        let plain = Xattr { name: b"security.capability".to_vec(), value: vec![1; 95] };
        let xattrs = [odd, plain];
        let mut table = vec![
            meta(b"short"),
            meta(&long),
            meta(&deep),
            meta(&edge),
            meta("ö/\u{1f600}".as_bytes()),
            meta(b"\xff\xfe"),
        ];
        for time in [(0, 1), (-1, 0), (-2, 500_000_000), (1 << 40, 0), (1 << 33, 7)] {
            table.push(Meta { mtime: Time { seconds: time.0, nanoseconds: time.1 }, ..meta(b"t") });
        }
        table.push(Meta { uid: u32::MAX - 1, gid: 1 << 21, ..meta(b"ids") });
        table.push(Meta { link: &long, ..meta(b"link") });
        table.push(Meta { xattrs: &xattrs, ..meta(b"caps") });
        table.push(Meta { kind: EntryKind::Char, major: 1 << 22, minor: 3, link: b"", ..meta(b"dev") });
        for case in &table {
            let mut writer = EntryWriter::default();
            let mut bytes = writer.headers(case).0.to_vec();
            assert_eq!(bytes.len() % BLOCK, 0);
            bytes.resize(bytes.len() + 2 * BLOCK, 0);
            let mut reader = Reader::new(&bytes[..], SourceOptions::default(), NoTap);
            let mut entry = Entry::default();
            assert!(reader.next(&mut entry).unwrap());
            assert_eq!(entry.path, case.path);
            assert_eq!(entry.link, case.link);
            assert_eq!((entry.mode, entry.uid, entry.gid), (case.mode, case.uid, case.gid));
            assert_eq!(entry.mtime, case.mtime);
            assert_eq!((entry.major, entry.minor), (case.major, case.minor));
            assert_eq!(entry.xattrs, case.xattrs);
            assert!(!reader.next(&mut entry).unwrap());
        }
    }
}
