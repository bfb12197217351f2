//! The few facts about an ELF file that a loader needs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Program headers that are looked at.
const HEADERS: u64 = 64;
/// Bytes of a dynamic section, and of a name, that are read.
const DYNAMIC: u64 = 64 << 10;
const NAME: usize = 512;
const PAGE: usize = 4096;

/// What a shared library says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elf {
    /// Its own name, where it has one.
    pub soname: Option<String>,
    /// `e_machine`.
    pub machine: u16,
    /// Whether its addresses have 64 bits.
    pub is_64: bool,
}

impl Elf {
    /// Reads a file's headers; `None` where it is no little-endian ELF file.
    pub fn read(path: &Path) -> Option<Elf> {
        let file = File::open(path).ok()?;
        let source = Source::new(&file)?;
        let ident = source.bytes(0, 64).filter(|bytes| bytes.len() >= 52)?;
        if ident.get(..4)? != b"\x7fELF" || ident[5] != 1 {
            return None;
        }
        let is_64 = ident[4] == 2;
        let machine = u16::from_le_bytes([ident[18], ident[19]]);
        let mut out = Elf { soname: None, machine, is_64 };
        out.soname = soname(&source, &ident, is_64);
        Some(out)
    }

    /// The flags of the loader's cache for this machine; `None` for one that is not known here.
    pub fn cache_flags(&self) -> Option<i32> {
        // glibc, sysdeps/generic/ldconfig.h: FLAG_ELF_LIBC6 with FLAG_X8664_LIB64, ...
        Some(match (self.machine, self.is_64) {
            (62, true) => 0x0303,
            (3, false) => 0x0003,
            (183, true) => 0x0a03,
            (40, false) => 0x0903,
            (243, true) => 0x1003,
            _ => return None,
        })
    }
}

/// A file whose first page, where the headers are, is read at once.
struct Source<'a> {
    file: &'a File,
    head: Vec<u8>,
}

impl<'a> Source<'a> {
    fn new(file: &'a File) -> Option<Self> {
        Some(Source { file, head: read(file, 0, PAGE)? })
    }

    /// So many bytes from there on, fewer where the file ends.
    fn bytes(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if start.checked_add(length).is_some_and(|end| end <= self.head.len()) || self.head.len() < PAGE {
            let rest = self.head.get(start..).unwrap_or_default();
            return Some(rest[..length.min(rest.len())].to_vec());
        }
        read(self.file, offset, length)
    }
}

