//! The header of a file: made, and checked before anything is exposed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bitnet_backend::{BitNetDType, BitNetError, Result};
use safetensors::tensor::Metadata;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::write::TensorSpec;
use crate::memory::tensor::{Layout, TensorMetadata};

/// Bytes of the length field.
pub(super) const LENGTH_FIELD: usize = 8;
/// Data begins at a multiple of this.
const ALIGN: usize = 64;
/// Longest header accepted, the limit of the `safetensors` crate.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// Before the name of a packed tensor in the metadata.
const PACKED: &str = "bitnet.packed.";
/// Before the name of a tensor with a scale in the metadata.
const SCALE: &str = "bitnet.scale.";

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The element type, or the name of one that we do not have.
    pub(super) dtype: Result<BitNetDType, String>,
    pub(super) shape: Vec<usize>,
    pub(super) scale: Option<f32>,
    /// Bytes within the data.
    pub(super) range: Range<usize>,
}

/// The tensors of a file by name, and other metadata.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Makes the header of tensors that lie in the given order; returns it with the length field, and the bytes of data.
pub(super) fn encode(tensors: &[&TensorSpec]) -> Result<(Vec<u8>, u64)> {
    let (mut entries, mut metadata) = (Map::new(), Map::new());
    metadata.insert("format".into(), "pt".into());
    let mut at = 0u64;
    for spec in tensors {
        let what = || tensor_called(&spec.name);
        let bytes = spec.bytes().map_err(|error| error.context(what()))?;
        let end = at.checked_add(bytes as u64).filter(|&end| end <= i64::MAX as u64);
        let end =
            end.ok_or_else(|| BitNetError::mismatch(what(), "an end below 2^63 bytes", "a greater one"))?;
        if let Some(scale) = spec.checked_scale().map_err(|error| error.context(what()))? {
            metadata.insert(format!("{SCALE}{}", spec.name), scale.to_string().into());
        }
        let (dtype, shape) = match spec.dtype.safetensors_name() {
            Some(name) => (name, spec.shape.clone()),
            None => {
                let value = format!("{} {:?}", spec.dtype, spec.shape);
                metadata.insert(format!("{PACKED}{}", spec.name), value.into());
                ("U8", vec![bytes])
            }
        };
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] });
        let twice = spec.name == "__metadata__" || entries.insert(spec.name.clone(), entry).is_some();
        if twice {
            return Err(BitNetError::mismatch(what(), "a name that no other entry has", "one that is taken"));
        }
        at = end;
    }
    entries.insert("__metadata__".into(), metadata.into());
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize((LENGTH_FIELD + json.len()).next_multiple_of(ALIGN) - LENGTH_FIELD, b' ');
    if json.len() as u64 > MAX_HEADER {
        return Err(BitNetError::mismatch("header", format!("at most {MAX_HEADER} bytes"), json.len()));
    }
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok((header, at))
}

/// Reads the length field of a file of `length` bytes: how long the header is.
pub(super) fn header_len(field: [u8; LENGTH_FIELD], length: u64) -> Result<usize> {
    let found = u64::from_le_bytes(field);
    let most = length.saturating_sub(LENGTH_FIELD as u64).min(MAX_HEADER);
    match usize::try_from(found).ok().filter(|_| found <= most) {
        Some(len) => Ok(len),
        None => {
            let expected = format!("at most {most} in {length} bytes");
            Err(BitNetError::mismatch("header length", expected, found))
        }
    }
}

/// Names a tensor in messages, by the beginning of its name where that is long.
pub(super) fn tensor_called(name: &str) -> String {
    const BYTES: usize = 200;
    match name.len() > BYTES {
        true => format!("tensor {}...", &name[..name.floor_char_boundary(BYTES)]),
        false => format!("tensor {name}"),
    }
}

