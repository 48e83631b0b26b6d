//! Access to the bytes of a block.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::{ptr, slice};

use super::MemoryHandle;
use super::shared::Shared;
use super::small::Slot;

/// One pin in the word of a block; dropping it takes the pin out.
///
/// While it exists, the block is neither deallocated nor moved, and the pool lives. The pool makes one
/// only for host memory.
pub(super) struct Pin {
    pool: Arc<Shared>,
    handle: MemoryHandle,
    /// Where the block is, which need not be where its handle was first given.
    slot: Slot,
    address: usize,
}

impl Pin {
    /// Adopts a pin that the pool has made already: `handle.size` bytes at `address`, the block of `slot`.
    pub(super) fn new(pool: Arc<Shared>, handle: MemoryHandle, slot: Slot, address: usize) -> Self {
        Pin { pool, handle, slot, address }
    }

    pub(super) fn handle(&self) -> &MemoryHandle {
        &self.handle
    }

    /// Returns where the block is.
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    /// Notes that the block, which this pin holds alone, has `size` of its bytes left and a new generation.
    pub(super) fn rename(&mut self, size: usize, generation: u32) {
        debug_assert!(size <= self.handle.size);
        self.handle.rename(size, generation);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.slot != Slot::NONE {
            self.pool.unpin(self.slot);
        }
    }
}

/// Shared access to the bytes of a block: several at a time, and no [`PinGuardMut`] beside them.
pub struct PinGuard(pub(super) Pin);

/// Exclusive access to the bytes of a block: one at a time, and no [`PinGuard`] beside it.
pub struct PinGuardMut(pub(super) Pin);

impl PinGuardMut {
    /// Ends the access and returns the handle of the block.
    pub fn into_handle(self) -> MemoryHandle {
        self.0.handle.clone()
    }

    /// Returns the handle of the block.
    pub fn handle(&self) -> &MemoryHandle {
        &self.0.handle
    }

    /// Ends the access and the block with it: whoever has a clone of the handle can pin it neither before nor after.
    pub(super) fn free(mut self) {
        let slot = std::mem::replace(&mut self.0.slot, Slot::NONE);
        self.0.pool.free_pinned(&self.0.handle, slot);
    }
}

impl Deref for PinGuard {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // - the block is at least `size` host bytes at `address` (the pool checked it against the record),
        //   initialised since its arena was acquired as zeros, its provenance exposed;
        // - the pin keeps it allocated and in place for longer than the returned borrow of `self`;
        // - the word gives out no exclusive pin of a block that has a shared one, so nothing writes.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(self.0.address), self.0.handle.size) }
    }
}

impl Deref for PinGuardMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as for `PinGuard`; the pin is the only one, and `&self` keeps `deref_mut` away.
        unsafe { slice::from_raw_parts(ptr::with_exposed_provenance(self.0.address), self.0.handle.size) }
    }
}

impl DerefMut for PinGuardMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = ptr::with_exposed_provenance_mut(self.0.address);
        // SAFETY:
        // - the block is at least `size` host bytes at `address`, as for `PinGuard`;
        // - the pin keeps it allocated and in place for longer than the returned borrow of `self`;
        // - the word gives out no other pin of the block, and `&mut self` is the only way in here.
        unsafe { slice::from_raw_parts_mut(start, self.0.handle.size) }
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
