//! Cleanup: memory that no block uses goes back to the system, and blocks move together so that more can.
//!
//! A run drops what threads keep at hand, moves blocks (`compaction`), gives empty spans back and purges free
//! pages, as its strategy says. Pinned blocks are never touched: their words refuse. A pool may run a thread
//! (`scheduler`) that decides when.

mod compaction;
mod config;
mod scheduler;

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitnet_backend::{Device, Result};

pub use self::config::CleanupConfig;
use self::scheduler::Scheduler;
pub(super) use self::scheduler::start;
use super::HybridMemoryPool;
use super::cache;
use super::device_pool::DevicePool;
use super::shared::Shared;

/// Why and how thoroughly a pool cleans up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CleanupStrategy {
    /// Nobody allocates: everything unused goes back to the system.
    Idle,
    /// Memory is short: as idle, and blocks are moved together first.
    Pressure,
    /// From time to time: empty spans go back to the heaps, after blocks are moved together where spans are sparse,
    /// and pages to the system where many are unused.
    Periodic,
    /// Of spans that have been there for some generations, the sparse ones are emptied: what still lives in
    /// them is likely to live on.
    Generational,
}

impl CleanupStrategy {
    /// All strategies.
    pub const ALL: [CleanupStrategy; 4] = [
        CleanupStrategy::Idle,
        CleanupStrategy::Pressure,
        CleanupStrategy::Periodic,
        CleanupStrategy::Generational,
    ];
}

/// When generational cleanup looks at which spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationalSettings {
    /// Generations that a span must have seen. Every run of any strategy begins one.
    pub min_age: u32,
    /// The scheduler runs this strategy every so many periodic runs.
    pub every: u32,
}

impl Default for GenerationalSettings {
    fn default() -> Self {
        GenerationalSettings { min_age: 2, every: 4 }
    }
}

/// What one run did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanupReport {
    /// Its strategy.
    pub strategy: CleanupStrategy,
    /// Bytes of empty spans given back to the heaps.
    pub released_bytes: u64,
    /// Bytes given back to the system.
    pub purged_bytes: u64,
    /// Blocks moved.
    pub moved_blocks: u64,
    /// Bytes of those blocks.
    pub moved_bytes: u64,
    /// Spans that were to be emptied and were not: pinned blocks, or blocks at hand in other threads.
    pub skipped_spans: u64,
    /// Time that it took.
    pub duration: Duration,
    /// Whether it came to its end within the time that it may take; otherwise the next run goes on.
    pub complete: bool,
}

/// What all runs of a pool did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CleanupMetrics {
    /// Runs.
    pub runs: u64,
    /// Runs that ran out of time.
    pub incomplete_runs: u64,
    /// Bytes given back to the system.
    pub purged_bytes: u64,
    /// Blocks moved.
    pub moved_blocks: u64,
    /// Time that all runs took.
    pub duration: Duration,
    /// The latest runs, the oldest first: at most 64.
    pub latest: Vec<CleanupReport>,
}

/// A pool's cleanup: its thread, if it has one, and what was done.
#[derive(Default)]
pub(super) struct Cleaner {
    scheduler: Mutex<Option<Scheduler>>,
    metrics: Mutex<CleanupMetrics>,
    generation: AtomicU32,
    generational: Mutex<GenerationalSettings>,
}

impl Cleaner {
    pub(super) fn configure(&self, settings: GenerationalSettings) {
        *self.generational.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    fn settings(&self) -> GenerationalSettings {
        *self.generational.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metrics(&self) -> MutexGuard<'_, CleanupMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, report: &CleanupReport) {
        let mut metrics = self.metrics();
        metrics.runs += 1;
        metrics.incomplete_runs += u64::from(!report.complete);
        metrics.purged_bytes += report.purged_bytes;
        metrics.moved_blocks += report.moved_blocks;
        metrics.duration += report.duration;
        if metrics.latest.len() == 64 {
            metrics.latest.remove(0);
        }
        metrics.latest.push(report.clone());
    }
}

/// The time that a run may take. It is asked before every piece of work: a span to be emptied, a block to be moved, a
/// class or a free range to be given back.
pub(super) struct Budget {
    until: Option<Instant>,
    /// Whether something was left for want of time.
    cut: Cell<bool>,
}

impl Budget {
    fn new(begin: Instant, time: Duration) -> Self {
        Budget { until: begin.checked_add(time), cut: Cell::new(false) }
    }

    /// Makes one that never ends.
    pub(super) fn endless() -> Self {
        Budget { until: None, cut: Cell::new(false) }
    }

