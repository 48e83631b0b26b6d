//! The state of a pool as a document: taken, kept in a file, compared, and its configuration restored.
//!
//! A snapshot says what a pool was set to, what it had handed out and, from level Standard of tracking on, every live
//! block with its size, class, device, tag and generation. It holds no contents: bytes are saved as tensors
//! ([`tensor::file`](crate::memory::tensor::file)). `docs/memory-snapshot.md` describes the document.

mod difference;
#[cfg(test)]
mod tests;
mod wire;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bitnet_backend::{BitNetError, Device, Result};

use super::LiveBlock;
use crate::files::AtomicFile;
use crate::memory::records::Kind;
use crate::memory::small::SIZES;
use crate::memory::{
    HybridMemoryPool, LargeStrategy, MemoryMetrics, MemoryPoolConfig, MemoryPressureLevel, PoolBuilder,
    PoolFootprint,
};

pub use difference::SnapshotDifference;

/// Greatest file that is read, in bytes: a million live blocks take a fifth of it.
const FILE_LIMIT: u64 = 1 << 30;

/// What a pool was at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PoolSnapshot {
    /// Settings that the specification names.
    pub config: MemoryPoolConfig,
    /// How room for large blocks is found.
    pub large_strategy: LargeStrategy,
    /// Totals.
    pub metrics: MemoryMetrics,
    /// Where the memory is.
    pub footprint: PoolFootprint,
    /// How short memory was.
    pub pressure: MemoryPressureLevel,
    /// Live blocks, the oldest first; `None` where the pool does not know them.
    pub blocks: Option<Vec<SnapshotBlock>>,
}

/// A live block of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotBlock {
    /// Bytes asked for.
    pub size: u64,
    /// Bytes of its size class; `None` for a block of its own.
    pub class: Option<u32>,
    /// Device.
    pub device: Device,
    /// Scope tag.
    pub tag: String,
    /// How many blocks were in its place before.
    pub generation: u32,
    /// How long it had been allocated.
    pub age: Duration,
    /// Whether it was pinned.
    pub pinned: bool,
    /// Where it was allocated, `file:line`, at level Detailed.
    pub site: Option<String>,
}

impl HybridMemoryPool {
    /// Returns what the pool is now. Other threads that allocate meanwhile may show in one figure and not in another.
    pub fn snapshot(&self) -> PoolSnapshot {
        let devices = &self.shared.devices;
        let known = self.tracking_level() >= super::TrackingLevel::Standard;
        let block = |block: LiveBlock| SnapshotBlock {
            size: block.size,
            class: match self.shared.records.get(block.slot.record).map(|record| record.kind) {
                Some(Kind::Small(class)) => SIZES.get(usize::from(class)).copied(),
                _ => None,
            },
            device: devices.get(usize::from(block.device)).map_or(Device::Cpu, |pool| pool.device),
            tag: block.tag.to_owned(),
            generation: block.generation,
            age: block.age,
            pinned: block.pinned,
            site: block.site.map(|site| format!("{}:{}", site.file(), site.line())),
        };
        PoolSnapshot {
            config: self.config().clone(),
            large_strategy: devices.first().map(|pool| pool.large_heap.strategy()).unwrap_or_default(),
            metrics: self.get_metrics(),
            footprint: self.footprint(),
            pressure: self.pressure_level(),
            blocks: known.then(|| self.live_blocks().into_iter().map(block).collect()),
        }
    }
}

impl PoolSnapshot {
    /// Begins a pool with the settings of this one. What is not in a snapshot, hooks and other devices, is to be added;
    /// ratios and limits are checked when the pool is built.
    pub fn builder(&self) -> PoolBuilder {
        HybridMemoryPool::builder().config(self.config.clone()).large_strategy(self.large_strategy)
    }

    /// Returns the document.
    ///
    /// # Errors
    /// None today.
    pub fn to_json(&self) -> Result<String> {
        wire::write(self)
    }

    /// Reads a document; `source` names it in messages.
    ///
    /// # Errors
    /// `Mismatch` for another schema, for fields that are missing, unknown or of the wrong type, and for figures that
    /// contradict each other.
    pub fn from_json(text: &[u8], source: &str) -> Result<Self> {
        wire::read(text).map_err(|error| error.context(source))
    }

    /// Writes the document; the file appears whole or not at all.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn save(&self, target: &Path) -> Result<()> {
        let text = self.to_json()?;
        let mut file = AtomicFile::create(target)?;
        file.write(text.as_bytes())?;
        file.commit()
    }

    /// Reads a document from a file.
    ///
    /// # Errors
    /// `Io` when the system refuses; `Mismatch` over 1 GiB; otherwise as [`from_json`](Self::from_json).
    pub fn load(path: &Path) -> Result<Self> {
        let failed = |error| BitNetError::io(path, "read", &error);
        let source = path.display().to_string();
        // Before it is opened: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(BitNetError::mismatch(source, "a file", "a folder, pipe or device"));
        }
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(BitNetError::mismatch(source, format!("at most {FILE_LIMIT} bytes"), "more"));
        }
        Self::from_json(&text, &source)
    }
}
