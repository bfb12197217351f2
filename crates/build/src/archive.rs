//! Archives that `ADD` unpacks.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use robot_env_diag::{IoContext, Result};
use robot_env_layer::Decoder;

/// Where a tar's magic stands in its first header, in bytes.
const MAGIC: std::ops::Range<usize> = 257..262;

/// What a file holds, decompressed: gzip, zstd, xz and bzip2 are known by their first bytes. It is
/// read from its start.
pub(crate) fn decompressed(mut file: File) -> Result<Box<dyn Read + Send>> {
    file.seek(SeekFrom::Start(0)).io_context(|| "seek()".into())?;
    let mut start = [0u8; 6];
    let length = file.read_at(&mut start, 0).io_context(|| "cannot read the archive".into())?;
    Ok(match &start[..length] {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(lzma_rust2::XzReader::new(BufReader::with_capacity(1 << 17, file), true))
        }
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Box::new(bzip2::read::MultiBzDecoder::new(file)),
        _ => Box::new(Decoder::new(file)?),
    })
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
