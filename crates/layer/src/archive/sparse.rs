use robot_env_diag::{Error, Kind, Result};

use super::header::number;
use super::pax::decimal;
use super::{BLOCK, Segment};

/// The most segments of one sparse file.
pub(crate) const SEGMENT_LIMIT: usize = 1 << 18;

/// Reads the offset and length pairs in a GNU header or extension block, up to an empty pair.
pub(crate) fn old_gnu_pairs(pairs: &[u8], map: &mut Vec<Segment>) -> Result<()> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let field = |range| number(&pair[range]).and_then(|n| u64::try_from(n).ok()).ok_or_else(bad);
        push(map, Segment { offset: field(0..12)?, length: field(12..24)? })?;
    }
    Ok(())
}

/// Adds a segment, within the limit.
pub(crate) fn push(map: &mut Vec<Segment>, segment: Segment) -> Result<()> {
    if map.len() == SEGMENT_LIMIT {
        return Err(Error::new(
            Kind::Corrupt,
            format!("a sparse file of the tar archive has more than {SEGMENT_LIMIT} pieces"),
        ));
    }
    map.push(segment);
    Ok(())
}

/// Checks that a map is sorted, does not overlap, lies within the file and has `size` bytes.
pub(crate) fn check(map: &[Segment], size: u64, real_size: u64) -> Result<()> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in map {
        if segment.offset < end {
            return Err(bad());
        }
        end = segment.offset.checked_add(segment.length).ok_or_else(bad)?;
        sum += segment.length; // no overflow: the segments do not overlap
    }
    if end > real_size || sum != size || i64::try_from(real_size).is_err() {
        return Err(bad());
    }
    Ok(())
}

/// Reads a PAX 1.0 map, which stands in front of the payload: decimal numbers, one a line; first
/// the count of pairs. Fed block by block.
#[derive(Default)]
pub(crate) struct MapReader {
    digits: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    map: Vec<Segment>,
}

impl MapReader {
    /// Takes a block; true when the map is complete (the rest of that block is padding).
    pub(crate) fn feed(&mut self, block: &[u8; BLOCK]) -> Result<bool> {
        for byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            if *byte != b'\n' {
                if self.digits.len() == 20 {
                    return Err(bad());
                }
                self.digits.push(*byte);
                continue;
            }
            let value = decimal(&self.digits).ok_or_else(bad)?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(value),
                (Some(_), None) => self.offset = Some(value),
                (Some(_), Some(offset)) => push(&mut self.map, Segment { offset, length: value })?,
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.count == Some(self.map.len() as u64)
    }

    pub(crate) fn finish(self) -> Vec<Segment> {
        self.map
    }
}

pub(crate) fn bad() -> Error {
    Error::new(Kind::Corrupt, "a sparse file of the tar archive has a bad map")
}
