//! From anything that serde can serialise to a [`Value`], with structs kept apart from maps.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::ser::{self, Serializer};

use super::value::{Field, Value};

/// What a `Serialize` implementation reports.
#[derive(Debug)]
pub(super) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl ser::Error for Failed {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Failed(message.to_string())
    }
}

/// The serialiser.
pub(super) struct ToValue;

type Done = Result<Value, Failed>;

pub(super) struct List(Vec<Value>);
pub(super) struct Map(BTreeMap<String, Value>, Option<String>);
pub(super) struct Fields(Vec<Field>);
pub(super) struct Variant<T>(&'static str, T);

fn tagged(variant: &str, value: Value) -> Value {
    Value::Map(BTreeMap::from([(variant.to_owned(), value)]))
}

impl Serializer for ToValue {
    type Ok = Value;
    type Error = Failed;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = Variant<List>;
    type SerializeMap = Map;
    type SerializeStruct = Fields;
    type SerializeStructVariant = Variant<Fields>;

    fn serialize_bool(self, v: bool) -> Done {
        Ok(Value::Bool(v))
    }
    fn serialize_i8(self, v: i8) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i16(self, v: i16) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i32(self, v: i32) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_i64(self, v: i64) -> Done {
        Ok(Value::Int(v))
    }
    fn serialize_u8(self, v: u8) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u16(self, v: u16) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u32(self, v: u32) -> Done {
        Ok(Value::Int(v.into()))
    }
    fn serialize_u64(self, v: u64) -> Done {
        Ok(i64::try_from(v).map_or(Value::Float(v as f64), Value::Int))
    }
    fn serialize_f32(self, v: f32) -> Done {
        Ok(Value::Float(v.into()))
    }
    fn serialize_f64(self, v: f64) -> Done {
        Ok(Value::Float(v))
    }
    fn serialize_char(self, v: char) -> Done {
        Ok(Value::Text(v.into()))
    }
    fn serialize_str(self, v: &str) -> Done {
        Ok(Value::Text(v.to_owned()))
    }
    fn serialize_bytes(self, v: &[u8]) -> Done {
        Ok(Value::List(v.iter().map(|b| Value::Int((*b).into())).collect()))
    }
    fn serialize_none(self) -> Done {
        Ok(Value::Nil)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Done {
        Ok(Value::Nil)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(Value::Struct(Vec::new()))
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Done {
        Ok(Value::Text(variant.to_owned()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        Ok(tagged(variant, value.serialize(self)?))
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<List, Failed> {
        Ok(List(Vec::with_capacity(len.unwrap_or(0))))
    }
    fn serialize_tuple(self, len: usize) -> Result<List, Failed> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<List, Failed> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Variant<List>, Failed> {
        Ok(Variant(variant, List(Vec::new())))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Map, Failed> {
        Ok(Map(BTreeMap::new(), None))
    }
    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Fields, Failed> {
        Ok(Fields(Vec::with_capacity(len)))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Variant<Fields>, Failed> {
        Ok(Variant(variant, Fields(Vec::new())))
    }
}

impl ser::SerializeSeq for List {
    type Ok = Value;
    type Error = Failed;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        self.0.push(value.serialize(ToValue)?);
        Ok(())
    }
    fn end(self) -> Done {
        Ok(Value::List(self.0))
    }
}

impl ser::SerializeTuple for List {
    type Ok = Value;
    type Error = Failed;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        ser::SerializeSeq::serialize_element(self, value)
    }
    fn end(self) -> Done {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleStruct for List {
    type Ok = Value;
    type Error = Failed;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        ser::SerializeSeq::serialize_element(self, value)
    }
    fn end(self) -> Done {
        ser::SerializeSeq::end(self)
    }
}

impl ser::SerializeTupleVariant for Variant<List> {
    type Ok = Value;
    type Error = Failed;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        ser::SerializeSeq::serialize_element(&mut self.1, value)
    }
    fn end(self) -> Done {
        Ok(tagged(self.0, ser::SerializeSeq::end(self.1)?))
    }
}

impl ser::SerializeMap for Map {
    type Ok = Value;
    type Error = Failed;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        let mut text = String::new();
        key.serialize(ToValue)?.print(&mut text);
        self.1 = Some(text);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let key = self.1.take().unwrap_or_default();
        self.0.insert(key, value.serialize(ToValue)?);
        Ok(())
    }
    fn end(self) -> Done {
        Ok(Value::Map(self.0))
    }
}

impl ser::SerializeStruct for Fields {
    type Ok = Value;
    type Error = Failed;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        self.0.push(Field { name: name.to_owned(), value: value.serialize(ToValue)?, in_json: true });
        Ok(())
    }
    fn skip_field(&mut self, name: &'static str) -> Result<(), Failed> {
        self.0.push(Field { name: name.to_owned(), value: Value::Nil, in_json: false });
        Ok(())
    }
    fn end(self) -> Done {
        Ok(Value::Struct(self.0))
    }
}

impl ser::SerializeStructVariant for Variant<Fields> {
    type Ok = Value;
    type Error = Failed;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        ser::SerializeStruct::serialize_field(&mut self.1, name, value)
    }
    fn end(self) -> Done {
        Ok(tagged(self.0, ser::SerializeStruct::end(self.1)?))
    }
}
