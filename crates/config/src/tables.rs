//! TOML with places.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::json::SyntaxError;
use crate::value::{Data, Entry, Position, Value};

/// Reads a document; where it is not TOML, every place that is wrong.
pub(crate) fn parse(text: &str) -> Result<Value, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Value { at: Position::default(), data: entries(text, table.into_inner()) });
    }
    Err(errors
        .iter()
        .map(|error| SyntaxError {
            at: error.span().map_or_else(Position::default, |span| Position::of(text, span.start)),
            message: error.message().replace('\n', ", "),
        })
        .collect())
}

fn entries(text: &str, table: DeTable<'_>) -> Data {
    let mut all: Vec<(usize, Entry)> = table
        .into_iter()
        .map(|(key, found)| {
            let start = key.span().start;
            let at = Position::of(text, start);
            (start, Entry { key: key.into_inner().into_owned(), at, value: value(text, found) })
        })
        .collect();
    all.sort_by_key(|(start, _)| *start);
    Data::Table(all.into_iter().map(|(_, entry)| entry).collect())
}

fn value(text: &str, found: Spanned<DeValue<'_>>) -> Value {
    let at = Position::of(text, found.span().start);
    let data = match found.into_inner() {
        DeValue::String(text) => Data::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            i64::from_str_radix(digits, number.radix())
                .map_or_else(|_| Data::Number(digits.to_owned()), Data::Integer)
        }
        DeValue::Float(number) => Data::Number(number.as_str().to_owned()),
        DeValue::Boolean(value) => Data::Bool(value),
        DeValue::Datetime(time) => Data::Text(time.to_string()),
        DeValue::Array(items) => Data::List(items.into_iter().map(|item| value(text, item)).collect()),
        DeValue::Table(table) => entries(text, table),
    };
    Value { at, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_places() {
        let text = "a = 1\nlist = [\"x\",\n  true]\n[t.\"u.v\"]\nk = 0x1F\nf = 1.5\nd = 2020-01-01\n";
        let read = parse(text).unwrap();
        assert_eq!(
            read.to_json(),
            serde_json::json!({"a": 1, "list": ["x", true], "t": {"u.v": {"k": 31, "f": 1.5, "d": "2020-01-01"}}})
        );
        assert_eq!(read.get("list").unwrap().items().unwrap()[1].at.to_string(), "3:3");
        let inner = &read.get("t").unwrap().entries().unwrap()[0];
        assert_eq!((inner.key.as_str(), inner.value.get("k").unwrap().at.to_string()), ("u.v", "5:5".into()));
    }

    #[test]
    fn errors_have_their_places() {
        for (text, line) in [("a = \nb = 1\n", 1), ("a = 1\n[t\n", 2), ("a = 1\na = 2\n", 2), ("a = 'x\n", 1)]
        {
            let errors = parse(text).unwrap_err();
            assert_eq!(errors[0].at.line, line, "{text}: {errors:?}");
        }
    }
}
