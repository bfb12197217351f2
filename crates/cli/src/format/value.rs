//! What a template looks at: data with Go's distinction of structs and maps.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// A value as Go's `text/template` would see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A nil pointer, or a field that its JSON form leaves out.
    Nil,
    /// What looking up a missing key of a map gives; printed `<no value>`.
    Missing,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// An array or slice.
    List(Vec<Value>),
    /// A map: keys in order, missing keys allowed.
    Map(BTreeMap<String, Value>),
    /// A struct: fields in the order of their declaration, and no others.
    Struct(Vec<Field>),
    /// A method that takes a key, as `.Label "name"` does; no part of the JSON form.
    Lookup(BTreeMap<String, String>),
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Whether the JSON form has it.
    pub in_json: bool,
}

impl Value {
    /// The value of something that can be serialised. A field that its serialiser skips stays
    /// known as nil, as in Go, where `omitempty` concerns the JSON form only.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Value {
        // The serialiser below cannot fail but by what `T` itself reports.
        value.serialize(super::serializer::ToValue).unwrap_or(Value::Nil)
    }

    /// A struct of texts, as the rows of lists are.
    pub fn row(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
        Value::Struct(
            fields
                .into_iter()
                .map(|(name, value)| Field {
                    name: name.into(),
                    in_json: !matches!(value, Value::Lookup(_)),
                    value,
                })
                .collect(),
        )
    }

    /// Whether a condition takes it for true.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Nil | Value::Missing => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Struct(_) | Value::Lookup(_) => true,
        }
    }

    /// The field or key `name`; `None` if there can be none of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Struct(fields) => fields.iter().find(|field| field.name == name).map(|field| &field.value),
            Value::Map(map) => Some(map.get(name).unwrap_or(&Value::Missing)),
            _ => None,
        }
    }

    /// Its JSON form, without spaces.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How Go's `%v` prints it.
    pub fn print(&self, out: &mut String) {
        use std::fmt::Write;
        match self {
            Value::Nil => out.push_str("<nil>"),
            Value::Missing => out.push_str("<no value>"),
            Value::Bool(b) => {
                let _ = write!(out, "{b}");
            }
            Value::Int(n) => {
                let _ = write!(out, "{n}");
            }
            Value::Float(n) => out.push_str(&super::number::shortest(*n)),
            Value::Text(text) => out.push_str(text),
            Value::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    item.print(out);
                }
                out.push(']');
            }
            Value::Map(map) => {
                out.push_str("map[");
                for (at, (key, value)) in map.iter().enumerate() {
                    let _ = write!(out, "{}{key}:", if at > 0 { " " } else { "" });
                    value.print(out);
                }
                out.push(']');
            }
            Value::Struct(fields) => {
                out.push('{');
                for (at, field) in fields.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    field.value.print(out);
                }
                out.push('}');
            }
            Value::Lookup(map) => {
                Value::Map(map.iter().map(|(k, v)| (k.clone(), Value::Text(v.clone()))).collect()).print(out);
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Nil | Value::Missing | Value::Lookup(_) => serializer.serialize_none(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(n) => serializer.serialize_i64(*n),
            Value::Float(n) => serializer.serialize_f64(*n),
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Value::Map(map) => map.serialize(serializer),
            Value::Struct(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for field in fields.iter().filter(|field| field.in_json) {
                    map.serialize_entry(&field.name, &field.value)?;
                }
                map.end()
            }
        }
    }
}
