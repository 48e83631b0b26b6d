//! Where a checkpoint comes from, and the files it consists of.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::backend::{BitNetDType, BitNetError};
use bitnet_core::memory::HybridMemoryPool;

use crate::bitnet_file::{BitnetFile, KvUse};
use crate::checkpoint::Checkpoint;
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::gguf::{Gguf, MAGIC};

/// Where a checkpoint comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ModelSource {
    /// A folder with config.json and safetensors weights.
    Folder(PathBuf),
    /// A GGUF file, which holds configuration, weights and tokenizer.
    Gguf(PathBuf),
    /// A file of our own format, which holds what a packed folder holds.
    Bitnet(PathBuf),
    /// A model that is part of the binary.
    Embedded {
        /// Its name, which stands for the folder in messages.
        name: &'static str,
        /// Bytes of config.json.
        config: &'static [u8],
        /// Bytes of model.safetensors.
        weights: &'static [u8],
        /// Bytes of tokenizer.json.
        tokenizer: &'static [u8],
    },
}

impl ModelSource {
    /// Tells by its name, or by its first bytes, what kind of model lies at a path.
    ///
    /// Nothing is refused here: a path without a model is an error of [`ModelFiles::open`].
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let has = |wanted: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(wanted));
        if has("bitnet") && !path.is_dir() {
            return ModelSource::Bitnet(path);
        }
        let named = has("gguf");
        let is_gguf = || (named && !path.is_dir()) || begins_with_magic(&path);
        if is_gguf() { ModelSource::Gguf(path) } else { ModelSource::Folder(path) }
    }
}

/// Reports whether a plain file begins as GGUF files do.
fn begins_with_magic(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    // Before it is opened: opening a pipe would wait for a writer.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == MAGIC
}

/// How weight files are brought into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightAccess {
    /// Mapped where the build has the feature `mmap`, else copied.
    #[default]
    Auto,
    /// Mapped: pages are read when first touched and shared between processes. The file must not be
    /// truncated or overwritten in place while the model is in use: the system ends the program then.
    Map,
    /// Read into memory once.
    Copy,
    /// Read once into memory that all processes of this user share, as long as one of them runs: one copy on the
    /// machine, of which the file may be overwritten meanwhile. Linux only.
    Shared,
}

/// How weight files are brought into memory, and the pool that copies of them are taken from.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) how: WeightAccess,
    pool: Option<HybridMemoryPool>,
}

impl Access {
    /// Takes copies from `pool`.
    pub(crate) fn on(how: WeightAccess, pool: &HybridMemoryPool) -> Self {
        Access { how, pool: Some(pool.clone()) }
    }

    /// Returns the pool; one of its own where none was given.
    pub(crate) fn pool(&self) -> Result<HybridMemoryPool, BitNetError> {
        self.pool.clone().map_or_else(HybridMemoryPool::new, Ok)
    }
}

impl From<WeightAccess> for Access {
    fn from(how: WeightAccess) -> Self {
        Access { how, pool: None }
    }
}

/// Largest file accepted, by name, in bytes.
///
/// These files are parsed into memory several times their size. The limits are over ten times what any
/// published model needs: configurations are a few kilobytes, the largest tokenizers some 35 MB, chat
/// templates tens of kilobytes.
const CONFIG_LIMIT: u64 = 1 << 20;
const TOKENIZER_LIMIT: u64 = 512 << 20;
const TOKENIZER_CONFIG_LIMIT: u64 = 64 << 20;
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// The files of one checkpoint. Each is read when asked for.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    source: ModelSource,
    root: PathBuf,
    gguf: Option<Arc<Gguf>>,
    bitnet: Option<Arc<BitnetFile>>,
}

