//! Giving back the tail of a block.
//!
//! A block with pages of its own gives whole pages back and stays where it is. A block of a size class moves to
//! a smaller class where that is possible, as its span is cut in equal parts. Both happen under the exclusive
//! pin, and the block gets a new generation: clones of the handle that name the former size are stale.

use std::panic::Location;
use std::sync::Arc;

use bitnet_backend::{BitNetError, ErrorKind, Result};

use super::builder::AllocationRequest;
use super::heap::Place;
use super::pin::{Pin, PinGuardMut};
use super::records::{Kind, Record};
use super::shared::{CACHED, Shared};
use super::small::{class_of, no_records};
use super::tracking::{Tracked, row_of};
use super::{HybridMemoryPool, MemoryHandle};

impl HybridMemoryPool {
    /// Makes a block `size` bytes long; what was in them stays. Clones made of the handle before are stale
    /// afterwards. Counts as a deallocation and an allocation of what is left.
    ///
    /// A block of [`SMALL_BLOCK_LIMIT`](super::SMALL_BLOCK_LIMIT) bytes and more stays in place and gives back
    /// whole pages; a smaller one is copied to a block of a smaller size class, or keeps its own.
    ///
    /// # Errors
    /// `InvalidAllocation` for a size of zero or above the present one; otherwise as [`pin_mut`](Self::pin_mut).
    /// The handle is as it was then.
    #[track_caller]
    pub fn shrink(&self, handle: &mut MemoryHandle, size: usize) -> Result<()> {
        let mut pin = self.pin_mut(handle)?;
        self.shrink_pinned(&mut pin, size, Location::caller())?;
        *handle = pin.into_handle();
        Ok(())
    }

    /// Shrinks a block that is open for writing.
    pub(super) fn shrink_pinned(
        &self,
        pin: &mut PinGuardMut,
        size: usize,
        site: &'static Location<'static>,
    ) -> Result<()> {
        let handle = pin.handle();
        let (present, align) = (handle.size, handle.align());
        if size == 0 || size > present {
            let reason = "a block shrinks to one byte or more, and never grows";
            return Err(BitNetError::new(ErrorKind::InvalidAllocation { size, align, reason }));
        }
        if size == present {
            return Ok(());
        }
        let record = self.shared.records.get(pin.0.slot().record).ok_or_else(no_records)?;
        let narrower = match record.kind {
            Kind::Small(class) => class_of(size, align) < class as usize,
            Kind::Single { .. } => false,
        };
        // Without a smaller block it stays where it is, which holds it as well.
        if narrower && self.replace(pin, size, site).is_ok() || self.shared.shrink_in_place(&mut pin.0, size)
        {
            return Ok(());
        }
        self.replace(pin, size, site)
    }

    /// Copies the first `size` bytes to another block and gives the present one back.
    fn replace(&self, pin: &mut PinGuardMut, size: usize, site: &'static Location<'static>) -> Result<()> {
        let handle = pin.handle();
        let request = AllocationRequest { size, align: handle.align(), device: handle.device() };
        let mut next = self.allocate_open(&request, site)?.0;
        next.copy_from_slice(&pin[..size]);
        std::mem::replace(pin, next).free();
        Ok(())
    }
}

impl Shared {
    /// Shortens a block without moving it; `false` where it has to get another place: its generations are used
    /// up, or its handle names a place that it has left.
    fn shrink_in_place(self: &Arc<Self>, pin: &mut Pin, size: usize) -> bool {
        let (slot, former) = (pin.slot(), pin.handle().size);
        let Some(record) = self.records.get(slot.record) else { return false };
        let Some(pool) = self.devices.get(record.device as usize) else { return false };
        if slot != pin.handle().slot() {
            return false;
        }
        let Some(generation) = record.words[slot.object as usize].renew() else { return false };
        let row = row_of(record.kind);
        let tracked = Tracked { record, slot, object: slot.object, generation, size: former, row };
        match record.kind {
            Kind::Small(_) if pool.index == CACHED => self.note_shrunk(tracked, size, true),
            Kind::Small(_) => {
                self.note_shrunk(tracked, size, false);
                let mut books = pool.small_heap.lock();
                pool.small_heap.count_freed(&mut books, former);
                pool.small_heap.count_allocated(&mut books, size);
            }
            Kind::Single { large } => {
                self.note_shrunk(tracked, size, false);
                let heap = pool.heap(large);
                let mut books = heap.lock();
                let place = heap.shrink(&mut books, place_of(record), size);
                heap.count_freed(&mut books, former);
                heap.count_allocated(&mut books, size);
                drop(books);
                record.place(place);
            }
        }
        pin.rename(size, generation);
        true
    }

    /// Counts a block of size `tracked.size` as one of `size` bytes: in this thread where `counted`, and where
    /// it is tracked. Where it is counted elsewhere, that is about to change, and a peak is that of all together.
    fn note_shrunk(self: &Arc<Self>, tracked: Tracked<'_>, size: usize, counted: bool) {
        let tracking = self.tracking();
        self.with_cache(|cache| {
            let counters = &cache.share.counters;
            let due = !counted || counters.free(tracked.size);
            if counted && counters.allocate(size) || due {
                self.settle(cache);
            }
            if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, tracking) {
                let origin = tracker.origin(tracked.record, tracked.slot);
                tracker.shrunk(tracking, tracked, size, origin);
            }
        });
    }
}

/// Returns the place of a block that has a record of its own.
pub(super) fn place_of(record: &Record) -> Place {
    Place::again(record.address_of(0), record.stride(), record.index())
}
