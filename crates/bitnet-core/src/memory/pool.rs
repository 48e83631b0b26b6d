//! The pool: requests, limits, handles and pins. Safe code on a table of blocks.
//!
//! Every block is taken from its device's memory when allocated and given back when deallocated. Limits
//! are exact: a block counts from before it is acquired until after it is released, and neither happens
//! under the lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, MemoryRegion, Result};

use super::config::SizeClass;
use super::cpu::CpuMemory;
use super::pin::{Pin, PinGuard, PinGuardMut};
use super::region::OwnedRegion;
use super::slots::{Key, SlotTable};
use super::{MemoryHandle, MemoryMetrics, MemoryPoolConfig};

/// Greatest alignment of a block, that of a huge page.
pub const MAX_ALIGN: usize = 2 * 1024 * 1024;

/// The memory of one program part: blocks by size, device and limit.
///
/// A clone is another handle on the same pool. The pool ends with its last clone, buffer and pin, and
/// gives back whatever is still allocated then.
#[derive(Clone)]
pub struct HybridMemoryPool {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    id: u64,
    config: MemoryPoolConfig,
    memories: Vec<Arc<dyn DeviceMemory>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blocks: SlotTable<Block>,
    metrics: MemoryMetrics,
    /// Bytes that count towards each limit.
    small_reserved: usize,
    large_reserved: usize,
}

struct Block {
    region: OwnedRegion,
    pins: Pins,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pins {
    Shared(usize),
    Exclusive,
}

const UNPINNED: Pins = Pins::Shared(0);

impl HybridMemoryPool {
    /// Makes a pool without limits of its own.
    ///
    /// # Errors
    /// None today; device memories added later may fail to open.
    pub fn new() -> Result<Self> {
        Self::with_config(MemoryPoolConfig::default())
    }

    /// Makes a pool with the given limits.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_config(config: MemoryPoolConfig) -> Result<Self> {
        Ok(Self::with_memories(config, vec![Arc::new(CpuMemory::default())]))
    }

    /// Makes a pool over the given memories, which are trusted to keep to their trait's contract.
    pub(super) fn with_memories(config: MemoryPoolConfig, memories: Vec<Arc<dyn DeviceMemory>>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        HybridMemoryPool { shared: Arc::new(Shared { id, config, memories, state: Mutex::default() }) }
    }

    /// Returns the limits.
    pub fn config(&self) -> &MemoryPoolConfig {
        &self.shared.config
    }

