//! Sizes and the like, as Docker writes them.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Position;

    fn text(text: &str) -> Value {
        Value { at: Position::default(), data: Data::Text(text.into()) }
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
