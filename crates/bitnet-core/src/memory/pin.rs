//! Access to the bytes of a block.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::{ptr, slice};

use bitnet_backend::{Device, MemoryRegion};

use super::MemoryHandle;
use super::pool::Shared;
use super::slots::Key;

/// The entry of a guard in the books of the pool; dropping it takes the entry out.
///
/// While it exists, the block is neither deallocated nor moved, and the pool lives. The pool makes one
/// only for host memory.
pub(super) struct Pin {
    pool: Arc<Shared>,
    key: Key,
    region: MemoryRegion,
}

impl Pin {
    /// Adopts an entry that the pool has made already.
    pub(super) fn new(pool: Arc<Shared>, key: Key, region: MemoryRegion) -> Self {
        Pin { pool, key, region }
    }

    fn handle(&self) -> MemoryHandle {
        // Only host memory is pinned.
        self.pool.handle(self.key, self.region, Device::Cpu)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pool.unpin(self.key);
    }
}

/// Shared access to the bytes of a block: any number at a time, and no [`PinGuardMut`] beside them.
pub struct PinGuard(pub(super) Pin);

/// Exclusive access to the bytes of a block: one at a time, and no [`PinGuard`] beside it.
pub struct PinGuardMut(pub(super) Pin);

impl PinGuardMut {
    /// Ends the access and returns the handle of the block.
    pub fn into_handle(self) -> MemoryHandle {
        self.0.handle()
    }
}

impl Deref for PinGuard {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let MemoryRegion { address, size, .. } = self.0.region;
        // SAFETY:
        // - the region is `size` host bytes at `address`, zeroed when acquired, its provenance exposed;
        // - the pin keeps it allocated and in place for longer than the returned borrow of `self`;
        // - the pool gives out no exclusive pin of a block that has a shared one, so nothing writes.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), size) }
    }
}

impl Deref for PinGuardMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let MemoryRegion { address, size, .. } = self.0.region;
        // SAFETY: as for `PinGuard`; the pin is the only one, and `&self` keeps `deref_mut` away.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(address), size) }
    }
}

impl DerefMut for PinGuardMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let MemoryRegion { address, size, .. } = self.0.region;
        // SAFETY:
        // - the region is `size` host bytes at `address`, zeroed when acquired, its provenance exposed;
        // - the pin keeps it allocated and in place for longer than the returned borrow of `self`;
        // - the pool gives out no other pin of the block, and `&mut self` is the only way in here.
        unsafe { slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(address), size) }
    }
}

impl fmt::Debug for PinGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinGuard({} bytes)", self.len())
    }
}

impl fmt::Debug for PinGuardMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinGuardMut({} bytes)", self.len())
    }
}
