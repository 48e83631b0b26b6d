//! Reads the metadata of GGUF files, to hold the product's reader and tokenizers against.
//!
//! Layout (little-endian): `GGUF`, u32 version, u64 tensors, u64 pairs; each pair a string, a u32 type and a
//! value. A string is a u64 length and bytes; an array a u32 type, a u64 length and values.

use std::collections::BTreeMap;
use std::path::Path;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any integer type.
    Int(i64),
    /// `f32` or `f64`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// Text.
    Text(String),
    /// Values of one type.
    List(Vec<Value>),
}

impl Value {
    /// Returns the integer; panics for other types.
    pub fn int(&self) -> i64 {
        let Value::Int(value) = self else { panic!("expected an integer, found {self:?}") };
        *value
    }

    /// Returns the number; panics for other types.
    pub fn float(&self) -> f64 {
        let Value::Float(value) = self else { panic!("expected a float, found {self:?}") };
        *value
    }

    /// Returns the flag; panics for other types.
    pub fn flag(&self) -> bool {
        let Value::Bool(value) = self else { panic!("expected a bool, found {self:?}") };
        *value
    }

    /// Returns the text; panics for other types.
    pub fn text(&self) -> &str {
        let Value::Text(value) = self else { panic!("expected text, found {self:?}") };
        value
    }

    /// Returns the items; panics for other types.
    pub fn items(&self) -> &[Value] {
        let Value::List(items) = self else { panic!("expected a list, found {self:?}") };
        items
    }
}

/// Reads all pairs of a file. Panics when the file is not what it has to be.
pub fn read_metadata(path: &Path) -> BTreeMap<String, Value> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut cursor = Cursor { bytes: &bytes, at: 0 };
    assert_eq!(cursor.take(4), b"GGUF", "{}", path.display());
    let _version_and_tensors = cursor.take(12);
    let pairs = cursor.u64();
    (0..pairs)
        .map(|_| {
            let key = cursor.text();
            let kind = cursor.u32();
            (key, cursor.value(kind))
        })
        .collect()
}

struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn take(&mut self, length: usize) -> &'b [u8] {
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("take gives the length asked for")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).expect("text is UTF-8")
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            0 => Value::Int(i64::from(self.array::<1>()[0])),
            1 => Value::Int(i64::from(i8::from_le_bytes(self.array()))),
            2 => Value::Int(i64::from(u16::from_le_bytes(self.array()))),
            3 => Value::Int(i64::from(i16::from_le_bytes(self.array()))),
            4 => Value::Int(i64::from(self.u32())),
            5 => Value::Int(i64::from(i32::from_le_bytes(self.array()))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()))),
            7 => Value::Bool(self.array::<1>()[0] != 0),
            8 => Value::Text(self.text()),
            9 => {
                let kind = self.u32();
                let length = self.u64();
                Value::List((0..length).map(|_| self.value(kind)).collect())
            }
            10 => Value::Int(i64::try_from(self.u64()).expect("fits 63 bits")),
            11 => Value::Int(i64::from_le_bytes(self.array())),
            12 => Value::Float(f64::from_le_bytes(self.array())),
            other => panic!("no value type {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn pairs_of_several_types_are_read() {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([0_u64, 2].iter().flat_map(|n| n.to_le_bytes()));
        let mut pair = |key: &str, kind: u32, value: &[u8]| {
            file.extend((key.len() as u64).to_le_bytes());
            file.extend(key.as_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(value);
        };
        pair("a.b", 4, &7_u32.to_le_bytes());
        let list = [&6_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &0.5_f32.to_le_bytes()].concat();
        pair("c", 9, &list);
        let dir = TempDir::new("gguf-metadata");
        std::fs::write(dir.path().join("m.gguf"), file).unwrap();
        let pairs = read_metadata(&dir.path().join("m.gguf"));
        assert_eq!(pairs["a.b"].int(), 7);
        assert_eq!(pairs["c"].items(), [Value::Float(0.5)]);
    }
}
