//! What a registry says with its status: error codes, waiting times.

use std::fmt;
use std::time::{Duration, SystemTime};

use robot_env_diag::{Error, Kind};
use ureq::http::{HeaderMap, StatusCode, header};

use crate::transport::excerpt;

/// The largest error document that is read, in bytes.
pub(crate) const ERROR_LIMIT: u64 = 64 * 1024;

/// A status and the registry's own words, bounded: data, shown as such.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    words: String,
}

impl Said {
    pub(crate) fn read(status: StatusCode, body: &[u8]) -> Self {
        let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let first = document.get("errors").and_then(|errors| errors.get(0));
        let text = |value: Option<&serde_json::Value>| {
            value.and_then(|v| v.as_str()).map(excerpt).filter(|t| !t.is_empty())
        };
        let code = text(first.and_then(|e| e.get("code")));
        let message = text(first.and_then(|e| e.get("message")))
            .or_else(|| text(document.get("details")))
            .or_else(|| text(document.get("message")))
            .or_else(|| text(document.get("error_description")));
        let words = match (code, message) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => String::new(),
        };
        Said { status, words }
    }

    /// The error that the status of `host` stands for.
    pub(crate) fn error(&self, host: &str) -> Error {
        let kind = match self.status.as_u16() {
            401 => Kind::Unauthorized,
            403 => Kind::Denied,
            404 => Kind::NotFound,
            429 | 500..=599 | 408 => Kind::Unavailable,
            400 | 405 | 413 | 415 | 416 => Kind::InvalidInput,
            409 => Kind::Conflict,
            _ => Kind::Internal,
        };
        Error::new(kind, format!("registry `{host}` answers {self}"))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        if let Some(reason) = self.status.canonical_reason() {
            write!(f, " {reason}")?;
        }
        if self.words.is_empty() { Ok(()) } else { write!(f, " ({})", self.words) }
    }
}

/// How long a `Retry-After` header asks to wait: seconds, or a date, which is compared with the
/// answer's own `Date` so that a wrong clock here does not matter.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(text)?;
    let now = headers
        .get(header::DATE)
        .and_then(|date| http_date(date.to_str().ok()?))
        .or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs()))?;
    Some(Duration::from_secs(until.saturating_sub(now)))
}

/// Seconds since 1970 of a date like `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        .iter()
        .position(|m| *m == month)? as u64;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if parts.next() != Some("GMT")
        || !(1970..=9999).contains(&year)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since 1970-01-01, with the year beginning in March (month 0).
    let (y, m) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dates() {
        for (text, want) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("Sun, 06 Nov", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), want, "{text}");
        }
    }

    #[test]
    fn reads_waiting_times() {
        let headers = |pairs: &[(header::HeaderName, &str)]| {
            pairs.iter().map(|(k, v)| (k.clone(), v.parse().unwrap())).collect::<HeaderMap>()
        };
        assert_eq!(retry_after(&headers(&[(header::RETRY_AFTER, "7")])), Some(Duration::from_secs(7)));
        let dated = headers(&[
            (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:49:47 GMT"),
            (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        assert_eq!(retry_after(&dated), Some(Duration::from_secs(10)));
        assert_eq!(retry_after(&headers(&[(header::RETRY_AFTER, "soon")])), None);
        assert_eq!(retry_after(&headers(&[])), None);
    }

    #[test]
    fn words_of_the_registry_are_bounded() {
        let said = Said::read(
            StatusCode::NOT_FOUND,
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        );
        assert_eq!(
            said.error("lab").to_string(),
            "registry `lab` answers 404 Not Found (MANIFEST_UNKNOWN: manifest unknown)"
        );
        assert_eq!(said.error("lab").kind(), Kind::NotFound);
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(10_000));
        assert!(Said::read(StatusCode::BAD_REQUEST, long.as_bytes()).to_string().len() < 400);
        assert_eq!(Said::read(StatusCode::BAD_GATEWAY, b"<html>").to_string(), "502 Bad Gateway");
    }
}
