//! Points in time, as Go's JSON has them.

use jiff::Timestamp;

/// What stands for "never".
pub const ZERO: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with nanoseconds, trailing zeros left away, in UTC.
pub fn rfc3339(when: Timestamp) -> String {
    when.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        for (text, want) in [
            ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
            ("2024-05-06T07:08:09.120Z", "2024-05-06T07:08:09.12Z"),
            ("2024-05-06T07:08:09.000000001Z", "2024-05-06T07:08:09.000000001Z"),
        ] {
            assert_eq!(rfc3339(text.parse().unwrap()), want);
        }
    }
}
