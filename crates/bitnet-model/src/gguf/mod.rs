//! GGUF files, versions 2 and 3: metadata, and tensors as slices of the mapped file.
//!
//! ```text
//! "GGUF" | u32 version | u64 tensors | u64 keys
//! keys    x { string key | u32 value type | value }
//! tensors x { string name | u32 dims | u64 extent[dims] | u32 type | u64 offset }
//! padding to general.alignment (32 unless stated)
//! data: every tensor at its offset, a multiple of the alignment
//! ```
//!
//! All numbers are little-endian; a string is a u64 length and UTF-8 text; the first extent is the contiguous
//! one. [`Gguf::open`] walks over header and table once and checks all of it: lengths and counts against the
//! bytes that are there, text against UTF-8, keys and names against repetition, tensors against the data, the
//! alignment and each other. Nothing is reserved by a number in the file before that. Values are then read
//! where they lie ([`Metadata`]). A tensor of an unknown type keeps its [`TypeId`] and is no error.
//!
//! Source: `ggml/include/gguf.h` and `docs/gguf.md` of ggml.

mod cursor;
mod metadata;
mod split;
mod tensors;
mod types;
mod value;
mod vocabulary;
pub mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{LoadError, LoadErrorKind};
use crate::mapping::FileBytes;
use crate::source::{Access, WeightAccess};
use cursor::{Cursor, Place};
pub use metadata::{Items, Metadata};
pub use split::part_names;
pub use tensors::TensorEntry;
pub use types::TypeId;
pub use value::{Array, Value, ValueType, Values};

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of a file that states none.
const DEFAULT_ALIGNMENT: u32 = 32;
/// Greatest alignment accepted: 64 KiB is the largest page in use, with room above.
const MAX_ALIGNMENT: u32 = 1 << 24;

/// An open file.
#[derive(Clone)]
pub struct Gguf {
    path: PathBuf,
    bytes: Arc<FileBytes>,
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<TensorEntry>,
    /// The other parts of a model in several files.
    parts: Vec<(PathBuf, Arc<FileBytes>)>,
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, keys) = (self.path.display(), self.metadata.keys().count());
        write!(f, "Gguf({place}, version {}, {keys} keys, {} tensors)", self.version, self.tensors.len())
    }
}

impl Gguf {
    /// Opens a file and checks its header and its table of tensors; of a model in several files the first is named, and
    /// the others are opened too.
    ///
    /// # Errors
    /// `Io` for a file that cannot be read, `UnsupportedFormat` for another version or byte order, `Format` for
    /// one that is not what the format demands; each says where, what was expected and what was found.
    pub fn open(path: &Path, access: WeightAccess) -> Result<Self, LoadError> {
        Self::open_by(path, &access.into())
    }

    pub(crate) fn open_by(path: &Path, access: &Access) -> Result<Self, LoadError> {
        split::complete(Self::parse_file(path, access)?, access)
    }

    /// Opens a file that is a model of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open); `UnsupportedArchitecture` for one part of a model in several files.
    pub(crate) fn open_single(path: &Path, access: &Access) -> Result<Self, LoadError> {
        let gguf = Self::parse_file(path, access)?;
        split::check_single(&gguf).map(|()| gguf)
    }

    /// Opens one file, whatever it is a part of.
    fn parse_file(path: &Path, access: &Access) -> Result<Self, LoadError> {
        Self::parse(path, Arc::new(FileBytes::open(path, access)?))
    }

    /// Takes the bytes of a file; `path` stands for it in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open); `UnsupportedArchitecture` for one part of a model in several files.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, LoadError> {
        let gguf = Self::parse(path, Arc::new(FileBytes::Owned(bytes)))?;
        split::check_single(&gguf).map(|()| gguf)
    }

    fn parse(path: &Path, bytes: Arc<FileBytes>) -> Result<Self, LoadError> {
        let mut cursor = Cursor::new(path, (*bytes).as_ref(), 0);
        let version = version(path, &mut cursor)?;
        let tensor_count = cursor.u64(Place::File, "a number of tensors")?;
        let key_count = cursor.u64(Place::File, "a number of metadata keys")?;
        let metadata = Metadata::read(path, &bytes, &mut cursor, key_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensors::read(&mut cursor, tensor_count, alignment as usize)?;
        let (path, parts) = (path.to_owned(), Vec::new());
        Ok(Gguf { path, bytes: bytes.clone(), version, alignment, metadata, tensors, parts })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the alignment of tensors in bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Returns the metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the tensors in the order of their data, part by part.
    pub fn tensors(&self) -> &[TensorEntry] {
        &self.tensors
    }

    /// Returns the bytes of the file, which stay as long as anything refers to them.
    pub(crate) fn file(&self) -> Arc<FileBytes> {
        self.bytes.clone()
    }

    /// Lists the files of all parts, this one first.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, &Arc<FileBytes>)> {
        let others = self.parts.iter().map(|(path, bytes)| (path.as_path(), bytes));
        std::iter::once((self.path.as_path(), &self.bytes)).chain(others)
    }

    /// Returns the bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// Returns the bytes of a tensor of this file.
    pub fn bytes_of(&self, tensor: &TensorEntry) -> &[u8] {
        let file = self.files().nth(tensor.part).map(|(_, bytes)| (**bytes).as_ref());
        file.and_then(|bytes: &[u8]| bytes.get(tensor.range.clone())).unwrap_or_default()
    }
}

fn version(path: &Path, cursor: &mut Cursor<'_>) -> Result<u32, LoadError> {
    let magic = cursor.take(Place::File, "the letters GGUF", 4)?;
    if magic != MAGIC {
        let found = format_args!("{:?}", magic.escape_ascii().to_string());
        return Err(cursor.refuse(Place::File, "the letters GGUF at byte offset 0", found));
    }
    let version = cursor.u32(Place::File, "a version")?;
    let found = match version {
        2 | 3 => return Ok(version),
        // A version of the other byte order has its bits in the upper half.
        _ if version & 0xffff == 0 => format!("a big-endian file of version {}", version.swap_bytes()),
        _ => version.to_string(),
    };
    let kind = LoadErrorKind::UnsupportedFormat;
    Err(LoadError::mismatch(kind, path, Place::File.item(), "GGUF version 2 or 3, little-endian", found))
}

fn alignment(metadata: &Metadata) -> Result<u32, LoadError> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.u32(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
        return Ok(alignment);
    }
    Err(metadata.refuse(KEY, format_args!("a power of two up to {MAX_ALIGNMENT}")))
}
