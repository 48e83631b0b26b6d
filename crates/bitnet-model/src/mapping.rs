//! The bytes of one weight file: mapped, in memory, shared with other processes, or part of the binary.

use std::fs::File;
#[cfg(not(all(unix, feature = "parallel")))]
use std::io::Read;
use std::ops::Range;
use std::path::Path;

#[cfg(feature = "mmap")]
use bitnet_core::backend::BitNetError;
use bitnet_core::backend::Device;
#[cfg(feature = "mmap")]
use bitnet_core::memory::tensor::{MappedMemory, SharedMemory, TensorMemory};
use bitnet_core::memory::{PoolBuffer, TagScope};

use crate::error::{Item, LoadError, LoadErrorKind};
use crate::source::{Access, WeightAccess};

/// The bytes of one weight file, for as long as anything refers to them.
pub(crate) enum FileBytes {
    /// A read-only shared mapping.
    #[cfg(feature = "mmap")]
    Mapped(MappedMemory),
    /// A copy in a pool, on huge pages where the system has them.
    Copied(PoolBuffer<u8>),
    /// A copy that all processes share.
    #[cfg(feature = "mmap")]
    Shared(SharedMemory),
    /// What a caller had in memory.
    Owned(Vec<u8>),
    /// Part of the binary.
    Static(&'static [u8]),
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            FileBytes::Mapped(memory) => memory.bytes(),
            #[cfg(feature = "mmap")]
            FileBytes::Shared(memory) => memory.bytes(),
            FileBytes::Copied(copy) => copy,
            FileBytes::Owned(bytes) => bytes,
            FileBytes::Static(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// Opens a weight file.
    pub(crate) fn open(path: &Path, access: &Access) -> Result<Self, LoadError> {
        let failed = |error| LoadError::io(path, "a readable weight file", error);
        // Before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let kind = LoadErrorKind::Format;
            return Err(LoadError::mismatch(kind, path, Item::File, "a file", "a folder, pipe or device"));
        }
        let file = File::open(path).map_err(failed)?;
        // An empty file cannot be mapped everywhere; its emptiness is reported as a format error.
        match access.how {
            _ if metadata.len() == 0 => Ok(FileBytes::Owned(Vec::new())),
            WeightAccess::Copy => copy(path, &file, metadata.len(), access).map(FileBytes::Copied),
            #[cfg(feature = "mmap")]
            WeightAccess::Auto | WeightAccess::Map => {
                MappedMemory::read_only(&file).map(FileBytes::Mapped).map_err(failed)
            }
            #[cfg(feature = "mmap")]
            WeightAccess::Shared => share(path, &file, &metadata).map(FileBytes::Shared),
            #[cfg(not(feature = "mmap"))]
            WeightAccess::Auto => copy(path, &file, metadata.len(), access).map(FileBytes::Copied),
            #[cfg(not(feature = "mmap"))]
            WeightAccess::Map | WeightAccess::Shared => Err(LoadError::mismatch(
                LoadErrorKind::UnsupportedFormat,
                path,
                Item::File,
                "a build with the feature mmap for mapped or shared weights",
                "a build without it",
            )),
        }
    }

    /// Lets the system take back the memory behind a range that was read for the last time.
    ///
    /// A master checkpoint is read once and never again; without this its pages would stand beside the packed
    /// weights in the resident set until memory runs short.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(feature = "mmap")]
        if let FileBytes::Mapped(memory) = self {
            memory.release(range.clone());
        }
        let _ = range;
    }
}

/// Returns the bytes in memory that all processes of this user share, which the first of them fills.
///
/// The name is that of the file as it is: one that was changed or replaced since has another.
#[cfg(feature = "mmap")]
fn share(path: &Path, file: &File, metadata: &std::fs::Metadata) -> Result<SharedMemory, LoadError> {
    #[cfg(unix)]
    let name = {
        use std::os::unix::fs::MetadataExt;
        let m = metadata;
        format!("weights-{:x}-{:x}-{:x}-{:x}.{:x}", m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
    };
    #[cfg(not(unix))]
    let name = "weights";
    let failed = |error| {
        LoadError::mismatch(LoadErrorKind::Io, path, Item::File, "memory that processes share", error)
    };
    let length = usize::try_from(metadata.len())
        .map_err(|error| LoadError::io(path, "a smaller file", std::io::Error::other(error)))?;
    SharedMemory::publish_or_attach(&name, length, |out| {
        fill(file, out).map_err(|error| BitNetError::io(path, "read", &error))
    })
    .map_err(failed)
}

/// Reads a file into memory of the pool, which asks the system for huge pages: a pass over weights then misses fewer
/// translations.
fn copy(path: &Path, file: &File, length: u64, access: &Access) -> Result<PoolBuffer<u8>, LoadError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let _scope = TagScope::enter("weights");
    let room = access
        .pool()
        .and_then(|pool| PoolBuffer::for_overwrite(&pool, length, &Device::Cpu, "a copy of the weights"));
    let mut copy = room.map_err(|error| LoadError::backend(path, Item::File, error))?;
    fill(file, &mut copy).map_err(|error| LoadError::io(path, "a readable weight file", error))?;
    Ok(copy)
}

/// Reads a whole file. Pieces are read by all cores, which also touch their pages first.
fn fill(file: &File, out: &mut [u8]) -> std::io::Result<()> {
    #[cfg(all(unix, feature = "parallel"))]
    {
        use std::os::unix::fs::FileExt;

        use rayon::prelude::*;

        const PIECE: usize = 16 << 20;
        out.par_chunks_mut(PIECE)
            .enumerate()
            .try_for_each(|(index, piece)| file.read_exact_at(piece, (index * PIECE) as u64))
    }
    #[cfg(not(all(unix, feature = "parallel")))]
    {
        let mut file = file;
        file.read_exact(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_however_they_are_read_and_after_a_release() {
        let dir = bitnet_testing::temp::TempDir::new("mapping");
        let path = dir.path().join("weights");
        let expected: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &expected).unwrap();
        let shared = cfg!(all(feature = "mmap", target_os = "linux")).then_some(WeightAccess::Shared);
        for access in [WeightAccess::Auto, WeightAccess::Copy].into_iter().chain(shared) {
            let bytes = FileBytes::open(&path, &access.into()).unwrap();
            assert_eq!(bytes.as_ref(), expected);
            for range in [1..399_999, 0..400_000, 70_000..70_001, 5..5, 65_536..131_072] {
                bytes.release(range);
                assert_eq!(bytes.as_ref(), expected);
            }
        }
    }

    #[cfg(not(feature = "mmap"))]
    #[test]
    fn mapping_needs_its_feature() {
        let dir = bitnet_testing::temp::TempDir::new("mapping-feature");
        let path = dir.path().join("weights");
        std::fs::write(&path, b"x").unwrap();
        let error = FileBytes::open(&path, &WeightAccess::Map.into()).err().unwrap();
        assert_eq!(error.kind(), LoadErrorKind::UnsupportedFormat);
    }
}