    /// Allocates `size` zeroed bytes on `device`, aligned to `align`.
    ///
    /// # Errors
    /// `InvalidAllocation` for a size of zero or beyond the address space, and for an alignment that is
    /// not a power of two up to [`MAX_ALIGN`]; `OutOfMemory` when a limit or the system refuses;
    /// `DeviceUnavailable` with the reason.
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        check_request(size, align)?;
        let memory = self.memory_of(device)?;
        self.shared.reserve(size)?;
        let region = match OwnedRegion::acquire(memory, size, align) {
            Ok(region) => region,
            Err(error) => {
                *self.shared.lock().reserved_mut(size) -= size;
                return Err(error);
            }
        };
        let mut state = self.shared.lock();
        state.metrics.record_allocation(size);
        let place = region.region();
        let key = state.blocks.insert(Block { region, pins: UNPINNED });
        Ok(self.shared.handle(key, place, *device))
    }

    /// Gives a block back.
    ///
    /// # Errors
    /// `InvalidHandle` for a block that was deallocated before or belongs to another pool; `Mismatch`
    /// for a block that is pinned, which stays allocated.
    pub fn deallocate(&self, handle: MemoryHandle) -> Result<()> {
        let block = {
            let mut state = self.shared.lock();
            let pins = self.block_mut(&mut state, &handle)?.pins;
            if pins != UNPINNED {
                return Err(pinned(&handle, "none", pins));
            }
            state.blocks.remove(handle.key)
        };
        drop(block);
        let mut state = self.shared.lock();
        *state.reserved_mut(handle.size) -= handle.size;
        state.metrics.record_deallocation(handle.size);
        Ok(())
    }

    /// Opens a block for reading. It cannot be deallocated or opened for writing meanwhile.
    ///
    /// # Errors
    /// `InvalidHandle` as [`deallocate`](Self::deallocate); `Mismatch` while a [`PinGuardMut`] exists;
    /// `Unsupported` for memory that the host cannot address.
    pub fn pin(&self, handle: &MemoryHandle) -> Result<PinGuard> {
        let open = |pins| match pins {
            Pins::Shared(count) => Ok(Pins::Shared(count + 1)),
            Pins::Exclusive => Err(pinned(handle, "no exclusive one", pins)),
        };
        self.make_pin(handle, open).map(PinGuard)
    }

    /// Opens a block for writing. It cannot be deallocated or opened a second time meanwhile.
    ///
    /// # Errors
    /// `InvalidHandle` as [`deallocate`](Self::deallocate); `Mismatch` while any other guard exists;
    /// `Unsupported` for memory that the host cannot address.
    pub fn pin_mut(&self, handle: &MemoryHandle) -> Result<PinGuardMut> {
        let open = |pins| match pins {
            UNPINNED => Ok(Pins::Exclusive),
            _ => Err(pinned(handle, "none", pins)),
        };
        self.make_pin(handle, open).map(PinGuardMut)
    }

    /// Returns what has been handed out so far.
    pub fn get_metrics(&self) -> MemoryMetrics {
        self.shared.lock().metrics
    }

    fn memory_of(&self, device: &Device) -> Result<&Arc<dyn DeviceMemory>> {
        match self.shared.memories.iter().find(|memory| memory.device() == *device) {
            Some(memory) => Ok(memory),
            None => {
                crate::device::availability(device)?;
                let reason = "this pool holds no memory of it".to_string();
                Err(BitNetError::new(ErrorKind::DeviceUnavailable { device: *device, reason }))
            }
        }
    }

    fn block_mut<'s>(&self, state: &'s mut State, handle: &MemoryHandle) -> Result<&'s mut Block> {
        let invalid =
            |reason| BitNetError::new(ErrorKind::InvalidHandle { handle: handle.to_string(), reason });
        if handle.pool != self.shared.id {
            return Err(invalid("it belongs to another pool"));
        }
        state.blocks.get_mut(handle.key).ok_or_else(|| invalid("its block was deallocated before"))
    }

    fn make_pin(&self, handle: &MemoryHandle, open: impl Fn(Pins) -> Result<Pins>) -> Result<Pin> {
        let mut state = self.shared.lock();
        let block = self.block_mut(&mut state, handle)?;
        if !block.region.device().is_cpu() {
            return Err(BitNetError::new(ErrorKind::Unsupported {
                backend: "memory pool",
                operation: format!("pinning {handle}"),
                reason: "the host cannot address this memory".into(),
            }));
        }
        block.pins = open(block.pins)?;
        Ok(Pin::new(Arc::clone(&self.shared), handle.key, block.region.region()))
    }

    /// Asserts, between operations, that table, metrics and limits agree.
    #[cfg(test)]
    pub(super) fn debug_validate(&self) {
        let state = self.shared.lock();
        state.blocks.debug_validate();
        let sum = |class| -> usize {
            let sizes = state.blocks.values().map(|block| block.region.region().size);
            sizes.filter(|&size| SizeClass::of(size) == class).sum()
        };
        let (small, large) = (sum(SizeClass::Small), sum(SizeClass::Large));
        assert_eq!((small, large), (state.small_reserved, state.large_reserved));
        let metrics = &state.metrics;
        assert_eq!((small as u64, large as u64), (metrics.small_allocated, metrics.large_allocated));
        assert_eq!(metrics.current_allocated, (small + large) as u64);
        assert_eq!(metrics.total_allocated - metrics.total_deallocated, metrics.current_allocated);
        assert_eq!(metrics.active_allocations(), state.blocks.values().count() as u64);
        assert!(metrics.peak_allocated >= metrics.current_allocated);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No operation leaves the books half-written, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn handle(&self, key: Key, place: MemoryRegion, device: Device) -> MemoryHandle {
        MemoryHandle { pool: self.id, key, size: place.size, align: place.align, device }
    }

    /// Counts `size` bytes towards their limit.
    fn reserve(&self, size: usize) -> Result<()> {
        let class = SizeClass::of(size);
        let (limit, name) = class.limit(&self.config);
        let mut state = self.lock();
        let reserved = state.reserved_mut(size);
        let left = limit.saturating_sub(*reserved);
        if size > left {
            return Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: size,
                purpose: match class {
                    SizeClass::Small => "a small block".into(),
                    SizeClass::Large => "a large block".into(),
                },
                available: format!("{left} of {limit} bytes left ({name})"),
            }));
        }
        *reserved += size;
        Ok(())
    }

    /// Takes one pin of the block out of the books.
    pub(super) fn unpin(&self, key: Key) {
        match self.lock().blocks.get_mut(key).map(|block| &mut block.pins) {
            Some(Pins::Shared(count)) if *count > 0 => *count -= 1,
            Some(pins @ Pins::Exclusive) => *pins = UNPINNED,
            _ => debug_assert!(false, "unpinned a block that has no pins"),
        }
    }
}

impl State {
    fn reserved_mut(&mut self, size: usize) -> &mut usize {
        match SizeClass::of(size) {
            SizeClass::Small => &mut self.small_reserved,
            SizeClass::Large => &mut self.large_reserved,
        }
    }
}

impl fmt::Debug for HybridMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HybridMemoryPool")
            .field("id", &self.shared.id)
            .field("config", &self.shared.config)
            .field("metrics", &self.get_metrics())
            .finish()
    }
}

impl fmt::Display for Pins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pins::Shared(count) => write!(f, "{count} shared"),
            Pins::Exclusive => f.write_str("1 exclusive"),
        }
    }
}

fn pinned(handle: &MemoryHandle, expected: &str, pins: Pins) -> BitNetError {
    BitNetError::mismatch(format!("pins of memory handle {handle}"), expected, pins)
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
