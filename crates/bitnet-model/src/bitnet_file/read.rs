//! Opening a `.bitnet` file.

use std::fmt;
use std::path::Path;

use bitnet_core::backend::BitNetDType;
use bitnet_quant::ggml::GgmlType;
use bitnet_quant::packing::row_quarters;

use super::{
    ARCHITECTURE, FILES, FORMAT_VERSION, HEADER_CHECKSUM, LAYOUT, PAYLOAD_CHECKSUMS, Precision,
    READER_VERSION, RESERVED, ROW_QUARTERS, TERNARY_QUARTERS, TERNARY_TAIL, VECTOR_ALIGNMENT, VECTOR_LENGTHS,
    VECTOR_NAMES, VECTORS, VERSION, header_checksum,
};
use crate::checksum::Xxh64;
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::gguf::{Gguf, TensorEntry, TypeId, Value};
use crate::source::{Access, WeightAccess};

/// An open `.bitnet` file whose header has been checked.
#[derive(Debug, Clone)]
pub struct BitnetFile {
    gguf: Gguf,
    pub(super) precision: Precision,
}

/// A tensor as a packed folder would have it: a range of the file.
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) dtype: BitNetDType,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: std::ops::Range<usize>,
}

impl BitnetFile {
    /// Opens a file and checks its header, checksum included. Payloads are checked by
    /// [`check_payloads`](Self::check_payloads) only.
    ///
    /// # Errors
    /// As [`Gguf::open`]; `UnsupportedFormat` for another kind of GGUF file, a newer version or an unknown layout;
    /// `UnsupportedArchitecture` for a part of several, as no model of this format is in several files;
    /// `Format` for a header that is damaged, or that the tensors belie.
    pub fn open(path: &Path, access: WeightAccess) -> Result<Self, LoadError> {
        Self::open_by(path, &access.into())
    }

    pub(crate) fn open_by(path: &Path, access: &Access) -> Result<Self, LoadError> {
        Self::check(Gguf::open_single(path, access)?)
    }

    fn check(gguf: Gguf) -> Result<Self, LoadError> {
        let metadata = gguf.metadata();
        let unsupported = |key: &str, expected: String, found: String| {
            let kind = LoadErrorKind::UnsupportedFormat;
            Err(LoadError::mismatch(kind, gguf.path(), Item::Field(key.to_owned()), expected, found))
        };
        let architecture = metadata.str("general.architecture")?.unwrap_or_default();
        if architecture != ARCHITECTURE {
            let expected = format!("{ARCHITECTURE:?} in a .bitnet file");
            return unsupported("general.architecture", expected, format!("{architecture:?}"));
        }
        // Before the checksum: a version to come may compute it otherwise.
        let needed = metadata.u32(READER_VERSION)?.unwrap_or(u32::MAX);
        if needed > VERSION {
            let written = metadata.u32(FORMAT_VERSION)?.unwrap_or_default();
            let found = format!("{needed}, written by version {written}");
            return unsupported(
                READER_VERSION,
                format!("at most {VERSION}, the version of this reader"),
                found,
            );
        }
        let stored = metadata.u64(HEADER_CHECKSUM)?;
        let end = gguf.tensors().first().map_or(0, |tensor| tensor.range.start);
        let computed = gguf.file_bytes().get(..end).and_then(header_checksum);
        if stored.is_none() || stored != computed {
            let hex = |sum: Option<u64>| sum.map_or("none".to_owned(), |sum| format!("{sum:#018x}"));
            let expected = format!("the checksum of the header, {}", hex(computed));
            let item = Item::Field(HEADER_CHECKSUM.to_owned());
            return Err(LoadError::mismatch(LoadErrorKind::Format, gguf.path(), item, expected, hex(stored)));
        }
        let layout = metadata.str(LAYOUT)?.unwrap_or_default();
        if layout != ROW_QUARTERS {
            return unsupported(LAYOUT, format!("{ROW_QUARTERS:?}"), format!("{layout:?}"));
        }
        let precision = Precision::read(&gguf)?;
        Ok(BitnetFile { gguf, precision })
    }

    /// Returns the container.
    pub fn container(&self) -> &Gguf {
        &self.gguf
    }

    /// Returns one of the files that the model came with, such as config.json.
    ///
    /// # Errors
    /// `Config` for a value that is no array of bytes.
    pub fn file(&self, name: &str) -> Result<Option<&[u8]>, LoadError> {
        let key = format!("{FILES}{name}");
        match self.gguf.metadata().get(&key) {
            None => Ok(None),
            Some(Value::Array(array)) if array.as_u8s().is_some() => Ok(array.as_u8s()),
            Some(_) => Err(self.gguf.metadata().refuse(&key, "an array of u8")),
        }
    }

    /// Compares every tensor with its checksum.
    ///
    /// # Errors
    /// `Format` with the first tensor that is damaged.
    pub fn check_payloads(&self) -> Result<(), LoadError> {
        let metadata = self.gguf.metadata();
        let sums = metadata.array(PAYLOAD_CHECKSUMS)?.map(|array| array.values().collect::<Vec<_>>());
        let sums = sums.filter(|sums| sums.len() == self.gguf.tensors().len());
        let Some(sums) = sums else {
            let expected = format!("a checksum for each of {} tensors", self.gguf.tensors().len());
            return Err(metadata.refuse(PAYLOAD_CHECKSUMS, expected));
        };
        for (tensor, sum) in self.gguf.tensors().iter().zip(sums) {
            let bytes = self.payload(tensor)?;
            let found = Xxh64::of(bytes);
            let stored = sum.as_integer().and_then(|sum| u64::try_from(sum).ok());
            if stored != Some(found) {
                let expected = format!("bytes with the checksum {:#018x}", stored.unwrap_or_default());
                return Err(self.refuse(
                    LoadErrorKind::Format,
                    tensor,
                    expected,
                    format_args!("{found:#018x}"),
                ));
            }
        }
        Ok(())
    }

