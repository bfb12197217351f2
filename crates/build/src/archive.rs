//! Archives that `ADD` unpacks, and those that contexts come in.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};

use robot_env_diag::{IoContext, Result};
use robot_env_layer::Decoder;

/// Where a tar's magic stands in its first header, in bytes.
const MAGIC: std::ops::Range<usize> = 257..262;

/// The first bytes, which tell what compressed the rest, and the rest.
type Whole<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// What a stream holds, decompressed.
pub(crate) enum Decompressed<R: Read> {
    Xz(Box<lzma_rust2::XzReader<BufReader<Whole<R>>>>),
    Bzip2(Box<bzip2::read::MultiBzDecoder<Whole<R>>>),
    Other(Box<Decoder<'static, Whole<R>>>),
}

impl<R: Read> Decompressed<R> {
    /// gzip, zstd, xz and bzip2 are known by their first bytes.
    pub(crate) fn new(mut input: R) -> Result<Decompressed<R>> {
        let mut start = Vec::new();
        input.by_ref().take(6).read_to_end(&mut start).io_context(|| "cannot read the archive".into())?;
        let kind = start.clone();
        let whole = Cursor::new(start).chain(input);
        Ok(match kind[..] {
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Decompressed::Xz(Box::new(lzma_rust2::XzReader::new(
                BufReader::with_capacity(1 << 17, whole),
                true,
            ))),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
                Decompressed::Bzip2(Box::new(bzip2::read::MultiBzDecoder::new(whole)))
            }
            _ => Decompressed::Other(Box::new(Decoder::new(whole)?)),
        })
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressed::Xz(reader) => reader.read(out),
            Decompressed::Bzip2(reader) => reader.read(out),
            Decompressed::Other(reader) => reader.read(out),
        }
    }
}

/// What a file holds, decompressed. It is read from its start.
pub(crate) fn decompressed(mut file: File) -> Result<Decompressed<File>> {
    file.seek(SeekFrom::Start(0)).io_context(|| "seek()".into())?;
    Decompressed::new(file)
}

/// Whether a file is a tar, plain or compressed; it is read from its start afterwards.
pub(crate) fn is_archive(file: &mut File) -> Result<bool> {
    let stat = rustix::fs::fstat(&*file).io_context(|| "fstat()".into())?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Ok(false);
    }
    let mut start = [0u8; 512];
    let mut filled = 0;
    let mut reader = decompressed(file.try_clone().io_context(|| "dup()".into())?)?;
    while filled < start.len() {
        match reader.read(&mut start[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => filled += n,
        }
    }
    drop(reader);
    file.seek(SeekFrom::Start(0)).io_context(|| "seek()".into())?;
    Ok(filled == start.len() && is_header(&start))
}

/// Whether these bytes begin a tar. A header without a magic is known by its checksum.
pub(crate) fn is_header(header: &[u8; 512]) -> bool {
    if &header[MAGIC] == b"ustar" {
        return true;
    }
    let text = std::str::from_utf8(&header[148..156]).unwrap_or_default();
    let Ok(wanted) = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = |range: std::ops::Range<usize>| header[range].iter().map(|byte| u32::from(*byte)).sum::<u32>();
    header[0] != 0 && wanted == sum(0..148) + sum(156..512) + 8 * u32::from(b' ')
}
