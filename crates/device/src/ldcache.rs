//! `/etc/ld.so.cache`: where the loader looks libraries up (glibc, `sysdeps/generic/dl-cache.h`).
//!
//! Read to find a driver's directories, and written so that a container finds the libraries that
//! were put into it without a program like `ldconfig`, which an image may not have.

use std::cmp::Ordering;

/// How the format since glibc 2.2 begins.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// How the older one begins, behind which the newer one follows.
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// An entry's `hwcap` is an index into the list of names then.
const NAMED: u64 = 1 << 62;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const NAMES_TAG: u32 = 1;
const LITTLE_ENDIAN: u8 = 2;

/// A library in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name that programs ask for.
    pub name: String,
    /// The file.
    pub path: String,
    /// What kind of file it is: see [`crate::elf::Elf::cache_flags`].
    pub flags: i32,
    /// Hardware that the file needs, as a set of bits (before glibc 2.33).
    pub hardware: u64,
    /// The subdirectory of `glibc-hwcaps` that it is in.
    pub level: Option<String>,
}

/// The whole cache: sorted, and of entries with one name the first that fits is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// Its libraries.
    pub entries: Vec<Entry>,
}

impl Cache {
    /// Reads a cache; `None` where the bytes are none.
    pub fn parse(bytes: &[u8]) -> Option<Cache> {
        let bytes = newer(bytes)?;
        let count = number(bytes, 20)? as usize;
        let names = levels(bytes).unwrap_or_default();
        if count > bytes.len() / ENTRY {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for index in 0..count {
            let at = HEADER + index * ENTRY;
            let hardware = u64::from(number(bytes, at + 16)?) | u64::from(number(bytes, at + 20)?) << 32;
            let level = if hardware & NAMED == 0 {
                None
            } else {
                Some(names.get((hardware & 0xffff_ffff) as usize)?.clone())
            };
            entries.push(Entry {
                flags: number(bytes, at)?.cast_signed(),
                name: text(bytes, number(bytes, at + 4)?)?,
                path: text(bytes, number(bytes, at + 8)?)?,
                hardware: if level.is_some() { 0 } else { hardware },
                level,
            });
        }
        Some(Cache { entries })
    }

    /// Puts libraries before all others of their names; an older entry for the same file goes.
    pub fn prefer(&mut self, libraries: impl IntoIterator<Item = Entry>) {
        let first: Vec<Entry> = libraries.into_iter().collect();
        self.entries.retain(|had| !first.iter().any(|new| new.path == had.path && new.name == had.name));
        self.entries.splice(0..0, first);
    }

    /// The cache's bytes. Entries of one name keep their order, with those for special hardware
    /// first, as the loader wants it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by(|a, b| compare(b.name.as_bytes(), a.name.as_bytes()));
        let mut levels: Vec<&str> = entries.iter().filter_map(|entry| entry.level.as_deref()).collect();
        levels.sort_unstable();
        levels.dedup();

        let mut strings = Vec::new();
        let start = HEADER + entries.len() * ENTRY;
        let mut keep = |text: &str| -> u32 {
            let at = start + strings.len();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at as u32
        };
        let mut table = Vec::with_capacity(entries.len() * ENTRY);
        for entry in &entries {
            let hardware = match &entry.level {
                Some(level) => NAMED | levels.iter().position(|l| l == level).unwrap_or(0) as u64,
                None => entry.hardware,
            };
            table.extend(entry.flags.to_le_bytes());
            table.extend(keep(&entry.name).to_le_bytes());
            table.extend(keep(&entry.path).to_le_bytes());
            table.extend(0u32.to_le_bytes());
            table.extend(hardware.to_le_bytes());
        }
        let level_texts: Vec<u32> = levels.iter().map(|level| keep(level)).collect();

        let mut out = MAGIC.to_vec();
        out.extend((entries.len() as u32).to_le_bytes());
        out.extend((strings.len() as u32).to_le_bytes());
        out.extend([LITTLE_ENDIAN, 0, 0, 0]);
        let extension = (start + strings.len()).next_multiple_of(4);
        out.extend(if levels.is_empty() { 0u32 } else { extension as u32 }.to_le_bytes());
        out.resize(HEADER, 0);
        out.extend(table);
        out.extend(strings);
        if !levels.is_empty() {
            out.resize(extension, 0);
            let data = extension + 8 + 16;
            for word in [EXTENSION_MAGIC, 1, NAMES_TAG, 0, data as u32, (levels.len() * 4) as u32] {
                out.extend(word.to_le_bytes());
            }
            for text in level_texts {
                out.extend(text.to_le_bytes());
            }
        }
        out
    }
}