    fn refuse(
        &self,
        kind: LoadErrorKind,
        tensor: &TensorEntry,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> LoadError {
        LoadError::mismatch(kind, self.gguf.path(), Item::Tensor(tensor.name.clone()), expected, found)
    }

    /// Returns the bytes of a tensor without the padding behind it.
    fn payload(&self, tensor: &TensorEntry) -> Result<&[u8], LoadError> {
        let bytes = self.gguf.bytes_of(tensor);
        if tensor.type_id != TypeId(TERNARY_QUARTERS) {
            return Ok(bytes);
        }
        let (rows, cols) = self.matrix(tensor)?;
        let length = row_quarters::packed_len(rows, cols).and_then(|codes| codes.checked_add(TERNARY_TAIL));
        length.and_then(|length| bytes.get(..length)).ok_or_else(|| {
            let expected = format_args!("codes of {rows} x {cols} and {TERNARY_TAIL} bytes behind them");
            self.refuse(LoadErrorKind::Format, tensor, expected, format_args!("{} bytes", bytes.len()))
        })
    }

    fn matrix(&self, tensor: &TensorEntry) -> Result<(usize, usize), LoadError> {
        match tensor.shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => {
                Err(self.refuse(LoadErrorKind::Shape, tensor, "a matrix", format_args!("{:?}", tensor.shape)))
            }
        }
    }

    /// Lists the tensors as a packed folder would have them.
    ///
    /// # Errors
    /// A type that this version does not read; sizes that do not fit the file.
    pub(crate) fn views(&self) -> Result<Vec<View>, LoadError> {
        let mut views = Vec::new();
        for tensor in self.gguf.tensors() {
            if tensor.name == VECTORS {
                self.vectors(tensor, &mut views)?;
                continue;
            }
            let (name, start) = (tensor.name.clone(), tensor.range.start);
            let shape = tensor.shape.clone();
            let dtype = match (tensor.type_id.known(), tensor.type_id) {
                (Some(GgmlType::F32), _) => BitNetDType::F32,
                (Some(GgmlType::F16), _) => BitNetDType::F16,
                (Some(GgmlType::BF16), _) => BitNetDType::BF16,
                (_, TypeId(TERNARY_QUARTERS)) => {
                    let (rows, cols) = self.matrix(tensor)?;
                    let codes = self.payload(tensor)?.len() - TERNARY_TAIL;
                    let (scale, tail) = (format!("{name}_scale"), start + codes);
                    views.push(View {
                        name: scale,
                        dtype: BitNetDType::F32,
                        shape: vec![1],
                        range: tail..tail + 4,
                    });
                    let shape = vec![row_quarters::quads(rows), cols];
                    views.push(View { name, dtype: BitNetDType::U8, shape, range: start..tail });
                    continue;
                }
                (_, TypeId(id)) => {
                    let reserved = RESERVED.iter().find(|entry| entry.0 == id).map(|entry| entry.1);
                    let found = reserved.map_or_else(|| format!("type {id:#010x}"), str::to_owned);
                    let expected = "codes in row quarters, or floats";
                    return Err(self.refuse(LoadErrorKind::UnsupportedFormat, tensor, expected, found));
                }
            };
            views.push(View { name, dtype, shape, range: tensor.range.clone() });
        }
        Ok(views)
    }

    fn vectors(&self, tensor: &TensorEntry, views: &mut Vec<View>) -> Result<(), LoadError> {
        let metadata = self.gguf.metadata();
        let names = metadata.strs(VECTOR_NAMES)?.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let lengths =
            metadata.array(VECTOR_LENGTHS)?.map(|a| a.values().collect::<Vec<_>>()).unwrap_or_default();
        if tensor.type_id.known() != Some(GgmlType::F32) || names.len() != lengths.len() {
            let expected = format!("f32 and a length for each of {} vectors", names.len());
            let found = format_args!("{} and {} lengths", tensor.type_id, lengths.len());
            return Err(self.refuse(LoadErrorKind::Format, tensor, expected, found));
        }
        let mut at = tensor.range.start as u64;
        for (name, length) in names.into_iter().zip(lengths) {
            let length = length.as_integer().and_then(|length| u64::try_from(length).ok());
            let end = length.and_then(|length| length.checked_mul(4)?.checked_add(at));
            let Some((length, end)) = length.zip(end).filter(|(_, end)| *end <= tensor.range.end as u64)
            else {
                let expected = format_args!("vector {name} within {} bytes", tensor.range.len());
                return Err(self.refuse(
                    LoadErrorKind::Format,
                    tensor,
                    expected,
                    format_args!("{length:?} elements"),
                ));
            };
            let range = at as usize..end as usize;
            views.push(View {
                name: name.to_owned(),
                dtype: BitNetDType::F32,
                shape: vec![length as usize],
                range,
            });
            at = end.next_multiple_of(VECTOR_ALIGNMENT);
        }
        Ok(())
    }
}
