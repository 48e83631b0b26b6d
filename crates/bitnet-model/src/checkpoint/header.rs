//! The header of a safetensors file: parsed, and checked before anything is exposed.
//!
//! ```text
//! u64 little-endian n | n bytes of JSON {name: {dtype, shape, data_offsets}} | the tensors, without gaps
//! ```
//!
//! The walk here says in detail what is wrong with which tensor, and refuses two things that the
//! parser of the `safetensors` crate lets through: a name that stands twice, and sizes whose sum
//! overflows. The table itself comes from that parser.

use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Item, LoadError, LoadErrorKind};

/// Bytes of the length field.
const LENGTH_FIELD: usize = 8;
/// Longest header accepted, the limit of the `safetensors` crate: a header is parsed into memory several times
/// its size, and the largest published ones have a few megabytes.
const MAX_HEADER: u64 = 100_000_000;

/// Parses and checks the header of a whole file; returns the table and where the data begins.
pub(super) fn parse(path: &Path, file: &[u8]) -> Result<(usize, Metadata), LoadError> {
    let (start, header) = split(path, file)?;
    check(path, header, file.len() - start)?;
    let (_, metadata) = SafeTensors::read_metadata(file)
        .map_err(|error| mismatch(path, Item::File, "a valid safetensors header", error))?;
    Ok((start, metadata))
}

fn mismatch(path: &Path, item: Item, expected: impl fmt::Display, found: impl fmt::Display) -> LoadError {
    LoadError::mismatch(LoadErrorKind::Format, path, item, expected, found)
}

fn split<'a>(path: &Path, file: &'a [u8]) -> Result<(usize, &'a [u8]), LoadError> {
    let Some((field, rest)) = file.split_first_chunk::<LENGTH_FIELD>() else {
        let expected = "at least the 8 bytes of a safetensors header length";
        return Err(mismatch(path, Item::File, expected, format_args!("{} bytes", file.len())));
    };
    let length = u64::from_le_bytes(*field);
    let available = (rest.len() as u64).min(MAX_HEADER);
    let item = || Item::Field("header length".into());
    match usize::try_from(length).ok().filter(|_| length <= available) {
        Some(length) => Ok((LENGTH_FIELD + length, &rest[..length])),
        None => {
            let expected = format!("at most {available} in a file of {} bytes", file.len());
            Err(mismatch(path, item(), expected, length))
        }
    }
}

struct Entry {
    name: String,
    start: usize,
    end: usize,
}

/// Checks names, types, sizes, and that the tensors cover the data exactly.
fn check(path: &Path, header: &[u8], data: usize) -> Result<(), LoadError> {
    let text = std::str::from_utf8(header)
        .map_err(|error| mismatch(path, Item::File, "a header of UTF-8 text", error))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let invalid = |error| mismatch(path, Item::File, "a header that is one JSON object", error);
    let pairs = parser.deserialize_map(Pairs).map_err(invalid)?;
    parser.end().map_err(invalid)?;
    let mut entries = Vec::new();
    for (name, value) in &pairs {
        if name != "__metadata__" {
            entries.push(entry(path, name, value)?);
        }
    }
    check_names(path, &pairs)?;
    entries.sort_by_key(|entry| (entry.start, entry.end));
    let mut next = 0;
    for entry in &entries {
        if entry.start != next {
            let expected = format!("data_offsets that begin at {next}, without gap or overlap");
            return Err(mismatch(path, Item::Tensor(entry.name.clone()), expected, entry.start));
        }
        next = entry.end;
    }
    if next == data {
        return Ok(());
    }
    let item = entries.last().map_or(Item::File, |entry| Item::Tensor(entry.name.clone()));
    Err(mismatch(path, item, format_args!("{next} bytes of data up to its end in the file"), data))
}

fn check_names(path: &Path, pairs: &[(String, Value)]) -> Result<(), LoadError> {
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(mismatch(path, Item::Tensor(pair[0].into()), "one entry in the header", "two of this name"))
        }
        None => Ok(()),
    }
}

fn entry(path: &Path, name: &str, value: &Value) -> Result<Entry, LoadError> {
    let item = || Item::Tensor(name.to_owned());
    let field = |key: &str, expected: &str| {
        let found = value.get(key).map_or("nothing".into(), Value::to_string);
        mismatch(path, item(), format_args!("{key}: {expected}"), found)
    };
    let dtype = value.get("dtype").and_then(|v| serde_json::from_value::<Dtype>(v.clone()).ok());
    let dtype = dtype.ok_or_else(|| field("dtype", "a safetensors type"))?;
    let sizes = |key: &str| -> Option<Vec<usize>> {
        value.get(key)?.as_array()?.iter().map(|v| v.as_u64().and_then(|v| v.try_into().ok())).collect()
    };
    let shape = sizes("shape").ok_or_else(|| field("shape", "an array of sizes"))?;
    let [start, end] = sizes("data_offsets").unwrap_or_default()[..] else {
        return Err(field("data_offsets", "two offsets"));
    };
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size));
    let Some(bits) = bits.filter(|bits| bits % 8 == 0) else {
        return Err(field("shape", "a whole number of bytes that fits the address space"));
    };
    if end.checked_sub(start) != Some(bits / 8) {
        let expected = format!("{} bytes for {dtype} {shape:?}", bits / 8);
        return Err(mismatch(path, item(), expected, format_args!("data_offsets [{start}, {end}]")));
    }
    Ok(Entry { name: name.to_owned(), start, end })
}

/// Collects the members of an object with the names that stand twice.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}