/// The newer format's bytes, from its header on.
fn newer(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.starts_with(MAGIC) {
        return Some(bytes);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return None;
    }
    let old = number(bytes, 12)? as usize;
    let start = old.checked_mul(12)?.checked_add(16)?.next_multiple_of(8);
    let rest = bytes.get(start..)?;
    rest.starts_with(MAGIC).then_some(rest)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn text(bytes: &[u8], at: u32) -> Option<String> {
    let rest = bytes.get(at as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

/// The names of `glibc-hwcaps` directories.
fn levels(bytes: &[u8]) -> Option<Vec<String>> {
    let at = number(bytes, 32)? as usize;
    if at == 0 || number(bytes, at)? != EXTENSION_MAGIC {
        return None;
    }
    for section in 0..number(bytes, at + 4)?.min(16) as usize {
        let here = at + 8 + section * 16;
        if number(bytes, here)? == NAMES_TAG {
            let (start, size) = (number(bytes, here + 8)? as usize, number(bytes, here + 12)? as usize);
            let count = (size / 4).min(bytes.len() / 4);
            return (0..count).map(|index| text(bytes, number(bytes, start + index * 4)?)).collect();
        }
    }
    None
}

/// glibc's order of names (`_dl_cache_libcmp`): digits count as numbers.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    fn digits(text: &mut &[u8]) -> i32 {
        let mut value = 0i32;
        while let Some((&first, rest)) = text.split_first().filter(|(byte, _)| byte.is_ascii_digit()) {
            value = value.wrapping_mul(10).wrapping_add(i32::from(first - b'0'));
            *text = rest;
        }
        value
    }
    loop {
        match (a.first().copied(), b.first().copied()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(x), y) if x.is_ascii_digit() => {
                if !y.is_some_and(|y| y.is_ascii_digit()) {
                    return Ordering::Greater;
                }
                match digits(&mut a).cmp(&digits(&mut b)) {
                    Ordering::Equal => {}
                    other => return other,
                }
            }
            (Some(_), Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(x), y) => {
                let y = y.unwrap_or(0);
                if x != y {
                    return x.cmp(&y);
                }
                (a, b) = (&a[1..], &b[1..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, path: &str) -> Entry {
        Entry { name: name.into(), path: path.into(), flags: 0x303, hardware: 0, level: None }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut cache =
            Cache { entries: vec![entry("libz.so.1", "/lib/libz.so.1"), entry("liba.so.10", "/a10")] };
        cache.entries.push(Entry { level: Some("x86-64-v3".into()), ..entry("libz.so.1", "/v3/libz.so.1") });
        cache.entries.push(entry("liba.so.9", "/a9"));
        let read = Cache::parse(&cache.to_bytes()).unwrap();
        let names: Vec<&str> = read.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(names, ["/lib/libz.so.1", "/v3/libz.so.1", "/a10", "/a9"], "sorted, numbers as numbers");
        assert_eq!(read.entries[1].level.as_deref(), Some("x86-64-v3"));
        assert_eq!(Cache::parse(&read.to_bytes()).unwrap(), read);
    }

    #[test]
    fn what_is_preferred_comes_first() {
        let mut cache = Cache { entries: vec![entry("libcuda.so.1", "/image/libcuda.so.1")] };
        cache.prefer([entry("libcuda.so.1", "/host/libcuda.so.1")]);
        cache.prefer([entry("libcuda.so.1", "/host/libcuda.so.1")]);
        let read = Cache::parse(&cache.to_bytes()).unwrap();
        let paths: Vec<&str> = read.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["/host/libcuda.so.1", "/image/libcuda.so.1"]);
    }

    #[test]
    fn the_old_format_in_front_is_skipped() {
        let new = Cache { entries: vec![entry("liba.so", "/a")] }.to_bytes();
        let mut old = b"ld.so-1.7.0\0".to_vec();
        old.extend(1u32.to_le_bytes());
        old.extend([0; 12]);
        old.resize(old.len().next_multiple_of(8), 0);
        old.extend(&new);
        assert_eq!(Cache::parse(&old).unwrap().entries[0].path, "/a");
    }

    #[test]
    fn damage_is_no_panic() {
        let bytes =
            Cache { entries: vec![Entry { level: Some("v3".into()), ..entry("liba.so", "/a") }] }.to_bytes();
        for length in 0..bytes.len() {
            let _ = Cache::parse(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let _ = Cache::parse(&bad);
        }
    }

    #[test]
    fn a_real_cache_survives() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let cache = Cache::parse(&bytes).unwrap();
        assert!(cache.entries.iter().any(|e| e.name.starts_with("libc.so")), "it knows libc");
        let again = Cache::parse(&cache.to_bytes()).unwrap();
        assert_eq!(again, cache, "the order that ldconfig made is ours");
    }
}
