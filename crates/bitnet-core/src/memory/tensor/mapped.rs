//! Memory that is a mapped file: read-only, or private with copies of the pages that are written.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_backend::{BitNetError, Result};
use memmap2::{Mmap, MmapMut, MmapOptions};

use super::file::TensorFile;
use super::{BitNetTensor, Layout, TensorMemory};

/// A mapped file, or a part of one.
///
/// Pages are read when they are first touched, and are shared with all who map the file. The file must not be
/// truncated or overwritten in place meanwhile: the system ends a program that reads beyond the end of its file. What
/// [`files`](crate::files) writes replaces the name and leaves a mapped file whole.
pub struct MappedMemory {
    map: Map,
}

enum Map {
    ReadOnly(Mmap),
    Private(MmapMut),
    /// An empty file cannot be mapped everywhere.
    Empty,
}

impl MappedMemory {
    /// Maps a whole file for reading.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn read_only(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(MappedMemory { map: Map::Empty });
        }
        // SAFETY:
        // - The mapping is read-only, and this program writes no file that it has mapped: what it saves goes to a new
        //   file that replaces the old name, which leaves the mapped one intact.
        // - Another program that overwrites the file meanwhile can change bytes under us. They are plain numbers of
        //   which every pattern is a value, and what is checked is not read from the file a second time as an index.
        // - One that truncates it ends this program with a bus error, as is documented at the type.
        Ok(MappedMemory { map: Map::ReadOnly(unsafe { Mmap::map(file)? }) })
    }

    /// Maps bytes of a file so that they can be written: pages that are written become copies of this process, the
    /// others stay those of the file, which never changes.
    ///
    /// # Errors
    /// What the system refuses; `InvalidInput` for a range beyond the end of the file.
    pub fn private(file: &File, range: Range<u64>) -> io::Result<Self> {
        if range.start > range.end || range.end > file.metadata()?.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        if len == 0 {
            return Ok(MappedMemory { map: Map::Empty });
        }
        // SAFETY: as in `read_only`; what is written here reaches neither the file nor anybody else's mapping.
        let map = unsafe { MmapOptions::new().offset(range.start).len(len).map_copy(file)? };
        Ok(MappedMemory { map: Map::Private(map) })
    }

    /// Lets the system take back the memory behind bytes that were read for the last time; a later access reads the
    /// file again. Does nothing for private mappings and where the system has no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Map::ReadOnly(map) = &self.map {
            // Whole pages of at most 64 KiB inside the range only: what lies beside it stays.
            const PAGE: usize = 1 << 16;
            let start = range.start.next_multiple_of(PAGE);
            let end = range.end / PAGE * PAGE;
            if start < end && end <= map.len() {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the mapping is a read-only, shared mapping of a file. Dropping its clean pages changes no
                // byte: a later access reads the file again, as the first one did. The range lies inside the mapping.
                let dropped = unsafe { map.unchecked_advise_range(advice, start, end - start) };
                // A refusal costs memory and nothing else.
                drop(dropped);
            }
        }
        let _ = range;
    }
}

impl TensorMemory for MappedMemory {
    fn kind(&self) -> &'static str {
        match self.map {
            Map::Private(_) => "private mapping of a file",
            Map::ReadOnly(_) | Map::Empty => "mapped file",
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.map {
            Map::ReadOnly(map) => map,
            Map::Private(map) => map,
            Map::Empty => &[],
        }
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        let kind = self.kind();
        match &mut self.map {
            Map::Private(map) => Ok(map),
            Map::Empty => Ok(&mut []),
            Map::ReadOnly(_) => Err(super::memory::read_only(kind)),
        }
    }
}

impl fmt::Debug for MappedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedMemory({}, {} bytes)", self.kind(), self.bytes().len())
    }
}

/// The tensors of a mapped safetensors file.
#[derive(Debug)]
pub struct MappedTensors {
    path: PathBuf,
    file: File,
    tensors: TensorFile,
}

