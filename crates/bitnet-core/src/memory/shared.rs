//! What all clones of a pool share: its devices and records, its threads and what they count.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, Result};

use super::bias::{Gate, NO_TICKET, Tickets};
use super::builder::PoolHooks;
use super::cache::{self, ThreadCache, ThreadShare};
use super::cleanup::Cleaner;
use super::counters::{Common, Counters, Totals, highest};
use super::device_pool::DevicePool;
use super::forwards::Forwards;
use super::handle::pool_of;
use super::heap::LargeStrategy;
use super::pressure::{MemoryPressureLevel, PressureMonitor};
use super::records::{Kind, Record, Records};
use super::tracking::Tracking;
use super::word::Refusal;
use super::{MemoryHandle, MemoryMetrics, MemoryPoolConfig};

/// The device whose small blocks threads keep at hand and count: the first of the pool.
pub(super) const CACHED: u8 = 0;

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
    /// Whether host memory is served without further question: threads keep it at hand, and nobody admits requests.
    pub(super) direct: bool,
    pub(super) pressure: PressureMonitor,
    pub(super) cleaner: Cleaner,
}

#[derive(Default)]
struct Threads {
    shares: Vec<Arc<ThreadShare>>,
    tickets: Tickets,
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
            trims: AtomicU32::new(0),
            direct: hooks.admission.is_none()
                && memories.first().is_some_and(|memory| memory.device().is_cpu()),
            hooks,
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

    /// Settles what a thread has pending.
    pub(super) fn settle(&self, cache: &ThreadCache) {
        cache.share.counters.settle_reaching(&self.common, |counted| self.raise_peaks(counted));
    }

    /// Raises the peaks to what is out now, where the caller has nothing pending.
    pub(super) fn reach(&self) {
        self.raise_peaks(self.common.settled());
    }

    /// Raises the peaks, `counted` being the bytes that threads count.
    fn raise_peaks(&self, counted: i64) {
        let mut all = 0;
        for pool in &self.devices {
            let own = pool.live_bytes() + if pool.index == CACHED { counted } else { 0 };
            pool.peak.reach(own);
            all += own;
        }
        self.common.peak.reach(all);
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register_thread(&self) -> Arc<ThreadShare> {
        let mut threads = self.threads();
        let share = ThreadShare { gate: Gate::new(threads.tickets.take()), counters: Counters::default() };
        let share = Arc::new(share);
        threads.shares.push(Arc::clone(&share));
        share
    }

    /// Returns the bytes of live blocks that threads do not count.
    fn beside(&self) -> i64 {
        self.devices.iter().map(DevicePool::live_bytes).sum()
    }

    /// Takes the blocks and counts of a thread that ends.
    pub(super) fn hand_over(&self, cache: &mut ThreadCache) {
        self.empty_cache(cache);
        self.settle(cache);
        let mut threads = self.threads();
        threads.shares.retain(|share| !Arc::ptr_eq(share, &cache.share));
        threads.tickets.give_back(cache.share.gate.ticket());
        let totals = cache.share.counters.totals();
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
    fn usage_of_limits(&self) -> f64 {
        let heaps = self.devices.iter().flat_map(|pool| [&pool.small_heap, &pool.large_heap]);
        let limited = heaps.filter(|heap| heap.limit() < usize::MAX);
        limited.map(|heap| heap.figures().held as f64 / heap.limit().max(1) as f64).fold(0.0, f64::max)
    }

    /// Looks at the memory pressure, where it is watched and the last look is older than `age`.
    pub(super) fn check_pressure(&self, age: Duration) -> MemoryPressureLevel {
        self.pressure.check(|| self.usage_of_limits(), age)
    }

    /// Looks at the memory now: returns the share in use, and the pressure where it is watched.
    pub(super) fn look_at_memory(&self) -> (f64, MemoryPressureLevel) {
        self.pressure.look(self.usage_of_limits())
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

    /// Finds the record that a handle names, if it is of this pool and epoch.
    pub(super) fn record_of(&self, handle: &MemoryHandle) -> Result<&Record> {
        if pool_of(handle.home) != self.id {
            return Err(invalid(handle, "it belongs to another pool"));
        }
        let slot = handle.slot();
        let record = self
            .records
            .get(slot.record)
            .filter(|record| (slot.object as usize) < record.words.len() && handle.size <= record.stride());
        match record {
            Some(record) if record.epoch() == handle.epoch() => Ok(record),
            Some(_) => Err(stale(handle)),
            None => Err(invalid(handle, "it names no block of this pool")),
        }
    }

    /// Makes sure that the thread `ticket` may change words of a record by atomic exchange.
    #[inline]
    pub(super) fn open(&self, record: &Record, ticket: u32) {
        if record.bias.open(ticket, |owner| self.wait_outside(owner)) && ticket != NO_TICKET {
            self.distrust(record);
        }
    }

    /// Makes sure that this thread may change words of a record by atomic exchange.
    pub(super) fn open_here(self: &Arc<Self>, record: &Record) {
        if !record.bias.is_shared() {
            let ticket = cache::with(self, |cache| cache.share.gate.ticket()).unwrap_or(NO_TICKET);
            self.open(record, ticket);
        }
    }

    /// Waits until a thread is outside its gate. One that is not listed any more will not enter again.
    pub(super) fn wait_outside(&self, ticket: u32) {
        let share = self.threads().shares.iter().find(|share| share.gate.ticket() == ticket).cloned();
        if let Some(share) = share {
            share.gate.wait();
        }
    }

    /// Reports whether a thread has ended.
    pub(super) fn has_ended(&self, ticket: u32) -> bool {
        self.threads().tickets.is_free(ticket)
    }

    fn distrust(&self, record: &Record) {
        let Some(pool) = self.devices.get(record.device as usize) else { return };
        match record.kind {
            Kind::Small(class) => pool.small.revoked(class as usize),
            Kind::Single { large } => pool.heap(large).trust.revoked(),
        }
    }

    /// Returns what threads count, and the most bytes of it that may have been out at once since they settled.
    fn counted(&self) -> (Totals, i64) {
        let threads = self.threads();
        let mut totals = threads.ended;
        threads.shares.iter().for_each(|share| totals.add(share.counters.totals()));
        (totals, highest(&self.common, threads.shares.iter().map(|share| &share.counters)))
    }

    /// Returns the sums and the peak of each device.
    pub(super) fn totals_of_devices(&self) -> Vec<(Device, Totals, i64)> {
        let (counted, highest) = self.counted();
        let totals = |pool: &DevicePool| {
            let (mut totals, mut out) = (pool.small_heap.lock().totals, pool.live_bytes());
            totals.add(pool.large_heap.lock().totals);
            if pool.index == CACHED {
                totals.add(counted);
                out += highest;
            }
            (pool.device, totals, pool.peak.get().max(out))
        };
        self.devices.iter().map(totals).collect()
    }

    pub(super) fn metrics(&self) -> MemoryMetrics {
        let (mut small, highest) = self.counted();
        let peak = self.common.peak.get().max(self.beside() + highest);
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
