//! Typed access to the fields of a JSON object, each error naming field, expectation and finding.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Item, LoadError, LoadErrorKind};

/// A JSON object of a file. A field that is null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Takes the root object of a file.
    pub(super) fn root(path: &'a Path, value: &'a Value) -> Result<Self, LoadError> {
        let found = |value: &Value| {
            LoadError::mismatch(LoadErrorKind::Format, path, Item::File, "a JSON object", shorten(value))
        };
        let map = value.as_object().ok_or_else(|| found(value))?;
        Ok(Fields { path, prefix: "", map })
    }

    fn dotted(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// Makes an error about a field.
    pub(super) fn refuse(
        &self,
        name: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> LoadError {
        let item = Item::Field(self.dotted(name));
        LoadError::mismatch(LoadErrorKind::Config, self.path, item, expected, found)
    }

    /// Makes an error about a field that asks for arithmetic which is not implemented.
    pub(super) fn unsupported(
        &self,
        name: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> LoadError {
        let item = Item::Field(self.dotted(name));
        LoadError::mismatch(LoadErrorKind::UnsupportedArchitecture, self.path, item, expected, found)
    }

    /// Returns a field as it stands.
    pub(super) fn raw(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Reports whether a field stands there, be it null.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Iterates over all fields.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn typed<T>(
        &self,
        name: &str,
        expected: impl fmt::Display,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(typed) => Ok(Some(typed)),
                None => Err(self.refuse(name, expected, shorten(value))),
            },
        }
    }

    /// Reads an integer within a range.
    pub(super) fn integer(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, LoadError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.typed(name, expected, |value| value.as_u64().filter(|number| range.contains(number)))
    }

    /// Reads an integer within a range that has to be there.
    pub(super) fn required(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, LoadError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        self.integer(name, range)?.ok_or_else(|| self.refuse(name, expected, "nothing"))
    }

    /// Reads a number within a range.
    pub(super) fn float(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, LoadError> {
        let expected = format!("a number from {:e} to {:e}", range.start(), range.end());
        self.typed(name, expected, |value| value.as_f64().filter(|number| range.contains(number)))
    }

    /// Reads a truth value.
    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, LoadError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    /// Reads a string.
    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, LoadError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// Reads a list of strings.
    pub(super) fn strings(&self, name: &str) -> Result<Option<Vec<String>>, LoadError> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// Reads a token id, or a list of them, each of a vocabulary of `vocab` tokens.
    pub(super) fn token_ids(&self, name: &str, vocab: usize) -> Result<Option<Vec<u32>>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = self.typed(name, "a token id or a list of token ids", |value| match value.as_array() {
            Some(items) => items.iter().map(id).collect::<Option<Vec<u32>>>(),
            None => id(value).map(|id| vec![id]),
        })?;
        match ids.iter().flatten().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(self.refuse(name, format_args!("a token id below vocab_size {vocab}"), id)),
            None => Ok(ids),
        }
    }

    /// Reads an object.
    pub(super) fn object(&self, name: &'a str) -> Result<Option<Fields<'a>>, LoadError> {
        let map = self.typed(name, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { path: self.path, prefix: name, map }))
    }
}

/// Prints a value, an over-long one by its kind.
pub(super) fn shorten(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > 8 => format!("a list of {} values", items.len()),
        Value::Object(map) if map.len() > 4 => format!("an object of {} fields", map.len()),
        value => value.to_string(),
    }
}
