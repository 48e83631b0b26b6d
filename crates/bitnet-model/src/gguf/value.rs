//! Metadata values: their types, and how they are walked without being copied.

use std::fmt;

use super::cursor::{Cursor, Place};
use crate::error::LoadError;

/// Deepest nesting of arrays accepted. No published file nests them at all.
const MAX_DEPTH: usize = 8;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// IEEE 754 binary32.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// UTF-8 text.
    String,
    /// Values of one type.
    Array,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 binary64.
    F64,
}

impl ValueType {
    /// Every type, at the index that is its id.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// Returns the type of an id.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Returns the name that messages print.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Returns the bytes of a value; `None` where they depend on the value.
    fn size(self) -> Option<u64> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }

    /// Returns the least bytes that a value takes.
    fn least_size(self) -> u64 {
        match self {
            ValueType::String => 8,
            ValueType::Array => 12,
            other => other.size().unwrap_or(1),
        }
    }
}

/// A metadata value. Text and arrays are slices of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Unsigned 8-bit integer.
    U8(u8),
    /// Signed 8-bit integer.
    I8(i8),
    /// Unsigned 16-bit integer.
    U16(u16),
    /// Signed 16-bit integer.
    I16(i16),
    /// Unsigned 32-bit integer.
    U32(u32),
    /// Signed 32-bit integer.
    I32(i32),
    /// IEEE 754 binary32.
    F32(f32),
    /// Truth value.
    Bool(bool),
    /// Text.
    String(&'a str),
    /// Values of one type.
    Array(Array<'a>),
    /// Unsigned 64-bit integer.
    U64(u64),
    /// Signed 64-bit integer.
    I64(i64),
    /// IEEE 754 binary64.
    F64(f64),
}

impl<'a> Value<'a> {
    /// Returns an integer of any width.
    pub fn as_integer(self) -> Option<i128> {
        match self {
            Value::U8(value) => Some(value.into()),
            Value::I8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::I16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::I32(value) => Some(value.into()),
            Value::U64(value) => Some(value.into()),
            Value::I64(value) => Some(value.into()),
            _ => None,
        }
    }

    /// Returns a float of either width.
    pub fn as_float(self) -> Option<f64> {
        match self {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }

    /// Returns a truth value.
    pub fn as_bool(self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Returns a text.
    pub fn as_str(self) -> Option<&'a str> {
        match self {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    /// Returns an array.
    pub fn as_array(self) -> Option<Array<'a>> {
        match self {
            Value::Array(value) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::F32(value) => write!(f, "{value:?}"),
            Value::F64(value) => write!(f, "{value:?}"),
            Value::Bool(value) => value.fmt(f),
            Value::String(value) => write!(f, "{value:?}"),
            Value::Array(array) => write!(f, "an array of {} {}", array.len, array.of.name()),
            other => match other.as_integer() {
                Some(value) => value.fmt(f),
                None => f.write_str("a value"),
            },
        }
    }
}

/// An array of values of one type, as it lies in the file.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    of: ValueType,
    len: usize,
    bytes: &'a [u8],
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} {})", self.len, self.of.name())
    }
}

impl<'a> Array<'a> {
    /// Returns the type of the elements.
    pub fn of(self) -> ValueType {
        self.of
    }

    /// Returns the number of elements.
    pub fn len(self) -> usize {
        self.len
    }

    /// Reports whether there are no elements.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Returns the bytes of an array of unsigned bytes; `None` for one of another type.
    pub fn as_u8s(self) -> Option<&'a [u8]> {
        (self.of == ValueType::U8).then_some(self.bytes)
    }

    /// Iterates over the elements.
    pub fn values(self) -> Values<'a> {
        let cursor = Cursor::new(std::path::Path::new(""), self.bytes, 0);
        Values { of: self.of, left: self.len, cursor }
    }
}

/// Iterates over the elements of an [`Array`].
#[derive(Clone)]
pub struct Values<'a> {
    of: ValueType,
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Every element was read once when the file was opened.
        read(&mut self.cursor, Place::File, self.of, 0).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// Reads one value, an array by walking over it: every length, text and truth value in it is checked.
pub(super) fn read<'a>(
    cursor: &mut Cursor<'a>,
    place: Place<'_>,
    of: ValueType,
    depth: usize,
) -> Result<Value<'a>, LoadError> {
    let what = of.name();
    Ok(match of {
        ValueType::U8 => Value::U8(cursor.u8(place, what)?),
        ValueType::I8 => Value::I8(cursor.i8(place, what)?),
        ValueType::U16 => Value::U16(cursor.u16(place, what)?),
        ValueType::I16 => Value::I16(cursor.i16(place, what)?),
        ValueType::U32 => Value::U32(cursor.u32(place, what)?),
        ValueType::I32 => Value::I32(cursor.i32(place, what)?),
        ValueType::F32 => Value::F32(cursor.f32(place, what)?),
        ValueType::Bool => Value::Bool(boolean(cursor, place)?),
        ValueType::String => Value::String(cursor.string(place, what)?),
        ValueType::Array => Value::Array(array(cursor, place, depth + 1)?),
        ValueType::U64 => Value::U64(cursor.u64(place, what)?),
        ValueType::I64 => Value::I64(cursor.i64(place, what)?),
        ValueType::F64 => Value::F64(cursor.f64(place, what)?),
    })
}

/// Reads the id of a value's type.
pub(super) fn read_type(cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<ValueType, LoadError> {
    let at = cursor.offset();
    let id = cursor.u32(place, "a value type")?;
    ValueType::from_id(id).ok_or_else(|| {
        let expected =
            format_args!("a value type from 0 to {} at byte offset {at}", ValueType::ALL.len() - 1);
        cursor.refuse(place, expected, id)
    })
}

fn boolean(cursor: &mut Cursor<'_>, place: Place<'_>) -> Result<bool, LoadError> {
    let at = cursor.offset();
    match cursor.u8(place, "bool")? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.refuse(place, format_args!("a bool of 0 or 1 at byte offset {at}"), other)),
    }
}

fn array<'a>(cursor: &mut Cursor<'a>, place: Place<'_>, depth: usize) -> Result<Array<'a>, LoadError> {
    let at = cursor.offset();
    if depth > MAX_DEPTH {
        let expected = format_args!("arrays nested at most {MAX_DEPTH} deep at byte offset {at}");
        return Err(cursor.refuse(place, expected, "deeper ones"));
    }
    let of = read_type(cursor, place)?;
    let count = cursor.u64(place, "an array length")?;
    let most = cursor.remaining() as u64 / of.least_size();
    // From here on the count is one of elements that the file has room for.
    let Some(len) = usize::try_from(count).ok().filter(|_| count <= most) else {
        let name = of.name();
        let expected =
            format_args!("an array of at most {most} {name} up to the end of the file at byte offset {at}");
        return Err(cursor.refuse(place, expected, count));
    };
    let mut start = *cursor;
    match of.size() {
        Some(size) if of != ValueType::Bool => {
            cursor.take(place, "an array", size * count)?;
        }
        _ => {
            for _ in 0..len {
                read(cursor, place, of, depth)?;
            }
        }
    }
    let bytes = start.take(place, "an array", (cursor.offset() - start.offset()) as u64)?;
    Ok(Array { of, len, bytes })
}
