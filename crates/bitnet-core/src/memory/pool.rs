//! The pool as its users see it: requests, handles, pins and figures.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use bitnet_backend::{BitNetError, Device, ErrorKind, Result};

use super::builder::{AllocationRequest, PoolBuilder};
use super::handle::Taken;
use super::heap::{ARENA_ALIGN, HeapFigures};
use super::pin::{Pin, PinGuard, PinGuardMut};
use super::shared::{Shared, refused, stale};
use super::small::PAGE;
use super::word::{Refusal, Word};
use super::{MemoryHandle, MemoryMetrics, MemoryPoolConfig, PoolFootprint, SMALL_BLOCK_LIMIT};

/// Greatest alignment of a block, that of a huge page.
pub const MAX_ALIGN: usize = ARENA_ALIGN;

/// The memory of one program part: blocks by size, device and limit.
///
/// A clone is another handle on the same pool. The pool ends with its last clone, buffer and pin, and
/// gives back whatever is still allocated then.
#[derive(Clone)]
pub struct HybridMemoryPool {
    pub(super) shared: Arc<Shared>,
}

impl HybridMemoryPool {
    /// Makes a pool of host memory without limits of its own.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Makes a pool of host memory with the given settings.
    ///
    /// # Errors
    /// As [`PoolBuilder::build`].
    pub fn with_config(config: MemoryPoolConfig) -> Result<Self> {
        Self::builder().config(config).build()
    }

    /// Begins a pool with settings that go beyond [`MemoryPoolConfig`].
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// Returns the settings that the specification names.
    pub fn config(&self) -> &MemoryPoolConfig {
        &self.shared.config
    }

