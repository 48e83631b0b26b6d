//! The weights of a checkpoint: one safetensors file, shards named by an index, a GGUF file or its parts.
//!
//! Opening reads headers only. Tensors are slices of the mapped files ([`WeightBytes`]), which stay mapped
//! as long as any slice lives.

mod header;
mod index;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::{BitNetDType, WeightBytes};
use bitnet_quant::ggml::GgmlType;
use safetensors::tensor::{Dtype, Metadata};

use crate::bitnet_file::{BitnetFile, View};
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::gguf::{Gguf, TypeId};
use crate::mapping::FileBytes;
use crate::names::Naming;
use crate::source::{Access, WeightAccess, read_limited};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Lists the files that an index of shards names, each once, in order. Each is the name of a file beside the index.
///
/// # Errors
/// `Io` and `Format` for an index that cannot be read or names files elsewhere.
pub fn shard_names(index: &Path) -> Result<Vec<String>, LoadError> {
    let absent = || LoadError::io(index, "a readable file", std::io::ErrorKind::NotFound.into());
    let bytes = read_limited(index, index::INDEX_LIMIT)?.ok_or_else(absent)?;
    Ok(index::parse(index, &bytes)?.into_keys().collect())
}

/// The element type that a file states for a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredDType {
    /// One that this workspace has.
    Known(BitNetDType),
    /// A type of GGUF files that is decoded when it is loaded.
    Ggml(GgmlType),
    /// Any other, by the file's name for it.
    Other(String),
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredDType::Known(dtype) => dtype.fmt(f),
            StoredDType::Ggml(dtype) => dtype.fmt(f),
            StoredDType::Other(name) => f.write_str(name),
        }
    }
}

impl From<Dtype> for StoredDType {
    fn from(dtype: Dtype) -> Self {
        let name = dtype.to_string();
        BitNetDType::from_safetensors_name(&name).map_or(StoredDType::Other(name), StoredDType::Known)
    }
}

impl From<TypeId> for StoredDType {
    fn from(id: TypeId) -> Self {
        match id.known() {
            Some(known) => {
                BitNetDType::from_ggml_type(known.id()).map_or(StoredDType::Ggml(known), StoredDType::Known)
            }
            None => StoredDType::Other(id.to_string()),
        }
    }
}

/// One tensor of a checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Element type.
    pub dtype: StoredDType,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, little-endian, row-major.
    pub bytes: WeightBytes,
    shard: usize,
    range: Range<usize>,
}

struct Shard {
    path: PathBuf,
    bytes: Arc<FileBytes>,
}

/// The tensors of a checkpoint by name.
pub struct Checkpoint {
    place: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Tensor>,
    assumptions: Vec<String>,
    naming: Naming,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {} tensors)", self.place.display(), self.tensors.len())
    }
}

impl Checkpoint {
    /// Opens model.safetensors of a folder, else the shards of its index, else its only safetensors file.
    ///
    /// # Errors
    /// `Io` for absent or unreadable files; `Format` for headers that do not describe their file exactly,
    /// for an index that leaves the folder or disagrees with its shards, and for a tensor that is there
    /// twice; `UnsupportedFormat` for weights in other formats.
    pub fn open_folder(folder: &Path, access: WeightAccess) -> Result<Self, LoadError> {
        Self::open_folder_by(folder, &access.into())
    }

    pub(crate) fn open_folder_by(folder: &Path, access: &Access) -> Result<Self, LoadError> {
        let single = folder.join(SINGLE);
        if exists(&single) {
            return Self::open_file(single, access);
        }
        let index = folder.join(INDEX);
        if let Some(bytes) = read_limited(&index, index::INDEX_LIMIT)? {
            return Self::open_index(folder, index, &bytes, access);
        }
        let file = only_weight_file(folder)?;
        let mut checkpoint = Self::open_file(file.clone(), access)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        checkpoint
            .assumptions
            .push(format!("no {SINGLE}: the folder's only safetensors file, {name}, is taken"));
        Ok(checkpoint)
    }

    /// Takes a checkpoint that is part of the binary; `path` stands for it in messages.
    ///
    /// # Errors
    /// `Format` as in [`open_folder`](Self::open_folder).
    pub fn from_static(path: PathBuf, weights: &'static [u8]) -> Result<Self, LoadError> {
        let mut checkpoint = Checkpoint::empty(path.clone());
        checkpoint.add(path, FileBytes::Static(weights))?;
        Ok(checkpoint)
    }