impl ModelFiles {
    /// Opens a source: checks that it exists and is of a kind that this version reads.
    ///
    /// # Errors
    /// `Io` when nothing is there (a path is never looked up on the network), `UnsupportedFormat` for
    /// files of other formats, `Format` for any other file; for a GGUF file, as [`Gguf::open`]; for one of
    /// ours, as [`BitnetFile::open`].
    pub fn open(source: &ModelSource) -> Result<Self, LoadError> {
        let (mut gguf, mut bitnet) = (None, None);
        let root = match source {
            ModelSource::Folder(path) => {
                check_folder(path)?;
                path.clone()
            }
            ModelSource::Gguf(path) => {
                gguf = Some(Arc::new(Gguf::open(path, WeightAccess::default())?));
                path.clone()
            }
            ModelSource::Bitnet(path) => {
                bitnet = Some(Arc::new(BitnetFile::open(path, WeightAccess::default())?));
                path.clone()
            }
            ModelSource::Embedded { name, .. } => PathBuf::from(name),
        };
        Ok(ModelFiles { source: source.clone(), root, gguf, bitnet })
    }

    /// Returns the GGUF file, whose metadata holds configuration and tokenizer; `None` for other models.
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_deref()
    }

    /// Returns the file of our own format; `None` for other models.
    pub fn bitnet(&self) -> Option<&BitnetFile> {
        self.bitnet.as_deref()
    }

    /// Returns the type of KV cache that the model itself asks for; `None` where it does not, as all but `.bitnet`
    /// files.
    pub fn recorded_kv(&self, wanted: KvUse) -> Option<BitNetDType> {
        self.bitnet()?.precision().kv(wanted)
    }

    /// Returns the folder or file, or the name of an embedded model, as messages show it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of one of the files, as messages show it; a GGUF file is all of them in one.
    pub fn path(&self, name: &str) -> PathBuf {
        let one_file = self.gguf.is_some() || self.bitnet.is_some();
        if one_file { self.root.clone() } else { self.root.join(name) }
    }

    /// Reads config.json.
    ///
    /// # Errors
    /// `Io` when it is absent or unreadable, `Format` over 1 MiB; `UnsupportedFormat` for a GGUF file, which has
    /// none.
    pub fn config_json(&self) -> Result<Cow<'static, [u8]>, LoadError> {
        if let ModelSource::Embedded { config, .. } = self.source {
            return Ok(Cow::Borrowed(config));
        }
        if self.gguf.is_some() {
            let kind = LoadErrorKind::UnsupportedFormat;
            return Err(LoadError::mismatch(
                kind,
                &self.root,
                Item::File,
                "a folder with config.json",
                "a GGUF file",
            ));
        }
        let missing = || {
            let error = io::Error::new(io::ErrorKind::NotFound, "no such file");
            LoadError::io(&self.path("config.json"), "the model's configuration", error)
        };
        self.optional("config.json", CONFIG_LIMIT)?.ok_or_else(missing)
    }

    /// Reads tokenizer.json, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 512 MiB.
    pub fn tokenizer_json(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self.source {
            ModelSource::Embedded { tokenizer, .. } => Ok(Some(Cow::Borrowed(tokenizer))),
            _ => self.optional("tokenizer.json", TOKENIZER_LIMIT),
        }
    }

    /// Reads tokenizer.model, the sentencepiece form, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 512 MiB.
    pub fn tokenizer_model(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.optional("tokenizer.model", TOKENIZER_LIMIT)
    }

    /// Reads added_tokens.json, the tokens beside a tokenizer.model, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 64 MiB.
    pub fn added_tokens_json(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.optional("added_tokens.json", TOKENIZER_CONFIG_LIMIT)
    }

    /// Reads tokenizer_config.json, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 64 MiB.
    pub fn tokenizer_config_json(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.optional("tokenizer_config.json", TOKENIZER_CONFIG_LIMIT)
    }

    /// Reads chat_template.jinja, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 1 MiB.
    pub fn chat_template(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.optional("chat_template.jinja", TEMPLATE_LIMIT)
    }

    /// Reads generation_config.json, where there is one.
    ///
    /// # Errors
    /// `Io` when it is unreadable, `Format` over 1 MiB.
    pub fn generation_config_json(&self) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        self.optional("generation_config.json", CONFIG_LIMIT)
    }

    /// Opens the weights and checks their headers.
    ///
    /// # Errors
    /// As [`Checkpoint::open_folder`] and [`Gguf::open`].
    pub fn open_checkpoint(&self, access: WeightAccess) -> Result<Checkpoint, LoadError> {
        self.open_checkpoint_by(&access.into())
    }

    pub(crate) fn open_checkpoint_by(&self, access: &Access) -> Result<Checkpoint, LoadError> {
        match &self.source {
            ModelSource::Folder(path) => Checkpoint::open_folder_by(path, access),
            ModelSource::Gguf(path) => match (&self.gguf, access.how) {
                // The header was read through a mapping already.
                (Some(gguf), WeightAccess::Auto) => Ok(Checkpoint::from_gguf(gguf)),
                _ => Ok(Checkpoint::from_gguf(&Gguf::open_by(path, access)?)),
            },
            ModelSource::Bitnet(path) => match (&self.bitnet, access.how) {
                (Some(bitnet), WeightAccess::Auto) => Checkpoint::from_bitnet(bitnet),
                _ => Checkpoint::from_bitnet(&BitnetFile::open_by(path, access)?),
            },
            ModelSource::Embedded { weights, .. } => {
                Checkpoint::from_static(self.path("model.safetensors"), weights)
            }
        }
    }

    fn optional(&self, name: &str, limit: u64) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match self.source {
            ModelSource::Folder(_) => Ok(self.read(name, limit)?.map(Cow::Owned)),
            ModelSource::Bitnet(_) => self.contained(name, limit),
            ModelSource::Gguf(_) | ModelSource::Embedded { .. } => Ok(None),
        }
    }

    /// Reads any of the small files that a model comes with, where it is there: those of the text side, and
    /// config.json.
    ///
    /// # Errors
    /// As [`tokenizer_json`](Self::tokenizer_json).
    pub(crate) fn other(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        match name {
            "tokenizer.json" => self.tokenizer_json(),
            _ => self.optional(name, TOKENIZER_LIMIT),
        }
    }

    /// Copies a file out of one of our own format.
    fn contained(&self, name: &str, limit: u64) -> Result<Option<Cow<'static, [u8]>>, LoadError> {
        let Some(bytes) = self.bitnet.as_ref().map(|file| file.file(name)).transpose()?.flatten() else {
            return Ok(None);
        };
        if bytes.len() as u64 > limit {
            let (item, found) = (Item::Field(name.to_owned()), bytes.len());
            let expected = format!("at most {limit} bytes");
            return Err(LoadError::mismatch(LoadErrorKind::Format, &self.root, item, expected, found));
        }
        Ok(Some(Cow::Owned(bytes.to_vec())))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        read_limited(&self.root.join(name), limit)
    }
}

/// Reads a whole file of at most `limit` bytes; `None` when it does not exist.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
    let failed = |error| LoadError::io(path, "a readable file", error);
    // A broken link or a pipe must not be mistaken for an absent file, nor block.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let refuse = |expected: String, found: String| {
        Err(LoadError::mismatch(LoadErrorKind::Format, path, Item::File, expected, found))
    };
    if !metadata.is_file() {
        return refuse("a file".into(), "a folder or device".into());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One byte more than allowed, in case the file is longer than its metadata says.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if metadata.len() > limit || bytes.len() as u64 > limit {
        return refuse(
            format!("at most {limit} bytes"),
            format!("{}", metadata.len().max(bytes.len() as u64)),
        );
    }
    Ok(Some(bytes))
}

fn check_folder(path: &Path) -> Result<(), LoadError> {
    const WANTED: &str = "a folder with config.json and *.safetensors";
    let metadata = std::fs::metadata(path).map_err(|error| LoadError::io(path, WANTED, error))?;
    if metadata.is_dir() {
        return Ok(());
    }
    Err(LoadError::mismatch(LoadErrorKind::Format, path, Item::File, WANTED, "a file"))
}
