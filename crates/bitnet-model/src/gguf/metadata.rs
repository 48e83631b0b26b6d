//! The metadata of a file: values by key, with typed access.
//!
//! Every getter answers `None` for a key that is absent, and an error that names file and key for a value
//! of another type. Integers are taken from any integer type that holds a fitting value, as writers differ
//! in the width that they choose.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cursor::{Cursor, Place};
use super::value::{Array, Value, ValueType, Values, read, read_type};
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::mapping::FileBytes;

/// Most keys accepted: published files have some dozens, and each costs memory.
const MAX_KEYS: u64 = 1 << 16;
/// Longest key accepted, the limit of the format.
pub(super) const MAX_NAME: usize = (1 << 16) - 1;
/// Fewest bytes of an entry: an empty key's length, a type, a byte.
const LEAST_ENTRY: u64 = 8 + 4 + 1;

/// The metadata of one file.
#[derive(Clone)]
pub struct Metadata {
    path: PathBuf,
    bytes: Arc<FileBytes>,
    entries: BTreeMap<String, (ValueType, Range<usize>)>,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({}, {} keys)", self.path.display(), self.entries.len())
    }
}

impl Metadata {
    /// Reads `count` entries at the cursor, which walks over `bytes`.
    pub(super) fn read(
        path: &Path,
        bytes: &Arc<FileBytes>,
        cursor: &mut Cursor<'_>,
        count: u64,
    ) -> Result<Self, LoadError> {
        let most = (cursor.remaining() as u64 / LEAST_ENTRY).min(MAX_KEYS);
        if count > most {
            let expected = format_args!("at most {most} metadata keys in a file of this size");
            return Err(cursor.refuse(Place::File, expected, count));
        }
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let at = cursor.offset();
            let key = cursor.string(Place::File, "a metadata key")?;
            if key.is_empty() || key.len() > MAX_NAME {
                let expected = format_args!("a metadata key of 1 to {MAX_NAME} bytes at byte offset {at}");
                return Err(cursor.refuse(Place::File, expected, format_args!("{} bytes", key.len())));
            }
            let of = read_type(cursor, Place::Key(key))?;
            let start = cursor.offset();
            read(cursor, Place::Key(key), of, 0)?;
            if entries.insert(key.to_owned(), (of, start..cursor.offset())).is_some() {
                let expected = format_args!("one entry of this key (byte offset {at})");
                return Err(cursor.refuse(Place::Key(key), expected, "a second one"));
            }
        }
        Ok(Metadata { path: path.to_owned(), bytes: bytes.clone(), entries })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Iterates over the keys in their alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Reports whether a key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns a value.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let (of, range) = self.entries.get(key)?;
        let mut cursor = Cursor::new(&self.path, (*self.bytes).as_ref().get(..range.end)?, range.start);
        // The same bytes were read when the file was opened.
        read(&mut cursor, Place::Key(key), *of, 0).ok()
    }

    /// Makes an error about a key: what was expected there, and what stands there.
    pub fn refuse(&self, key: &str, expected: impl fmt::Display) -> LoadError {
        self.error(LoadErrorKind::Config, key, expected)
    }

    /// Makes an error about a key that asks for arithmetic which is not implemented.
    pub fn unsupported(&self, key: &str, expected: impl fmt::Display) -> LoadError {
        self.error(LoadErrorKind::UnsupportedArchitecture, key, expected)
    }

    fn error(&self, kind: LoadErrorKind, key: &str, expected: impl fmt::Display) -> LoadError {
        let found = self.get(key).map_or("nothing".to_owned(), |value| value.to_string());
        LoadError::mismatch(kind, &self.path, Item::Field(key.to_owned()), expected, found)
    }

    fn typed<'m, T>(
        &'m self,
        key: &str,
        expected: &str,
        read: impl Fn(Value<'m>) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.refuse(key, expected)),
        }
    }

    /// Returns an integer that fits 32 bits without sign.
    ///
    /// # Errors
    /// `Config` for a value of another type or size.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, LoadError> {
        self.typed(key, "an integer from 0 to 4294967295", |value| value.as_integer()?.try_into().ok())
    }

    /// Returns an integer that fits 64 bits without sign.
    ///
    /// # Errors
    /// `Config` for a value of another type or size.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.typed(key, "an integer from 0 to 2^64 - 1", |value| value.as_integer()?.try_into().ok())
    }

    /// Returns a float; one of 64 bits is rounded to 32.
    ///
    /// # Errors
    /// `Config` for a value of another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.typed(key, "a float", |value| value.as_float().map(|value| value as f32))
    }

    /// Returns a truth value.
    ///
    /// # Errors
    /// `Config` for a value of another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Returns a text.
    ///
    /// # Errors
    /// `Config` for a value of another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Returns an array of any type.
    ///
    /// # Errors
    /// `Config` for a value of another type.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, LoadError> {
        self.typed(key, "an array", Value::as_array)
    }

    /// Returns an array of texts.
    ///
    /// # Errors
    /// `Config` for a value, or an element, of another type.
    pub fn strs<'m>(&'m self, key: &str) -> Result<Option<Items<'m, &'m str>>, LoadError> {
        self.items(key, "an array of strings", Value::as_str)
    }

    /// Returns an array of floats, rounded to 32 bits where they have 64.
    ///
    /// # Errors
    /// `Config` for a value, or an element, of another type.
    pub fn f32s(&self, key: &str) -> Result<Option<Items<'_, f32>>, LoadError> {
        self.items(key, "an array of floats", |value| value.as_float().map(|value| value as f32))
    }

    /// Returns an array of integers that fit 32 bits with sign.
    ///
    /// # Errors
    /// `Config` for a value, or an element, of another type or size.
    pub fn i32s(&self, key: &str) -> Result<Option<Items<'_, i32>>, LoadError> {
        self.items(key, "an array of integers of 32 bits", |value| value.as_integer()?.try_into().ok())
    }

    fn items<'m, T>(
        &'m self,
        key: &str,
        expected: &str,
        read: fn(Value<'m>) -> Option<T>,
    ) -> Result<Option<Items<'m, T>>, LoadError> {
        let Some(array) = self.typed(key, expected, Value::as_array)? else { return Ok(None) };
        match array.values().position(|value| read(value).is_none()) {
            None => Ok(Some(Items { values: array.values(), read })),
            Some(at) => Err(self.refuse(key, format_args!("{expected} (element {at})"))),
        }
    }
}

/// Iterates over the elements of an array that are of one type.
#[derive(Clone)]
pub struct Items<'a, T> {
    values: Values<'a>,
    read: fn(Value<'a>) -> Option<T>,
}

impl<T> Iterator for Items<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.values.next().and_then(self.read)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.values.size_hint()
    }
}

impl<T> ExactSizeIterator for Items<'_, T> {}
