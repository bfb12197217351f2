//! Quantities as Docker's users write them: sizes, durations, truth values, points in time.

use std::time::Duration;

use jiff::Timestamp;
use robot_env_diag::{Error, Result};

/// A size like `64`, `512m`, `1.5GB`, `64KiB`: bytes, units of 1024.
pub(crate) fn bytes(text: &str) -> Result<i64> {
    let bad = || {
        Error::invalid(format!("invalid size `{text}`"))
            .with_hint("write it like `64m`, `1g` or `1073741824`")
    };
    let number_end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad)? + 1;
    let (number, suffix) = text.split_at(number_end);
    let number: f64 = number.trim_end_matches(' ').parse().map_err(|_| bad())?;
    if !number.is_finite() || number < 0.0 {
        return Err(bad());
    }
    let suffix = suffix.to_ascii_lowercase();
    let power = match suffix.as_str() {
        "" | "b" => 0,
        _ => {
            let (unit, rest) = suffix.split_at(suffix.chars().next().map_or(0, char::len_utf8));
            if !matches!(rest, "" | "b" | "ib") {
                return Err(bad());
            }
            match unit {
                "k" => 1,
                "m" => 2,
                "g" => 3,
                "t" => 4,
                "p" => 5,
                _ => return Err(bad()),
            }
        }
    };
    let bytes = number * 1024f64.powi(power);
    if bytes < 9.2e18 { Ok(bytes as i64) } else { Err(bad()) }
}

/// Like [`bytes`], where `-1` means no limit.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// A duration as Go writes it: `300ms`, `1.5h`, `1m30s`, `0`; nanoseconds.
pub(crate) fn duration(text: &str) -> Result<i64> {
    let bad = || {
        Error::invalid(format!("invalid duration `{text}`"))
            .with_hint("write it like `300ms`, `30s` or `1m30s`")
    };
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut nanoseconds = 0f64;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(number_end);
        let number: f64 = number.parse().map_err(|_| bad())?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        nanoseconds += number
            * match unit {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
        rest = after;
    }
    if nanoseconds >= 9.2e18 {
        return Err(bad());
    }
    Ok(if negative { -(nanoseconds as i64) } else { nanoseconds as i64 })
}

/// The words that Go takes for truth values.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A point in time: RFC 3339 (whole, or a date, or without a zone: then the local one), seconds
/// since 1970 with a fraction, or a duration before `now`.
pub(crate) fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let bad = || {
        Error::invalid(format!("invalid time `{text}`"))
            .with_hint("write it like `2024-05-06T07:08:09Z`, `1715000000.5` or `42m` (so long ago)")
    };
    if let Ok(nanoseconds) = duration(text)
        && text != "0"
    {
        // What is to be removed "until" a time that has not come yet would be everything.
        let ago = u64::try_from(nanoseconds)
            .map_err(|_| Error::invalid(format!("invalid time `{text}`: it lies in the future")))?;
        return now.checked_sub(Duration::from_nanos(ago)).map_err(|_| bad());
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = seconds.parse::<i64>()
        && fraction.len() <= 9
        && fraction.bytes().all(|b| b.is_ascii_digit())
    {
        let nanoseconds: i32 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
        return Timestamp::new(seconds, nanoseconds).map_err(|_| bad());
    }
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|d| d.at(0, 0, 0, 0)));
    let zoned = local.and_then(|local| local.to_zoned(jiff::tz::TimeZone::system())).map_err(|_| bad())?;
    Ok(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("64KB", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("1 gb", 1 << 30),
            ("2t", 2 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1mm", "1bb", "1.2.3", "9999999p", "1é", "1 k b"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_or_unlimited("-1").unwrap(), -1);
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("300ms", 300_000_000),
            ("1.5h", 5_400_000_000_000),
            ("-2s", -2_000_000_000),
            ("5us", 5000),
            ("5µs", 5000),
            ("7ns", 7),
        ] {
            assert_eq!(duration(text).unwrap(), want, "{text}");
        }
        for bad in ["", "-", "1", "s", "1d", "1s2", ".s", "1..s", "999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (text, seconds) in [
            ("10m", 999_400),
            ("1970-01-02T00:00:00Z", 86400),
            ("86400", 86400),
            ("1970-01-02T01:00:00+01:00", 86400),
        ] {
            assert_eq!(moment(text, now).unwrap().as_second(), seconds, "{text}");
        }
        assert_eq!(moment("3.5", now).unwrap().as_nanosecond(), 3_500_000_000);
        assert!(moment("2024-05-06", now).is_ok() && moment("2024-05-06T07:08:09", now).is_ok());
        for bad in ["", "yesterday", "1.x", "2024-13-01"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }
}