    /// Allocates `size` bytes on `device`, aligned to `align`. What they hold is not specified: zeros, or what
    /// an earlier block of this pool left.
    ///
    /// # Errors
    /// `InvalidAllocation` for a size of zero or beyond the address space, and for an alignment that is
    /// not a power of two up to [`MAX_ALIGN`]; `OutOfMemory` when a limit or the system refuses and the failure
    /// callback, if there is one, gives up; `DeviceUnavailable` with the reason.
    #[inline]
    #[track_caller]
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        let site = Location::caller();
        if let Some(taken) = self.allocate_at_once(size, align, device, site) {
            return Ok(self.shared.handle(taken, size, align, device));
        }
        self.allocate_slowly(&AllocationRequest { size, align, device: *device }, site)
            .map(|(handle, _)| handle)
    }

    /// Allocates a block that waits for the next request of its size: at hand, or kept whole.
    #[inline(always)]
    fn allocate_at_once(
        &self,
        size: usize,
        align: usize,
        device: &Device,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        if size.wrapping_sub(1) < SMALL_BLOCK_LIMIT - 1
            && align.is_power_of_two()
            && align <= PAGE
            && device.is_cpu()
            && self.shared.direct
        {
            return self.shared.allocate_at_hand(size, align, site);
        }
        if size.wrapping_sub(SMALL_BLOCK_LIMIT) <= isize::MAX as usize - SMALL_BLOCK_LIMIT
            && align.is_power_of_two()
            && align <= MAX_ALIGN
            && device.is_cpu()
            && self.shared.direct
        {
            return self.shared.allocate_kept(size, align, site);
        }
        None
    }

    /// Allocates `size` zeroed bytes on `device`, aligned to `align`.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate); `Unsupported` for memory that the host cannot address.
    #[track_caller]
    pub fn allocate_zeroed(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        Ok(self.allocate_pinned(size, align, device)?.into_handle())
    }

    /// Allocates zeroed bytes and opens them for writing.
    #[track_caller]
    pub(super) fn allocate_pinned(&self, size: usize, align: usize, device: &Device) -> Result<PinGuardMut> {
        let request = AllocationRequest { size, align, device: *device };
        let (mut pin, dirty) = self.allocate_open(&request, Location::caller())?;
        pin[..dirty].fill(0);
        Ok(pin)
    }

    /// Allocates bytes and opens them for writing; returns how many of them may not be zero, the first ones.
    pub(super) fn allocate_open(
        &self,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(PinGuardMut, usize)> {
        let &AllocationRequest { size, align, ref device } = request;
        let (handle, zero_from) = match self.allocate_at_once(size, align, device, site) {
            Some(taken) => (self.shared.handle(taken, size, align, device), size),
            None => self.allocate_slowly(request, site)?,
        };
        match self.pin_mut(&handle) {
            Ok(pin) => Ok((pin, zero_from.min(request.size))),
            Err(error) => {
                self.deallocate(handle)?;
                Err(error)
            }
        }
    }

    #[inline(never)]
    fn allocate_slowly(
        &self,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(MemoryHandle, usize)> {
        check_request(request.size, request.align)?;
        self.shared.allocate_anew(request, site)
    }

    /// Gives a block back.
    ///
    /// # Errors
    /// `InvalidHandle` for a block that was deallocated before or belongs to another pool; `Mismatch`
    /// for a block that is pinned, which stays allocated.
    #[inline]
    pub fn deallocate(&self, handle: MemoryHandle) -> Result<()> {
        let MemoryHandle { size, name, life, home } = handle;
        let done = if size < SMALL_BLOCK_LIMIT {
            self.shared.free_at_hand(size, name, life, home)
        } else {
            self.shared.free_kept(size, name, life, home)
        };
        if done {
            return Ok(());
        }
        self.shared.free(&MemoryHandle { size, name, life, home })
    }

    /// Opens a block for reading. It cannot be deallocated, moved or opened for writing meanwhile.
    ///
    /// # Errors
    /// `InvalidHandle` as [`deallocate`](Self::deallocate); `Mismatch` while a [`PinGuardMut`] exists, or too
    /// many others; `Unsupported` for memory that the host cannot address.
    pub fn pin(&self, handle: &MemoryHandle) -> Result<PinGuard> {
        let pin = |word: &Word, generation| word.pin_shared(generation);
        self.make_pin(handle, "no exclusive one, and few shared ones", pin).map(PinGuard)
    }

    /// Opens a block for writing. It cannot be deallocated, moved or opened a second time meanwhile.
    ///
    /// # Errors
    /// `InvalidHandle` as [`deallocate`](Self::deallocate); `Mismatch` while any other guard exists;
    /// `Unsupported` for memory that the host cannot address.
    pub fn pin_mut(&self, handle: &MemoryHandle) -> Result<PinGuardMut> {
        let pin = |word: &Word, generation| word.pin_exclusive(generation);
        self.make_pin(handle, "none", pin).map(PinGuardMut)
    }

    fn make_pin(
        &self,
        handle: &MemoryHandle,
        expected: &str,
        pin: impl Fn(&Word, u32) -> Result<(), Refusal>,
    ) -> Result<Pin> {
        let shared = &self.shared;
        let record = shared.record_of(handle)?;
        if !shared.devices.get(record.device as usize).is_some_and(|pool| pool.device.is_cpu()) {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "memory pool",
                operation: format!("pinning {handle}"),
                reason: "the host cannot address this memory".into(),
            }));
        }
        let adopt = |record: &super::records::Record, slot: super::small::Slot| {
            Pin::new(Arc::clone(shared), handle.clone(), slot, record.address_of(slot.object))
        };
        let slot = handle.slot();
        shared.open_here(record);
        match pin(&record.words[slot.object as usize], handle.generation()) {
            Ok(()) => Ok(adopt(record, slot)),
            Err(Refusal::Moved) => {
                // Under the lock, so that the block does not move on or end meanwhile.
                let forwards = shared.forwards();
                let target = forwards.get(slot).ok_or_else(|| stale(handle))?;
                let record = shared.records.get(target.slot.record).ok_or_else(|| stale(handle))?;
                shared.open_here(record);
                let pinned = pin(&record.words[target.slot.object as usize], target.generation);
                drop(forwards);
                pinned.map_err(|refusal| refused(handle, refusal, expected))?;
                Ok(adopt(record, target.slot))
            }
            Err(refusal) => Err(refused(handle, refusal, expected)),
        }
    }

    /// Returns what has been handed out so far.
    pub fn get_metrics(&self) -> MemoryMetrics {
        self.shared.metrics()
    }

    /// Returns where the pool's memory is.
    pub fn footprint(&self) -> PoolFootprint {
        let shared = &self.shared;
        let mut out = PoolFootprint::default();
        for pool in &shared.devices {
            for HeapFigures { held, reserved, free, largest_free, dirty, metadata } in
                [pool.small_heap.figures(), pool.large_heap.figures()]
            {
                out.held += held as u64;
                out.reserved += reserved as u64;
                out.free += free as u64;
                out.purgeable += dirty as u64;
                out.metadata += metadata as u64;
                out.largest_free = out.largest_free.max(largest_free as u64);
            }
            let (_, free, _) = pool.small.figures();
            out.free += free as u64;
            out.free_in_spans += free as u64;
            out.metadata += pool.small.metadata_bytes() as u64;
        }
        out.metadata += (shared.records.metadata_bytes() + shared.forwards().metadata_bytes()) as u64;
        out.metadata += shared.tracking().map_or(0, |tracking| tracking.metadata_bytes() as u64);
        out
    }

    /// Asserts that the books of the pool agree with each other. Meant for tests, between operations: it looks
    /// at every block.
    ///
    /// # Panics
    /// When they do not.
    pub fn debug_validate(&self) {
        let shared = &self.shared;
        for pool in &shared.devices {
            pool.small_heap.debug_validate();
            pool.large_heap.debug_validate();
            pool.small.debug_validate(pool.ground(&shared.records));
        }
        let metrics = self.get_metrics();
        assert_eq!(metrics.total_allocated - metrics.total_deallocated, metrics.current_allocated);
        assert_eq!(metrics.current_allocated, metrics.small_allocated + metrics.large_allocated);
        assert!(metrics.peak_allocated >= metrics.current_allocated);
        let live = shared
            .records
            .iter()
            .flat_map(|(_, record)| record.words.iter())
            .filter(|word| matches!(word.see().0, super::word::Seen::Live | super::word::Seen::Pinned));
        // A moved block is live where it is; the word that its handle names is neither live nor free.
        assert_eq!(metrics.active_allocations(), live.count() as u64);
    }
}

impl fmt::Debug for HybridMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HybridMemoryPool")
            .field("id", &self.shared.id())
            .field("config", self.config())
            .field("metrics", &self.get_metrics())
            .finish()
    }
}

fn check_request(size: usize, align: usize) -> Result<()> {
    let reason = if size == 0 {
        "the size is zero"
    } else if !align.is_power_of_two() {
        "the alignment is not a power of two"
    } else if align > MAX_ALIGN {
        "the alignment exceeds 2 MiB"
    } else if size > isize::MAX as usize - (align - 1) {
        "the size exceeds the address space"
    } else {
        return Ok(());
    };
    Err(BitNetError::new(ErrorKind::InvalidAllocation { size, align, reason }))
}
