use robot_env_diag::{Error, Kind, Result};

use super::BLOCK;

/// Which dialect a header block speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block whose checksum is right.
pub(crate) struct Header<'a>(pub(crate) &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Checks the block's checksum (sums of unsigned and of signed bytes are both in use).
    pub(crate) fn check(block: &'a [u8; BLOCK]) -> Result<Self> {
        let stated = number(&block[148..156]).ok_or_else(|| bad("checksum"))?;
        let sum = |byte: fn(u8) -> i64| -> i64 {
            let all: i64 = block.iter().map(|b| byte(*b)).sum();
            let own: i64 = block[148..156].iter().map(|b| byte(*b)).sum();
            all - own + 8 * 32
        };
        if stated != sum(i64::from) && stated != sum(|b| i64::from(b.cast_signed())) {
            return Err(Error::new(Kind::Corrupt, "the checksum of a tar header does not match"));
        }
        Ok(Header(block))
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] => {
                if &self.0[508..512] == b"tar\0" {
                    Dialect::Star
                } else {
                    Dialect::Ustar
                }
            }
            _ => Dialect::V7,
        }
    }

    pub(crate) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name with its prefix, appended to `out`.
    pub(crate) fn path(&self, out: &mut Vec<u8>) {
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.0[345..500]),
            Dialect::Star => text(&self.0[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if !prefix.is_empty() {
            out.extend_from_slice(prefix);
            out.push(b'/');
        }
        out.extend_from_slice(text(&self.0[0..100]));
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    pub(crate) fn mode(&self) -> Result<u32> {
        // Some writers put the file type into the mode; only the permission bits count.
        Ok((number(&self.0[100..108]).ok_or_else(|| bad("mode"))? & 0o7777) as u32)
    }

    pub(crate) fn uid(&self) -> Result<u32> {
        number(&self.0[108..116]).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("user id"))
    }

    pub(crate) fn gid(&self) -> Result<u32> {
        number(&self.0[116..124]).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("group id"))
    }

    pub(crate) fn size(&self) -> Result<u64> {
        number(&self.0[124..136]).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| bad("size"))
    }

    pub(crate) fn mtime(&self) -> Result<i64> {
        number(&self.0[136..148]).ok_or_else(|| bad("modification time"))
    }

    pub(crate) fn device(&self) -> Result<(u32, u32)> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let field =
            |range| number(&self.0[range]).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| bad("device"));
        Ok((field(329..337)?, field(337..345)?))
    }
}

fn bad(field: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the {field} in a tar header is no number"))
}

/// A field's text up to its first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// A number: octal text between spaces and NULs (an empty one is 0), or base-256.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    if let Some(first) = field.first().filter(|b| **b & 0x80 != 0) {
        let negative = first & 0x40 != 0;
        // Two's complement, big endian; the top bit of the first byte is the mark.
        let mut value: i64 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 { if negative { byte | 0x80 } else { byte & 0x7f } } else { *byte };
            if !((i64::MIN >> 8)..=(i64::MAX >> 8)).contains(&value) {
                return None;
            }
            value = (value << 8) | i64::from(byte);
        }
        return Some(value);
    }
    let is_blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000689\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\0\0\x05", Some(5)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\xff\0\0\0\0\0\0\0\0\0\0", None),
            (b"777777777777", Some(0o777777777777)),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
