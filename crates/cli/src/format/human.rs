//! Sizes and times as people read them (Docker's go-units).

use jiff::Timestamp;

use super::number::significant;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

fn size(bytes: f64, base: f64, units: &[&str; 9], digits: usize) -> String {
    let (mut value, mut unit) = (bytes, 0);
    while value >= base && unit < units.len() - 1 {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), units[unit])
}

/// `72.84MB`: units of 1000, four digits.
pub(crate) fn decimal(bytes: u64) -> String {
    size(bytes as f64, 1000.0, &DECIMAL, 4)
}

/// `72.8MB`: units of 1000, three digits, as lists show sizes.
pub(crate) fn short(bytes: u64) -> String {
    size(bytes as f64, 1000.0, &DECIMAL, 3)
}

/// `69.46MiB`: units of 1024, four digits.
pub(crate) fn binary(bytes: u64) -> String {
    size(bytes as f64, 1024.0, &BINARY, 4)
}

/// `2 hours ago`.
pub(crate) fn ago(when: Timestamp, now: Timestamp) -> String {
    format!("{} ago", robot_env_wire::human_duration(now.as_second() - when.as_second()))
}

/// `2024-05-06 07:08:09 +0200 CEST`, as lists print points in time.
pub(crate) fn local_time(when: Timestamp) -> String {
    when.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, want) in
            [(0, "0B"), (999, "999B"), (1000, "1kB"), (72_840_000, "72.84MB"), (1_234_567_890, "1.235GB")]
        {
            assert_eq!(decimal(bytes), want);
        }
        for (bytes, want) in
            [(0, "0B"), (72_840_000, "72.8MB"), (4_860_000, "4.86MB"), (117_000_000, "117MB")]
        {
            assert_eq!(short(bytes), want);
        }
        for (bytes, want) in [(0, "0B"), (1024, "1KiB"), (8_232_000_000, "7.667GiB")] {
            assert_eq!(binary(bytes), want);
        }
    }
}