/// Parses a header that `data` bytes of tensors follow.
pub(super) fn parse(header: &[u8], data: u64) -> Result<Table> {
    let invalid =
        |found: &dyn fmt::Display| BitNetError::mismatch("header", "a valid safetensors header", found);
    let text = std::str::from_utf8(header).map_err(|error| invalid(&error))?;
    // The parser of the crate takes the last of several entries of one name.
    let mut parser = serde_json::Deserializer::from_str(text);
    let mut names = parser.deserialize_map(Names).map_err(|error| invalid(&error))?;
    parser.end().map_err(|error| invalid(&error))?;
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(BitNetError::mismatch(tensor_called(&pair[0]), "one entry in the header", "two"));
    }
    let metadata: Metadata = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    if metadata.data_len() as u64 != data {
        let expected = format!("{} bytes of tensors", metadata.data_len());
        return Err(BitNetError::mismatch("data after the header", expected, format!("{data} bytes")));
    }
    let mut table = Table::default();
    for (name, info) in metadata.tensors() {
        let stored = info.dtype.to_string();
        let dtype = BitNetDType::from_safetensors_name(&stored).ok_or(stored);
        let range = info.data_offsets.0..info.data_offsets.1;
        table.entries.insert(name, Entry { dtype, shape: info.shape.clone(), scale: None, range });
    }
    for (key, value) in metadata.metadata().iter().flatten() {
        if let Some(name) = key.strip_prefix(PACKED) {
            unpack(&mut table, name, value)?;
        } else if let Some(name) = key.strip_prefix(SCALE) {
            scale(&mut table, name, value)?;
        } else {
            table.metadata.insert(key.clone(), value.clone());
        }
    }
    Ok(table)
}

/// Gives a tensor of bytes the packed type and shape that the metadata states.
fn unpack(table: &mut Table, name: &str, value: &str) -> Result<()> {
    let refuse = |expected: &str| {
        let what = format!("metadata {PACKED}{name}");
        Err(BitNetError::mismatch(what, expected, format!("{value:?}")))
    };
    let Some(entry) = table.entries.get_mut(name).filter(|entry| entry.dtype == Ok(BitNetDType::U8)) else {
        return refuse("a tensor of this name and of type U8");
    };
    let parsed = value.split_once(' ').and_then(|(dtype, shape)| {
        let dtype = dtype.parse::<BitNetDType>().ok().filter(|dtype| dtype.is_packed())?;
        Some((dtype, serde_json::from_str::<Vec<usize>>(shape).ok()?))
    });
    let Some((dtype, shape)) = parsed else {
        return refuse("a packed type and a shape");
    };
    let layout = Layout::row_major(shape.clone());
    let bytes = layout.element_count().and_then(|count| dtype.size_bytes(count));
    if bytes != Some(entry.range.len()) {
        return refuse(&format!("a shape of {} bytes", entry.range.len()));
    }
    (entry.dtype, entry.shape) = (Ok(dtype), shape);
    Ok(())
}

/// Gives a tensor the scale that the metadata states.
fn scale(table: &mut Table, name: &str, value: &str) -> Result<()> {
    let refuse = |expected: &str| {
        let what = format!("metadata {SCALE}{name}");
        Err(BitNetError::mismatch(what, expected, format!("{value:?}")))
    };
    let Some(entry) = table.entries.get_mut(name) else { return refuse("a tensor of this name") };
    match value.parse::<f32>() {
        Ok(scale) if scale > 0.0 && scale.is_finite() => entry.scale = Some(scale),
        _ => return refuse("a finite number above zero"),
    }
    Ok(())
}

impl Entry {
    /// Describes the tensor, row-major at the first byte of its range.
    pub(super) fn describe(&self, name: &str) -> Result<TensorMetadata> {
        match &self.dtype {
            Ok(dtype) => {
                TensorMetadata::new(self.shape.clone(), *dtype, Default::default()).with_scale(self.scale)
            }
            Err(found) => {
                let known = BitNetDType::ALL.into_iter().filter_map(BitNetDType::safetensors_name);
                let known = known.collect::<Vec<_>>().join(", ");
                Err(BitNetError::mismatch(format!("element type of {}", tensor_called(name)), known, found))
            }
        }
    }
}

/// Collects the names of an object, also those that stand twice.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            names.push(name);
        }
        Ok(names)
    }
}
