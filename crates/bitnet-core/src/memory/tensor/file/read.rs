//! Reading files, and finding tensors in memory that holds one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bitnet_backend::{BitNetError, ErrorKind, Result};

use super::header::{self, LENGTH_FIELD, Table};
use super::order;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMemory, TensorMetadata, packed};

/// Reads all tensors of a file, each into a block of its own.
///
/// # Errors
/// `Io` when the system refuses; `Mismatch` for a file that is not a safetensors file, with an element type that we do
/// not have, or with bytes that are no elements of their type; otherwise as [`HybridMemoryPool::allocate`]. All name the file and the tensor.
pub fn load(path: &Path, pool: &HybridMemoryPool) -> Result<BTreeMap<String, BitNetTensor>> {
    let named = |error: BitNetError| error.context(path.display().to_string());
    let failed = |error| BitNetError::io(path, "read", &error);
    let (mut file, length) = open(path)?;
    let mut field = [0; LENGTH_FIELD];
    if length < LENGTH_FIELD as u64 {
        return Err(named(BitNetError::mismatch("file", "at least 8 bytes", length)));
    }
    file.read_exact(&mut field).map_err(failed)?;
    let mut text = vec![0; header::header_len(field, length).map_err(named)?];
    file.read_exact(&mut text).map_err(failed)?;
    let data = length - (LENGTH_FIELD + text.len()) as u64;
    let table = header::parse(&text, data).map_err(named)?;
    let mut entries: Vec<_> = table.entries.iter().collect();
    entries.sort_by_key(|(_, entry)| (entry.range.start, entry.range.end));
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let metadata = entry.describe(name).map_err(named)?;
        let dtype = metadata.dtype();
        let made = BitNetTensor::new(metadata.clone(), pool);
        let mut tensor = made.map_err(|error| named(error.context(header::tensor_called(name))))?;
        let bytes = tensor.as_mut_bytes()?;
        file.read_exact(bytes).map_err(failed)?;
        order::exchange(dtype, bytes);
        packed::check(dtype, bytes, 0).map_err(|error| named(error.context(header::tensor_called(name))))?;
        tensor.metadata = metadata;
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

/// Opens a plain file.
pub(in crate::memory::tensor) fn open(path: &Path) -> Result<(File, u64)> {
    let failed = |error| BitNetError::io(path, "read", &error);
    // Before it is opened: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let what = path.display().to_string();
        return Err(BitNetError::mismatch(what, "a file", "a folder, pipe or device"));
    }
    Ok((File::open(path).map_err(failed)?, metadata.len()))
}

/// The tensors of a safetensors file that lies in memory; they share it.
#[derive(Debug, Clone)]
pub struct TensorFile {
    source: String,
    memory: Arc<dyn TensorMemory>,
    /// Where the data begins.
    start: usize,
    table: Arc<Table>,
}

impl TensorFile {
    /// Finds the tensors in memory that holds a whole file; `source` names it in messages.
    ///
    /// # Errors
    /// `Mismatch` when it does not.
    pub fn parse(memory: Arc<dyn TensorMemory>, source: &str) -> Result<Self> {
        let named = |error: BitNetError| error.context(source);
        let bytes = memory.bytes();
        let Some((field, rest)) = bytes.split_first_chunk::<LENGTH_FIELD>() else {
            return Err(named(BitNetError::mismatch("file", "at least 8 bytes", bytes.len())));
        };
        let len = header::header_len(*field, bytes.len() as u64).map_err(named)?;
        let table = header::parse(&rest[..len], (rest.len() - len) as u64).map_err(named)?;
        let table = Arc::new(table);
        Ok(TensorFile { source: source.to_owned(), start: LENGTH_FIELD + len, table, memory })
    }

    /// Returns the names of the tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table.entries.keys().map(String::as_str)
    }

    /// Returns the other metadata of the file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.table.metadata
    }

    /// Returns a tensor, which shares the memory.
    ///
    /// # Errors
    /// `Mismatch` for a name that is not in the file, for an element type that we do not have, for bytes that are no
    /// elements of it, and for elements that are not aligned in memory, which [`load`] can read; `Unsupported` on a machine whose byte order is not
    /// that of the file.
    pub fn tensor(&self, name: &str) -> Result<BitNetTensor> {
        self.view(name).map_err(|error| error.context(self.source.as_str()))
    }

    fn view(&self, name: &str) -> Result<BitNetTensor> {
        let (metadata, start) = self.place(name)?;
        let dtype = metadata.dtype();
        let (per_block, bytes) = dtype.block();
        if !start.is_multiple_of(bytes) {
            let what = format!("first byte of {}", header::tensor_called(name));
            return Err(BitNetError::mismatch(what, format!("a multiple of {bytes}"), start));
        }
        let row_major = metadata.layout();
        let (shape, strides) = (row_major.shape().to_vec(), row_major.strides().to_vec());
        let layout = Layout::strided(shape, strides, start / bytes * per_block);
        BitNetTensor::from_memory(metadata.relaid(layout), Arc::clone(&self.memory))
            .map_err(|error| error.context(header::tensor_called(name)))
    }

    /// Describes a tensor, and tells at which byte of the memory it begins.
    pub(in crate::memory::tensor) fn place(&self, name: &str) -> Result<(TensorMetadata, usize)> {
        let Some(entry) = self.table.entries.get(name) else {
            let expected = format!("one of {} tensors", self.table.entries.len());
            return Err(BitNetError::mismatch("tensor name", expected, format!("{name:?}")));
        };
        let metadata = entry.describe(name)?;
        if !order::is_native(metadata.dtype()) {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "cpu",
                operation: format!("using {} in place", header::tensor_called(name)),
                reason: "elements of the file are little-endian, those of this machine are not; load them"
                    .into(),
            }));
        }
        Ok((metadata, self.start + entry.range.start))
    }
}
