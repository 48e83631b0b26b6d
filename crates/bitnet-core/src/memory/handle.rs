//! Names of blocks.

use std::fmt;

use bitnet_backend::Device;

use super::slots::Key;

/// Names one block of one [`HybridMemoryPool`](super::HybridMemoryPool).
///
/// A handle owns nothing and keeps nothing alive: clones name the same block, and every use is checked.
/// After the block is deallocated, the handle and its clones are refused with
/// [`ErrorKind::InvalidHandle`](bitnet_backend::ErrorKind::InvalidHandle), whatever has taken its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryHandle {
    pub(super) pool: u64,
    pub(super) key: Key,
    pub(super) size: usize,
    pub(super) align: usize,
    pub(super) device: Device,
}

impl MemoryHandle {
    /// Returns the size of the block in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the alignment that was asked for, in bytes.
    pub fn align(&self) -> usize {
        self.align
    }

    /// Returns the device whose memory the block is.
    pub fn device(&self) -> Device {
        self.device
    }
}

impl fmt::Display for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { index, generation } = self.key;
        write!(f, "{}.{index}.{generation} ({} bytes on {})", self.pool, self.size, self.device)
    }
}