impl MappedTensors {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// `Io` when the system refuses; otherwise as [`TensorFile::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, _) = super::file::open(path)?;
        let memory = MappedMemory::read_only(&file).map_err(|error| BitNetError::io(path, "map", &error))?;
        let tensors = TensorFile::parse(Arc::new(memory), &path.display().to_string())?;
        Ok(MappedTensors { path: path.to_owned(), file, tensors })
    }

    /// Returns the tensors, which are read-only and share the mapping.
    pub fn tensors(&self) -> &TensorFile {
        &self.tensors
    }

    /// Returns a tensor in a mapping of its own that can be written in place, page by page; the file never changes.
    ///
    /// # Errors
    /// As [`TensorFile::tensor`]; `Io` when the system refuses.
    pub fn private_tensor(&self, name: &str) -> Result<BitNetTensor> {
        let named = |error: BitNetError| error.context(self.path.display().to_string());
        let (metadata, start) = self.tensors.place(name).map_err(named)?;
        let (per_block, bytes) = metadata.dtype().block();
        // Mapped from an aligned byte on, so that alignment in the file is alignment in memory.
        const ALIGN: usize = 64;
        let before = start % ALIGN;
        if !before.is_multiple_of(bytes) {
            let what = format!("first byte of tensor {name}");
            return Err(named(BitNetError::mismatch(what, format!("a multiple of {bytes}"), start)));
        }
        let range = (start - before) as u64..(start + metadata.size_bytes()?) as u64;
        let memory = MappedMemory::private(&self.file, range)
            .map_err(|error| BitNetError::io(&self.path, "map", &error))?;
        let row_major = metadata.layout();
        let (shape, strides) = (row_major.shape().to_vec(), row_major.strides().to_vec());
        let layout = Layout::strided(shape, strides, before / bytes * per_block);
        BitNetTensor::from_memory(metadata.relaid(layout), Arc::new(memory)).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use bitnet_backend::{BitNetDType, Device};
    use bitnet_testing::temp::TempDir;

    use super::*;
    use crate::memory::HybridMemoryPool;
    use crate::memory::tensor::file::save;

    #[test]
    fn mapped_tensors_are_the_file_and_private_ones_its_copies() {
        let pool = HybridMemoryPool::new().unwrap();
        let values: Vec<f32> = (0..70_000).map(|i| i as f32).collect();
        let large = BitNetTensor::from_slice(&values, &[70, 1000], &Device::Cpu, &pool).unwrap();
        let small = BitNetTensor::ones(&[3], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        let empty = BitNetTensor::zeros(&[0], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
        let dir = TempDir::new("mapped");
        let path = dir.path().join("a.safetensors");
        save(&path, &[("large", &large), ("small", &small), ("empty", &empty)]).unwrap();
        let written = std::fs::read(&path).unwrap();
        let before = pool.get_metrics().allocation_count;

        let mapped = MappedTensors::open(&path).unwrap();
        let mut view = mapped.tensors().tensor("large").unwrap();
        assert_eq!(view.as_slice::<f32>().unwrap(), values);
        assert_eq!(mapped.tensors().tensor("small").unwrap().as_bytes().unwrap(), small.as_bytes().unwrap());
        let error = view.as_mut_slice::<f32>().unwrap_err().to_string();
        assert!(error.contains("writing to a tensor in a mapped file"), "{error}");

        for name in ["large", "small", "empty"] {
            let private = mapped.private_tensor(name).unwrap();
            let expected = mapped.tensors().tensor(name).unwrap();
            assert_eq!(private.as_bytes().unwrap(), expected.as_bytes().unwrap(), "{name}");
        }
        let mut private = mapped.private_tensor("large").unwrap();
        let address = private.as_bytes().unwrap().as_ptr();
        private.as_mut_slice::<f32>().unwrap()[69_999] = -1.0;
        assert_eq!(
            (private.as_bytes().unwrap().as_ptr(), view.as_slice::<f32>().unwrap()[69_999]),
            (address, 69_999.0)
        );
        assert_eq!(private.as_slice::<f32>().unwrap()[69_999], -1.0);
        assert_eq!(std::fs::read(&path).unwrap(), written);
        assert_eq!(pool.get_metrics().allocation_count, before);
    }

    #[test]
    fn released_pages_come_back() {
        let dir = TempDir::new("mapped-release");
        let path = dir.path().join("a");
        let expected: Vec<u8> = (0..400_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &expected).unwrap();
        let memory = MappedMemory::read_only(&File::open(&path).unwrap()).unwrap();
        for range in [1..399_999, 0..400_000, 70_000..70_001, 5..5, 65_536..131_072] {
            memory.release(range);
            assert_eq!(memory.bytes(), expected);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let dir = TempDir::new("mapped-refused");
        let error = MappedTensors::open(&dir.path().join("absent")).unwrap_err();
        assert!(matches!(error.kind(), bitnet_backend::ErrorKind::Io { .. }), "{error}");
        assert!(MappedTensors::open(dir.path()).unwrap_err().to_string().contains("expected a file"));
        std::fs::write(dir.path().join("empty"), "").unwrap();
        let error = MappedTensors::open(&dir.path().join("empty")).unwrap_err().to_string();
        assert!(error.ends_with("empty: file: expected at least 8 bytes, found 0"), "{error}");
        let file = File::open(dir.path().join("empty")).unwrap();
        assert!(MappedMemory::private(&file, 0..1).is_err());
    }
}
