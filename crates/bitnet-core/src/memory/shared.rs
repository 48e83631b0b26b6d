//! What all clones of a pool share, and what happens to a block between request and return.

use std::num::NonZeroU32;
use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, Result};

use super::builder::{AllocationRequest, PoolHooks};
use super::cache::{self, BATCH, ThreadCache};
use super::cleanup::Cleaner;
use super::counters::{Common, Counters, Totals, peak};
use super::device_pool::DevicePool;
use super::forwards::Forwards;
use super::heap::LargeStrategy;
use super::pressure::{MemoryPressureLevel, PressureMonitor};
use super::records::{Kind, Record, Records};
use super::small::{PAGE, Slot, class_of};
use super::tracking::{Tracked, Tracking, TrackingLevel, single_row};
use super::word::{Freed, Refusal};
use super::{MemoryHandle, MemoryMetrics, MemoryPoolConfig, SMALL_BLOCK_LIMIT};

/// The device whose small blocks threads keep at hand: the first of the pool.
const CACHED: u8 = 0;
/// Age up to which the last look at the memory pressure counts.
const PRESSURE_AGE: Duration = Duration::from_millis(250);

pub(super) struct Shared {
    id: u32,
    pub(super) config: MemoryPoolConfig,
    pub(super) records: Records,
    pub(super) devices: Vec<DevicePool>,
    pub(super) forwards: Mutex<Forwards>,
    common: Common,
    threads: Mutex<Threads>,
    tracking: Option<Tracking>,
    pub(super) hooks: PoolHooks,
    trims: AtomicU32,
    /// Whether threads keep host memory at hand.
    host_first: bool,
    pub(super) pressure: PressureMonitor,
    pub(super) cleaner: Cleaner,
}

/// A block that was made live: what its handle is made of. It stays in registers until then, since copying a
/// handle right after its fields were written waits for the writes.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    slot: Slot,
    epoch: u32,
    generation: u32,
}

#[derive(Default)]
struct Threads {
    counters: Vec<Arc<Counters>>,
    /// Sums of threads that ended.
    ended: Totals,
}

impl Shared {
    pub(super) fn new(
        config: MemoryPoolConfig,
        memories: &[Arc<dyn DeviceMemory>],
        strategy: LargeStrategy,
        tracking: Option<Tracking>,
        hooks: PoolHooks,
        pressure: PressureMonitor,
    ) -> Self {
        static NEXT_ID: AtomicU32 = AtomicU32::new(1);
        // Zero is what a thread's cache has before its first pool.
        let id = NonZeroU32::new(NEXT_ID.fetch_add(1, Ordering::Relaxed)).map_or(1, NonZeroU32::get);
        let device = |(index, memory)| DevicePool::new(index as u8, memory, &config, strategy);
        Shared {
            id,
            devices: memories.iter().enumerate().map(device).collect(),
            config,
            records: Records::default(),
            forwards: Mutex::default(),
            common: Common::default(),
            threads: Mutex::default(),
            tracking,
            hooks,
            trims: AtomicU32::new(0),
            host_first: memories.first().is_some_and(|memory| memory.device().is_cpu()),
            pressure,
            cleaner: Cleaner::default(),
        }
    }

    #[inline]
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    #[inline]
    pub(super) fn tracking(&self) -> Option<&Tracking> {
        self.tracking.as_ref()
    }

    pub(super) fn trim_requests(&self) -> u32 {
        self.trims.load(Ordering::Relaxed)
    }

    pub(super) fn forwards(&self) -> MutexGuard<'_, Forwards> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports whether threads count the small blocks of a device.
    pub(super) fn counts_in_threads(&self, pool: &DevicePool) -> bool {
        pool.index == CACHED
    }