/// A regular file gives all that is asked for, up to its end.
fn read(file: &File, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; length];
    loop {
        match file.read_at(&mut out, offset) {
            Ok(count) => {
                out.truncate(count);
                return Some(out);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut out = [0u8; 8];
    out[..size].copy_from_slice(bytes.get(at..at + size)?);
    Some(u64::from_le_bytes(out))
}

fn soname(source: &Source<'_>, header: &[u8], is_64: bool) -> Option<String> {
    let (offset_at, size_at, count_at) = if is_64 { (32, 54, 56) } else { (28, 42, 44) };
    let width = if is_64 { 8 } else { 4 };
    let table = word(header, offset_at, width)?;
    let size = word(header, size_at, 2)?;
    let count = word(header, count_at, 2)?.min(HEADERS);
    if size < if is_64 { 56 } else { 32 } {
        return None;
    }
    let headers = source.bytes(table, (size * count) as usize)?;
    // Offset, address and size in the file of a segment.
    let segment = |at: usize| -> Option<(u64, u64, u64)> {
        let (offset, address, length) = if is_64 { (8, 16, 32) } else { (4, 8, 16) };
        Some((
            word(&headers, at + offset, width)?,
            word(&headers, at + address, width)?,
            word(&headers, at + length, width)?,
        ))
    };
    let mut loads = Vec::new();
    let mut dynamic = None;
    for index in 0..count {
        let at = (index * size) as usize;
        match word(&headers, at, 4)? {
            1 => loads.push(segment(at)?),
            2 => dynamic = Some(segment(at)?),
            _ => {}
        }
    }
    let (offset, _, length) = dynamic?;
    let entries = source.bytes(offset, length.min(DYNAMIC) as usize)?;
    let (mut name, mut strings) = (None, None);
    for entry in entries.chunks_exact(width * 2) {
        match word(entry, 0, width)? {
            0 => break,
            5 => strings = word(entry, width, width),
            14 => name = word(entry, width, width),
            _ => {}
        }
    }
    let strings = strings?;
    let (offset, address, _) =
        loads.into_iter().find(|(_, address, length)| strings >= *address && strings - address < *length)?;
    let place = offset.checked_add(strings - address)?.checked_add(name?)?;
    let text = source.bytes(place, NAME)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    String::from_utf8(text[..end].to_vec()).ok().filter(|name| !name.is_empty() && !name.contains('/'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A shared library that is nothing but its name.
    pub(crate) fn library(soname: &str) -> Vec<u8> {
        let (machine, is_64) = if cfg!(target_arch = "aarch64") { (183u16, true) } else { (62, true) };
        library_of(soname, machine, is_64)
    }

    pub(crate) fn library_of(soname: &str, machine: u16, is_64: bool) -> Vec<u8> {
        let mut out = vec![0u8; 0x200];
        out[..4].copy_from_slice(b"\x7fELF");
        out[4] = if is_64 { 2 } else { 1 };
        out[5] = 1;
        out[18..20].copy_from_slice(&machine.to_le_bytes());
        let width = if is_64 { 8 } else { 4 };
        let put = |out: &mut Vec<u8>, at: usize, value: u64, width: usize| {
            out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        };
        let (size, offset_at, size_at, count_at) = if is_64 { (56, 32, 54, 56) } else { (32, 28, 42, 44) };
        put(&mut out, offset_at, 0x40, width);
        put(&mut out, size_at, size as u64, 2);
        put(&mut out, count_at, 2, 2);
        let (offset, address, length) = if is_64 { (8, 16, 32) } else { (4, 8, 16) };
        for (index, (kind, at, from, bytes)) in
            [(1u64, 0u64, 0x1000u64, 0x200u64), (2, 0x100, 0x1100, 0x40)].into_iter().enumerate()
        {
            let base = 0x40 + index * size;
            put(&mut out, base, kind, 4);
            put(&mut out, base + offset, at, width);
            put(&mut out, base + address, from, width);
            put(&mut out, base + length, bytes, width);
        }
        for (index, (tag, value)) in [(5u64, 0x1180u64), (14, 1), (0, 0)].into_iter().enumerate() {
            put(&mut out, 0x100 + index * 2 * width, tag, width);
            put(&mut out, 0x100 + index * 2 * width + width, value, width);
        }
        out[0x181..0x181 + soname.len()].copy_from_slice(soname.as_bytes());
        out
    }

    #[test]
    fn names_and_machines() {
        let place = robot_env_testkit::temporary::TemporaryDirectory::new("elf");
        for (machine, is_64, flags) in
            [(62, true, Some(0x303)), (3, false, Some(3)), (183, true, Some(0xa03)), (8, false, None)]
        {
            let path = place.join("lib");
            std::fs::write(&path, library_of("libx.so.1", machine, is_64)).unwrap();
            let elf = Elf::read(&path).unwrap();
            assert_eq!(elf.soname.as_deref(), Some("libx.so.1"), "{machine}");
            assert_eq!(elf.cache_flags(), flags, "{machine}");
        }
        // What a real loader wrote.
        let own = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6"];
        if let Some(path) = own.into_iter().find(|path| Path::new(path).exists()) {
            assert_eq!(Elf::read(Path::new(path)).unwrap().soname.as_deref(), Some("libc.so.6"));
        }
    }

    #[test]
    fn damaged_files_are_no_library() {
        let place = robot_env_testkit::temporary::TemporaryDirectory::new("elf-bad");
        let good = library("libx.so.1");
        let path = place.join("lib");
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            let _ = Elf::read(&path);
        }
        for at in 0..0x120 {
            let mut bad = good.clone();
            bad[at] = 0xff;
            std::fs::write(&path, &bad).unwrap();
            let _ = Elf::read(&path);
        }
    }
}
