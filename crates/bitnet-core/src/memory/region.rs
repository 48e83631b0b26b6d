//! Regions of device memory that give themselves back, and copies between blocks.
#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use bitnet_backend::{DeviceMemory, MemoryRegion, Result};

/// A region together with the memory it came from; dropping it releases it, once.
pub(super) struct OwnedRegion {
    memory: Arc<dyn DeviceMemory>,
    region: MemoryRegion,
}

impl OwnedRegion {
    pub(super) fn acquire(memory: &Arc<dyn DeviceMemory>, size: usize, align: usize) -> Result<Self> {
        let region = memory.acquire(size, align)?;
        Ok(OwnedRegion { memory: Arc::clone(memory), region })
    }

    pub(super) fn region(&self) -> MemoryRegion {
        self.region
    }

    /// Gives the memory of `bytes` bytes at `offset` back to the system; the caller's books say that nobody
    /// has a block there. Returns the bytes given back.
    ///
    /// # Panics
    /// When the range lies outside or is not of whole pages.
    pub(super) fn purge(&self, offset: usize, bytes: usize) -> usize {
        let page = super::small::PAGE;
        assert!(offset.is_multiple_of(page) && bytes.is_multiple_of(page));
        assert!(offset <= self.region.size && bytes <= self.region.size - offset);
        let part = MemoryRegion { address: self.region.address + offset, size: bytes, align: page };
        // SAFETY:
        // - the part lies in the region, which is not released before `self` is dropped, and is of whole
        //   pages, all asserted above;
        // - the heap that owns this region calls it for free pages, under the lock that handing them out takes;
        //   slices exist only under a pin, and no free page has a pinned block.
        unsafe { self.memory.purge(part) }
    }
}

impl Drop for OwnedRegion {
    fn drop(&mut self) {
        // SAFETY:
        // - `region` came from `memory.acquire` in the only constructor;
        // - an `OwnedRegion` is neither cloned nor taken apart, so this is its one release;
        // - slices into it exist only under a pin, and a pin keeps the pool, and so all its regions, alive.
        unsafe { self.memory.release(self.region) }
    }
}

impl fmt::Debug for OwnedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.region.fmt(f)
    }
}

/// Copies a block of host memory to another.
///
/// # Safety
/// Both addresses are those of `bytes` bytes of host memory of one pool in blocks that overlap nowhere; the
/// words of both are such that no slice of either exists (being moved, or not yet handed out).
pub(super) unsafe fn copy_block(from: usize, to: usize, bytes: usize) {
    // SAFETY: by the contract of this function; the provenance of pool memory is exposed.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::with_exposed_provenance::<u8>(from),
            std::ptr::with_exposed_provenance_mut::<u8>(to),
            bytes,
        );
    }
}
