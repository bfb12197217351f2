//! The query of a request.

use jiff::Timestamp;

use crate::failure::{Failure, Result};
use crate::http::percent_decode;

/// Keys and values, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=2`. What is no text is left out.
    pub(crate) fn parse(text: &str) -> Query {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        });
        Query(pairs.collect())
    }

    /// The first value of a key, if it is not empty.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(own, _)| own == key);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Whether a key is true, as Docker reads it: anything but nothing, 0, no, false and none.
    pub(crate) fn truth(&self, key: &str) -> bool {
        let value = self.text(key).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// The same with what is meant when the key is not there.
    pub(crate) fn truth_or(&self, key: &str, otherwise: bool) -> bool {
        if self.all(key).next().is_some() { self.truth(key) } else { otherwise }
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let number = text.trim().parse();
        number
            .map(Some)
            .map_err(|_| Failure::new(400, format!("invalid value `{text}` for {key}: it is not a number")))
    }

    /// A moment: seconds since the epoch with a fraction, or RFC 3339. Nothing and 0 are absent.
    pub(crate) fn moment(&self, key: &str) -> Result<Option<Timestamp>> {
        match self.text(key) {
            None | Some("0") => Ok(None),
            Some(text) => moment(text).map(Some).ok_or_else(|| {
                Failure::new(400, format!("invalid value for \"{key}\": `{text}` is no moment"))
            }),
        }
    }
}

/// Seconds since the epoch, with a fraction, or RFC 3339 with or without a zone.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = whole.parse::<i64>() {
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let nine: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanoseconds: i32 = nine.parse().ok()?;
        return Timestamp::new(seconds, if whole.starts_with('-') { -nanoseconds } else { nanoseconds }).ok();
    }
    text.parse::<Timestamp>().ok().or_else(|| {
        let civil = text
            .parse::<jiff::civil::DateTime>()
            .ok()
            .or_else(|| text.parse::<jiff::civil::Date>().ok().map(|date| date.at(0, 0, 0, 0)))?;
        civil.to_zoned(jiff::tz::TimeZone::system()).ok().map(|zoned| zoned.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_as_clients_write_it() {
        for (text, want) in [
            ("a=1", true),
            ("a=true", true),
            ("a=True", true),
            ("a=0", false),
            ("a=False", false),
            ("a", false),
            ("", false),
            ("a=&b=1", false),
        ] {
            assert_eq!(Query::parse(text).truth("a"), want, "{text}");
        }
        let query = Query::parse("names=a%2Fb&names=c+d&x=%zz");
        assert_eq!(query.all("names").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert_eq!(query.text("x"), None);
    }

    #[test]
    fn moments() {
        let nanoseconds = |text: &str| moment(text).map(Timestamp::as_nanosecond);
        assert_eq!(nanoseconds("1.5"), Some(1_500_000_000));
        assert_eq!(nanoseconds("1700000000.000000001"), Some(1_700_000_000_000_000_001));
        assert_eq!(nanoseconds("1970-01-01T00:00:02Z"), Some(2_000_000_000));
        for bad in ["x", "1.x", "--1"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }
}
