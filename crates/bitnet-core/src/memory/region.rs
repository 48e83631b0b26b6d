//! Regions of device memory that give themselves back.
#![allow(unsafe_code)]

use std::sync::Arc;

use bitnet_backend::{Device, DeviceMemory, MemoryRegion, Result};

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

    pub(super) fn device(&self) -> Device {
        self.memory.device()
    }
}

impl Drop for OwnedRegion {
    fn drop(&mut self) {
        // SAFETY:
        // - `region` came from `memory.acquire` in the only constructor;
        // - an `OwnedRegion` is neither cloned nor taken apart, so this is its one release;
        // - slices into it exist only under a pin, and the pool drops no pinned block.
        unsafe { self.memory.release(self.region) }
    }
}
