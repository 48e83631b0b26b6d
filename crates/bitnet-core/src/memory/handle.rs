//! Names of blocks.

use std::fmt;

use bitnet_backend::Device;

use super::small::Slot;

/// Names one block of one [`HybridMemoryPool`](super::HybridMemoryPool).
///
/// A handle owns nothing and keeps nothing alive: clones name the same block, and every use is checked.
/// After the block is deallocated, the handle and its clones are refused with
/// [`ErrorKind::InvalidHandle`](bitnet_backend::ErrorKind::InvalidHandle), whatever has taken its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MemoryHandle {
    pub(super) size: usize,
    pub(super) pool: u32,
    pub(super) slot: Slot,
    pub(super) epoch: u32,
    pub(super) generation: u32,
    pub(super) align_log2: u32,
    pub(super) device: Device,
}

impl MemoryHandle {
    /// Returns the size of the block in bytes, as asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the alignment that was asked for, in bytes.
    pub fn align(&self) -> usize {
        1 << self.align_log2
    }

    /// Returns the device whose memory the block is.
    pub fn device(&self) -> Device {
        self.device
    }
}

impl fmt::Display for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slot { record, object } = self.slot;
        let MemoryHandle { pool, epoch, generation, size, device, .. } = self;
        write!(f, "{pool}.{record}.{object}.{epoch}.{generation} ({size} bytes on {device})")
    }
}
