//! Sizes and the like, as Docker writes them.

use std::net::IpAddr;
use std::time::Duration;

use crate::value::{Data, Value};

/// Bytes of a text like `64M`, `1.5g` or `100kb` (powers of 1024).
pub fn bytes_of(text: &str) -> Option<u64> {
    bytes(&Value { at: crate::value::Position::default(), data: Data::Text(text.to_owned()) })
}

/// Bytes: a number, or a text like `64M`, `1.5g` or `100kb` (powers of 1024).
pub(crate) fn bytes(value: &Value) -> Option<u64> {
    let text = match &value.data {
        Data::Integer(number) => return u64::try_from(*number).ok(),
        Data::Text(text) => text.trim().to_ascii_lowercase(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    let bytes = number * 1024f64.powi(power);
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

/// An address with a prefix.
pub(crate) fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= if address.is_ipv6() { 128 } else { 32 }).then_some((address, prefix))
}

/// A time: 0, or a text of numbers with the units d, h, m and s, like `24h` or `1h30m`.
pub(crate) fn duration(value: &Value) -> Option<Duration> {
    let text = match &value.data {
        Data::Integer(0) => return Some(Duration::ZERO),
        Data::Text(text) => text.trim(),
        _ => return None,
    };
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0u64, text);
    while !rest.is_empty() {
        let at = rest.find(|c: char| !c.is_ascii_digit())?;
        let unit = match rest.as_bytes()[at] {
            b'd' => 86400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(rest[..at].parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = &rest[at + 1..];
    }
    // A hundred years are for ever.
    (!text.is_empty() && seconds <= 100 * 366 * 86400).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Position;

    fn text(text: &str) -> Value {
        Value { at: Position::default(), data: Data::Text(text.into()) }
    }

    #[test]
    fn times() {
        for (written, want) in [
            ("24h", Some(86400)),
            ("1h30m", Some(5400)),
            ("2d", Some(172_800)),
            ("90s", Some(90)),
            ("0", Some(0)),
            ("", None),
            ("24", None),
            ("h", None),
            ("-1h", None),
            ("1.5h", None),
            ("1x", None),
            ("99999999999999999999d", None),
            ("99999999d", None),
        ] {
            assert_eq!(duration(&text(written)).map(|time| time.as_secs()), want, "{written}");
        }
    }

    #[test]
    fn sizes() {
        for (given, want) in [
            ("64M", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("100kb", Some(102_400)),
            ("1.5 GiB", Some(3 << 29)),
            ("7", Some(7)),
            ("0", Some(0)),
            ("", None),
            ("x", None),
            ("1q", None),
            ("-1", None),
            ("1e30g", None),
        ] {
            assert_eq!(bytes(&text(given)), want, "{given}");
        }
        assert_eq!(bytes(&Value { at: Position::default(), data: Data::Integer(-1) }), None);
    }
}