    /// Reports whether the time is over, and so the work that comes next is left.
    pub(super) fn is_spent(&self) -> bool {
        let spent = self.until.is_some_and(|until| Instant::now() >= until);
        if spent {
            self.cut.set(true);
        }
        spent
    }
}

/// Free bytes in spans, as a share of their pages, from which a periodic run moves blocks.
const SPARSE: f64 = 0.25;
/// Unused bytes from which a periodic run purges.
const PURGE_FROM: usize = 64 << 20;

impl Shared {
    /// Gives back to the heaps and the system whatever no block uses; returns the bytes that the system got.
    pub(super) fn reclaim(self: &Arc<Self>, pool: &DevicePool) -> usize {
        let budget = Budget::endless();
        self.request_trim();
        cache::with(self, |cache| self.empty_cache(cache));
        pool.small.release_empty(pool.ground(&self.records), &budget);
        pool.small_heap.purge(&budget) + pool.large_heap.purge(&budget)
    }

    /// Cleans up one device, or all, within `time`.
    pub(super) fn clean(
        self: &Arc<Self>,
        strategy: CleanupStrategy,
        device: Option<&DevicePool>,
        compact: bool,
        time: Duration,
    ) -> CleanupReport {
        let begin = Instant::now();
        let mut report = CleanupReport {
            strategy,
            released_bytes: 0,
            purged_bytes: 0,
            moved_blocks: 0,
            moved_bytes: 0,
            skipped_spans: 0,
            duration: Duration::ZERO,
            complete: true,
        };
        // Moving takes half of it at most: what is free already is to go back as well.
        let (moving, all) = (Budget::new(begin, time / 2), Budget::new(begin, time));
        let generation = self.cleaner.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.request_trim();
        cache::with(self, |cache| self.empty_cache(cache));
        for pool in self.devices.iter().filter(|pool| device.is_none_or(|only| only.index == pool.index)) {
            pool.small.begin_generation(generation);
            let ground = pool.ground(&self.records);
            let (span_bytes, span_free, _) = pool.small.figures();
            let sparse = span_free as f64 > span_bytes as f64 * SPARSE;
            let min_age = match strategy {
                CleanupStrategy::Generational => Some(self.cleaner.settings().min_age),
                CleanupStrategy::Pressure => Some(0),
                CleanupStrategy::Idle => None,
                CleanupStrategy::Periodic => sparse.then_some(0),
            };
            if let Some(min_age) = min_age.filter(|_| compact && pool.device.is_cpu()) {
                self.compact(pool, min_age, &moving, &mut report);
            }
            report.released_bytes += pool.small.release_empty(ground, &all) as u64;
            for heap in [&pool.small_heap, &pool.large_heap] {
                let worth = match strategy {
                    CleanupStrategy::Idle | CleanupStrategy::Pressure => true,
                    CleanupStrategy::Periodic | CleanupStrategy::Generational => {
                        heap.figures().dirty >= PURGE_FROM
                    }
                };
                if worth {
                    report.purged_bytes += heap.purge(&all) as u64;
                }
            }
        }
        report.complete = !(moving.cut.get() || all.cut.get());
        report.duration = begin.elapsed();
        self.cleaner.note(&report);
        report
    }
}

impl HybridMemoryPool {
    /// Cleans up now, in this thread, with no limit of time.
    ///
    /// What other threads keep at hand comes back when they next run out or over, or end.
    pub fn cleanup(&self, strategy: CleanupStrategy) -> CleanupReport {
        self.shared.clean(strategy, None, true, Duration::MAX)
    }

    /// Cleans up one device now, as [`cleanup`](Self::cleanup).
    ///
    /// # Errors
    /// `DeviceUnavailable` for a device that the pool has no memory of.
    pub fn cleanup_device(&self, device: &Device, strategy: CleanupStrategy) -> Result<CleanupReport> {
        let pool = self.shared.device_of(device)?;
        Ok(self.shared.clean(strategy, Some(pool), true, Duration::MAX))
    }

    /// Moves blocks together, so that spans become free, and returns what came of it.
    pub fn compact(&self) -> CleanupReport {
        self.cleanup(CleanupStrategy::Pressure)
    }

    /// Gives all free pages back to the system; returns the bytes.
    pub fn purge(&self) -> u64 {
        self.shared.devices.iter().map(|pool| self.shared.reclaim(pool) as u64).sum()
    }

    /// Returns what cleanup did so far.
    pub fn get_cleanup_metrics(&self) -> CleanupMetrics {
        self.shared.cleaner.metrics().clone()
    }
}