    /// Takes the tensors of a GGUF file.
    pub fn from_gguf(gguf: &Gguf) -> Self {
        let mut checkpoint = Checkpoint { naming: Naming::Gguf, ..Checkpoint::empty(gguf.path().to_owned()) };
        let files = gguf.files().map(|(path, bytes)| Shard { path: path.to_owned(), bytes: bytes.clone() });
        checkpoint.shards.extend(files);
        for entry in gguf.tensors() {
            let shard = entry.part;
            let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = checkpoint.shards[shard].bytes.clone();
            // The table was held against the file when it was opened.
            let Some(bytes) = WeightBytes::slice_of(owner, entry.range.clone()) else { continue };
            let (dtype, shape, range) = (entry.type_id.into(), entry.shape.clone(), entry.range.clone());
            checkpoint.tensors.insert(entry.name.clone(), Tensor { dtype, shape, bytes, shard, range });
        }
        checkpoint
    }

    /// Takes the tensors of a `.bitnet` file, by the names and types that a packed folder has.
    ///
    /// # Errors
    /// A tensor of a type that is not read, a size that does not fit the file, a name that is there twice.
    pub fn from_bitnet(bitnet: &BitnetFile) -> Result<Self, LoadError> {
        let gguf = bitnet.container();
        let mut checkpoint = Checkpoint::empty(gguf.path().to_owned());
        let file = gguf.file();
        for View { name, dtype, shape, range } in bitnet.views()? {
            let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = file.clone();
            let Some(bytes) = WeightBytes::slice_of(owner, range.clone()) else { continue };
            let tensor = Tensor { dtype: StoredDType::Known(dtype), shape, bytes, shard: 0, range };
            if checkpoint.tensors.insert(name.clone(), tensor).is_some() {
                let (kind, item) = (LoadErrorKind::Format, Item::Tensor(name));
                return Err(checkpoint.refuse(kind, item, "one tensor of this name".into(), "a second one"));
            }
        }
        checkpoint.shards.push(Shard { path: gguf.path().to_owned(), bytes: file });
        Ok(checkpoint)
    }

    fn open_file(path: PathBuf, access: &Access) -> Result<Self, LoadError> {
        let mut checkpoint = Checkpoint::empty(path.clone());
        let bytes = FileBytes::open(&path, access)?;
        checkpoint.add(path, bytes)?;
        Ok(checkpoint)
    }

    fn open_index(
        folder: &Path,
        index_path: PathBuf,
        bytes: &[u8],
        access: &Access,
    ) -> Result<Self, LoadError> {
        let shards = index::parse(&index_path, bytes)?;
        let mut checkpoint = Checkpoint::empty(index_path);
        for (file, tensors) in &shards {
            let path = folder.join(file);
            if !exists(&path) {
                let item = Item::Tensor(tensors[0].clone());
                let expected = format!("its file {file} in the folder");
                return Err(checkpoint.refuse(LoadErrorKind::Io, item, expected, "no such file"));
            }
            let bytes = FileBytes::open(&path, access)?;
            checkpoint.add(path, bytes)?;
        }
        for (file, tensor) in shards.iter().flat_map(|(file, all)| all.iter().map(move |name| (file, name))) {
            let found = match checkpoint.tensors.get(tensor).map(|t| &checkpoint.shards[t.shard].path) {
                Some(path) if path.file_name().is_some_and(|name| name == file.as_str()) => continue,
                Some(path) => format!("it in {}", path.file_name().unwrap_or_default().to_string_lossy()),
                None => "no tensor of this name in any file".into(),
            };
            let expected = format!("it in {file}");
            let item = Item::Tensor(tensor.clone());
            return Err(checkpoint.refuse(LoadErrorKind::MissingTensor, item, expected, found));
        }
        Ok(checkpoint)
    }

    fn empty(place: PathBuf) -> Self {
        let (shards, tensors, assumptions) = (Vec::new(), BTreeMap::new(), Vec::new());
        Checkpoint { place, shards, tensors, assumptions, naming: Naming::HuggingFace }
    }