    /// Settles what a thread has pending.
    pub(super) fn settle(&self, cache: &ThreadCache) {
        cache.counters.settle(&self.common, self.beside());
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register_thread(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.threads().counters.push(Arc::clone(&counters));
        counters
    }

    /// Returns the bytes of live blocks that threads do not count.
    pub(super) fn beside(&self) -> i64 {
        self.devices.iter().map(DevicePool::live_bytes).sum()
    }

    /// Takes the blocks and counts of a thread that ends.
    pub(super) fn hand_over(&self, cache: &mut ThreadCache) {
        self.empty_cache(cache);
        cache.counters.settle(&self.common, self.beside());
        let mut threads = self.threads();
        threads.counters.retain(|counters| !Arc::ptr_eq(counters, &cache.counters));
        let totals = cache.counters.totals();
        threads.ended.add(totals);
        drop(threads);
        if let (Some(tracking), Some(tracker)) = (&self.tracking, &cache.tracker) {
            tracking.end_thread(tracker);
        }
    }

    /// Runs `f` on this thread's cache, or on one of its own where the thread is ending and has none.
    #[inline]
    pub(super) fn with_cache<R>(self: &Arc<Self>, f: impl FnOnce(&mut ThreadCache) -> R) -> R {
        let mut f = Some(f);
        let done = cache::with(self, |cache| f.take().map(|f| f(cache)));
        match (done.flatten(), f) {
            (Some(done), _) => done,
            (None, Some(f)) => {
                let mut cache = ThreadCache::passing(self);
                let done = f(&mut cache);
                self.hand_over(&mut cache);
                done
            }
            (None, None) => unreachable!("a closure that ran returned nothing"),
        }
    }

    /// Returns the greatest share in use of a limit of this pool; 0 without limits.
    pub(super) fn usage_of_limits(&self) -> f64 {
        let heaps = self.devices.iter().flat_map(|pool| [&pool.small_heap, &pool.large_heap]);
        let limited = heaps.filter(|heap| heap.limit() < usize::MAX);
        limited.map(|heap| heap.figures().held as f64 / heap.limit().max(1) as f64).fold(0.0, f64::max)
    }

    /// Looks at the memory pressure, where it is watched and the last look is older than `age`.
    pub(super) fn check_pressure(&self, age: Duration) -> MemoryPressureLevel {
        if self.pressure.enabled() {
            self.pressure.check(|| self.usage_of_limits(), age)
        } else {
            MemoryPressureLevel::None
        }
    }

    /// Takes all blocks that a thread keeps at hand.
    pub(super) fn empty_cache(&self, cache: &mut ThreadCache) {
        let Some(device) = self.devices.get(CACHED as usize) else { return };
        let ground = device.ground(&self.records);
        cache.empty(|class, slots| device.small.give_back(ground, class, slots));
    }

    /// Asks every thread to give back what it keeps at hand, which it does when it next runs out or over.
    pub(super) fn request_trim(&self) {
        self.trims.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn device_of(&self, device: &Device) -> Result<&DevicePool> {
        match self.devices.iter().find(|pool| pool.device == *device) {
            Some(pool) => Ok(pool),
            None => {
                crate::device::availability(device)?;
                let reason = "this pool holds no memory of it".to_string();
                Err(BitNetError::new(ErrorKind::DeviceUnavailable { device: *device, reason }))
            }
        }
    }

    /// Turns a free block into a live one, and counts it where `COUNTED`: a small one of the first device.
    #[inline]
    fn hand_out<const COUNTED: bool>(
        &self,
        cache: &mut ThreadCache,
        slot: Slot,
        size: usize,
        row: usize,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        let record = self.records.get(slot.record)?;
        let generation = record.words[slot.object as usize].activate();
        if COUNTED && cache.counters.allocate(size) {
            cache.counters.settle(&self.common, self.beside());
        }
        if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, &self.tracking) {
            tracker.allocated(tracking, Tracked { record, slot, generation, size, row }, site);
        }
        Some(Taken { slot, epoch: record.epoch(), generation })
    }

    /// Names a block.
    #[inline]
    pub(super) fn handle(&self, taken: Taken, request: &AllocationRequest) -> MemoryHandle {
        MemoryHandle {
            size: request.size,
            pool: self.id,
            slot: taken.slot,
            epoch: taken.epoch,
            generation: taken.generation,
            align_log2: request.align.trailing_zeros(),
            device: request.device,
        }
    }

    /// Allocates a small block that this thread has at hand.
    #[inline]
    pub(super) fn allocate_at_hand(
        self: &Arc<Self>,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Option<Taken> {
        if !(self.host_first && request.device.is_cpu()) {
            return None;
        }
        let class = class_of(request.size, request.align);
        cache::with(self, |cache| {
            let slot = cache.pop(class)?;
            self.hand_out::<true>(cache, slot, request.size, class, site)
        })
        .flatten()
    }

    /// Allocates a block, freeing memory and asking the failure callback where there is none. Returns it with
    /// the bytes after which it reads as zeros.
    pub(super) fn allocate_anew(
        self: &Arc<Self>,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(MemoryHandle, usize)> {
        let pool = self.device_of(&request.device)?;
        self.check_pressure(PRESSURE_AGE);
        let mut attempt = 0;
        loop {
            if let Some(admission) = &self.hooks.admission {
                admission(request)?;
            }
            let error = match self.take(pool, request, site) {
                Ok(taken) => return Ok(taken),
                Err(error) => error,
            };
            if attempt == 0 {
                self.reclaim(pool);
                if let Ok(taken) = self.take(pool, request, site) {
                    return Ok(taken);
                }
            }
            attempt += 1;
            let retry =
                self.hooks.failure.as_ref().is_some_and(|callback| callback(request, &error, attempt));
            if !retry {
                return Err(error);
            }
        }
    }

    /// Gives back to the heaps and the system whatever no block uses.
    pub(super) fn reclaim(self: &Arc<Self>, pool: &DevicePool) -> usize {
        self.request_trim();
        cache::with(self, |cache| self.empty_cache(cache));
        pool.small.release_empty(pool.ground(&self.records));
        pool.small_heap.purge() + pool.large_heap.purge()
    }

    fn take(
        self: &Arc<Self>,
        pool: &DevicePool,
        request: &AllocationRequest,
        site: &'static Location<'static>,
    ) -> Result<(MemoryHandle, usize)> {
        let &AllocationRequest { size, align, .. } = request;
        let large = size >= SMALL_BLOCK_LIMIT;
        if large || align > PAGE {
            self.with_cache(|cache| cache.counters.settle(&self.common, self.beside()));
            let (slot, zero_from) = pool.take_single(&self.records, size, align, large)?;
            self.common.reach(self.common.settled() + self.beside());
            let row = single_row(large);
            let handle = self.with_cache(|cache| self.hand_out::<false>(cache, slot, size, row, site));
            let taken = handle.ok_or_else(super::small::no_records)?;
            return Ok((self.handle(taken, request), zero_from));
        }
        let class = class_of(size, align);
        let ground = pool.ground(&self.records);
        let mut slots = [Slot { record: 0, object: 0 }; BATCH];
        let count = if pool.index == CACHED { cache::batch(class) } else { 1 };
        let count = pool.small.take(ground, class, &mut slots[..count])?;
        let (slot, rest) = (slots[0], &slots[1..count]);
        let handle = self.with_cache(|cache| {
            if cache.trim_wanted(self.trim_requests()) {
                self.empty_cache(cache);
            }
            let kept = rest.iter().take_while(|&&slot| cache.push(class, slot)).count();
            if kept < rest.len() {
                pool.small.give_back(ground, class, &rest[kept..]);
            }
            if pool.index == CACHED {
                self.hand_out::<true>(cache, slot, size, class, site)
            } else {
                self.hand_out::<false>(cache, slot, size, class, site)
            }
        });
        if pool.index != CACHED {
            pool.small_heap.count_allocated(&mut pool.small_heap.lock(), size);
        }
        let taken = handle.ok_or_else(super::small::no_records)?;
        Ok((self.handle(taken, request), size))
    }

    /// Finds the record that a handle names, if it is of this pool and epoch.
    #[inline]
    pub(super) fn record_of(&self, handle: &MemoryHandle) -> Result<&Record> {
        if handle.pool != self.id {
            return Err(invalid(handle, "it belongs to another pool"));
        }
        let record = self.records.get(handle.slot.record).filter(|record| {
            (handle.slot.object as usize) < record.words.len() && handle.size <= record.stride()
        });
        match record {
            Some(record) if record.epoch() == handle.epoch => Ok(record),
            Some(_) => Err(stale(handle)),
            None => Err(invalid(handle, "it names no block of this pool")),
        }
    }

    /// Frees a block.
    #[inline]
    pub(super) fn free(self: &Arc<Self>, handle: &MemoryHandle) -> Result<()> {
        let record = self.record_of(handle)?;
        let tracked = self.tracking.as_ref().filter(|tracking| tracking.level() >= TrackingLevel::Standard);
        let origin = tracked.map_or(0, |_| record.live_slot(handle.slot.object).origin());
        match record.words[handle.slot.object as usize].free(handle.generation) {
            Ok(freed) => {
                if !self.keep(record, handle, freed, origin) {
                    self.take_back(record, handle.slot, handle, freed, origin);
                }
                Ok(())
            }
            Err(Refusal::Moved) => self.free_moved(record, handle, origin),
            Err(refusal) => Err(refused(handle, refusal, "none")),
        }
    }

    /// Keeps the most frequent kind of freed block at hand and counts it; `false` when nothing was done.
    #[inline]
    fn keep(self: &Arc<Self>, record: &Record, handle: &MemoryHandle, freed: Freed, origin: u32) -> bool {
        let Kind::Small(class) = record.kind else { return false };
        if record.device != CACHED || freed == Freed::Retired {
            return false;
        }
        let row = class as usize;
        let kept = cache::with(self, |cache| {
            if !cache.push(row, handle.slot) {
                return false;
            }
            if cache.counters.free(handle.size) {
                cache.counters.settle(&self.common, self.beside());
            }
            if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, &self.tracking) {
                let &MemoryHandle { size, slot, generation, .. } = handle;
                tracker.freed(tracking, Tracked { record, slot, generation, size, row }, origin);
            }
            true
        });
        kept == Some(true)
    }

    /// Puts a freed block where the next request finds it, and counts it.
    #[inline(never)]
    fn take_back(
        self: &Arc<Self>,
        record: &Record,
        slot: Slot,
        handle: &MemoryHandle,
        freed: Freed,
        origin: u32,
    ) {
        let Some(pool) = self.devices.get(record.device as usize) else { return };
        let (class, row) = match record.kind {
            Kind::Small(class) => (Some(class as usize), class as usize),
            Kind::Single { large } => (None, single_row(large)),
        };
        let ground = pool.ground(&self.records);
        let count = |cache: &mut ThreadCache| {
            // What is counted elsewhere is about to change, and a peak is that of all together.
            let due = class.is_none() || pool.index == CACHED && cache.counters.free(handle.size);
            if due {
                cache.counters.settle(&self.common, self.beside());
            }
            if let (Some(tracker), Some(tracking)) = (&mut cache.tracker, &self.tracking) {
                let (slot, generation) = (handle.slot, handle.generation);
                tracker.freed(tracking, Tracked { record, slot, generation, size: handle.size, row }, origin);
            }
        };
        let Some(class) = class else {
            self.with_cache(count);
            pool.free_single(&self.records, slot, handle.size, row == single_row(true));
            return;
        };
        let kept = self.with_cache(|cache| {
            count(cache);
            if freed == Freed::Retired || pool.index != CACHED {
                return false;
            }
            if !cache.push(class, slot) {
                self.spill(pool, cache, class);
                return cache.push(class, slot);
            }
            true
        });
        if kept {
            return;
        }
        match freed {
            Freed::Reusable => pool.small.give_back(ground, class, &[slot]),
            Freed::Retired => pool.small.retire(ground, class, slot),
        }
        if pool.index != CACHED {
            pool.small_heap.count_freed(&mut pool.small_heap.lock(), handle.size);
        }
    }

    #[cold]
    fn spill(&self, pool: &DevicePool, cache: &mut ThreadCache, class: usize) {
        if cache.trim_wanted(self.trim_requests()) {
            self.empty_cache(cache);
            return;
        }
        let mut slots = [Slot { record: 0, object: 0 }; BATCH];
        let count = cache.spill(class, &mut slots);
        pool.small.give_back(pool.ground(&self.records), class, &slots[..count]);
    }

    /// Frees a block that was moved: at its place, and then its name.
    #[cold]
    fn free_moved(self: &Arc<Self>, named: &Record, handle: &MemoryHandle, origin: u32) -> Result<()> {
        let mut forwards = self.forwards();
        let Some(target) = forwards.get(handle.slot) else { return Err(stale(handle)) };
        let Some(record) = self.records.get(target.slot.record) else { return Err(stale(handle)) };
        let word = &record.words[target.slot.object as usize];
        let freed = word.free(target.generation).map_err(|refusal| refused(handle, refusal, "none"))?;
        forwards.forget(handle.slot);
        let retired = named.words[handle.slot.object as usize].free_moved();
        drop(forwards);
        if let (Some(pool), Kind::Small(class)) = (self.devices.get(named.device as usize), named.kind) {
            pool.small.free_moved(pool.ground(&self.records), class as usize, handle.slot, retired);
        }
        self.take_back(record, target.slot, handle, freed, origin);
        Ok(())
    }

    pub(super) fn unpin(&self, slot: Slot) {
        if let Some(record) = self.records.get(slot.record) {
            record.words[slot.object as usize].unpin();
        }
    }

    pub(super) fn metrics(&self) -> MemoryMetrics {
        let threads = self.threads();
        let mut small = threads.ended;
        threads.counters.iter().for_each(|counters| small.add(counters.totals()));
        let peak = peak(&self.common, self.beside(), threads.counters.iter().map(|counters| &**counters));
        drop(threads);
        let mut large = Totals::default();
        for pool in &self.devices {
            small.add(pool.small_heap.lock().totals);
            large.add(pool.large_heap.lock().totals);
        }
        let mut all = small;
        all.add(large);
        let live = |totals: Totals| totals.live_bytes().max(0) as u64;
        MemoryMetrics {
            total_allocated: all.allocated_bytes,
            total_deallocated: all.freed_bytes,
            current_allocated: live(all),
            peak_allocated: (peak.max(0) as u64).max(live(all)),
            allocation_count: all.allocated,
            deallocation_count: all.freed,
            small_allocated: live(small),
            large_allocated: live(large),
        }
    }
}

pub(super) fn invalid(handle: &MemoryHandle, reason: &'static str) -> BitNetError {
    BitNetError::new(ErrorKind::InvalidHandle { handle: handle.to_string(), reason })
}

pub(super) fn stale(handle: &MemoryHandle) -> BitNetError {
    invalid(handle, "its block was deallocated before")
}

/// Returns the error of a block whose word refused; `expected` are the pins that would have been right.
pub(super) fn refused(handle: &MemoryHandle, refusal: Refusal, expected: &str) -> BitNetError {
    let pins =
        |found: &str| BitNetError::mismatch(format!("pins of memory handle {handle}"), expected, found);
    match refusal {
        Refusal::Stale | Refusal::Moved => stale(handle),
        Refusal::Exclusive => pins("1 exclusive"),
        Refusal::Shared(count) => pins(&format!("{count} shared")),
    }
}