    fn refuse(
        &self,
        kind: LoadErrorKind,
        item: Item,
        expected: String,
        found: impl fmt::Display,
    ) -> LoadError {
        LoadError::mismatch(kind, &self.place, item, expected, found)
    }

    fn add(&mut self, path: PathBuf, bytes: FileBytes) -> Result<(), LoadError> {
        let bytes = Arc::new(bytes);
        let (start, metadata) = header::parse(&path, (*bytes).as_ref())?;
        let shard = self.shards.len();
        for name in metadata.offset_keys() {
            let tensor = tensor(&path, &bytes, start, &metadata, &name, shard)?;
            if let Some(before) = self.tensors.get(&name) {
                let first = self.shards[before.shard].path.file_name().unwrap_or_default().to_string_lossy();
                let expected = "it in one file only";
                let found = format!("it in {first} as well");
                return Err(LoadError::mismatch(
                    LoadErrorKind::Format,
                    &path,
                    Item::Tensor(name),
                    expected,
                    found,
                ));
            }
            self.tensors.insert(name, tensor);
        }
        self.shards.push(Shard { path, bytes });
        Ok(())
    }

    /// Returns a tensor.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Iterates over the tensors in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Returns what tensors are called.
    pub(crate) fn naming(&self) -> Naming {
        self.naming
    }

    /// Returns the weight file or index that stands for the whole in messages.
    pub fn path(&self) -> &Path {
        &self.place
    }

    /// Returns the file that holds a tensor.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        self.shards.get(tensor.shard).map_or(&self.place, |shard| &shard.path)
    }

    /// Returns the bytes of all weight files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| (*shard.bytes).as_ref().len() as u64).sum()
    }

    /// Returns what was assumed about the files.
    pub fn assumptions(&self) -> &[String] {
        &self.assumptions
    }

    /// Lets the system take back the memory behind a tensor that was read for the last time.
    pub(crate) fn release(&self, tensor: &Tensor) {
        if let Some(shard) = self.shards.get(tensor.shard) {
            shard.bytes.release(tensor.range.clone());
        }
    }
}

fn tensor(
    path: &Path,
    bytes: &Arc<FileBytes>,
    start: usize,
    metadata: &Metadata,
    name: &str,
    shard: usize,
) -> Result<Tensor, LoadError> {
    let outside = || {
        let item = Item::Tensor(name.to_owned());
        LoadError::mismatch(LoadErrorKind::Format, path, item, "offsets inside the file", "offsets outside")
    };
    let info = metadata.info(name).ok_or_else(outside)?;
    let (first, last) = info.data_offsets;
    let range =
        start.checked_add(first).zip(start.checked_add(last)).map(|(a, b)| a..b).ok_or_else(outside)?;
    let owner: Arc<dyn AsRef<[u8]> + Send + Sync> = bytes.clone();
    let slice = WeightBytes::slice_of(owner, range.clone()).ok_or_else(outside)?;
    Ok(Tensor { dtype: info.dtype.into(), shape: info.shape.clone(), bytes: slice, shard, range })
}

/// Reports whether there is something by this name, a broken link included: that is an error of its own.
fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Finds the one safetensors file of a folder that has neither the standard name nor an index.
fn only_weight_file(folder: &Path) -> Result<PathBuf, LoadError> {
    const WANTED: &str = "model.safetensors or model.safetensors.index.json";
    let failed = |error| LoadError::io(folder, "a readable folder", error);
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => found.push(path),
            Some("gguf" | "bitnet" | "bin" | "pt" | "pth") => others.push(path),
            _ => {}
        }
    }
    if let [_] = found[..] {
        return Ok(found.swap_remove(0));
    }
    found.sort();
    others.sort();
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (kind, text) = match (found.len(), others.first()) {
        (0, None) => (LoadErrorKind::Io, "no weight file".to_owned()),
        (0, Some(other)) => (
            LoadErrorKind::UnsupportedFormat,
            format!("{}, which is not read as part of a folder", name(other)),
        ),
        (count, _) => {
            (LoadErrorKind::Format, format!("{count} files without an index, {} first", name(&found[0])))
        }
    };
    Err(LoadError::mismatch(kind, folder, Item::File, WANTED, text))
}
