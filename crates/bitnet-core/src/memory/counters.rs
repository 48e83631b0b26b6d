//! Counts that one thread writes and all may read.
//!
//! A thread counts with plain loads and stores of its own cells. The peak over all threads needs a common
//! figure: each thread settles what it has pending once that is large, so the peak is exact while one thread
//! allocates, and otherwise short by at most [`SETTLE`] bytes a thread.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Bytes that a thread may have pending.
pub(super) const SETTLE: i64 = 4 << 20;

/// Sums over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) allocated: u64,
    pub(super) allocated_bytes: u64,
    pub(super) freed: u64,
    pub(super) freed_bytes: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Totals) {
        self.allocated = self.allocated.wrapping_add(other.allocated);
        self.allocated_bytes = self.allocated_bytes.wrapping_add(other.allocated_bytes);
        self.freed = self.freed.wrapping_add(other.freed);
        self.freed_bytes = self.freed_bytes.wrapping_add(other.freed_bytes);
    }

    /// Returns the bytes that are out; negative where others' blocks were freed.
    pub(super) fn live_bytes(&self) -> i64 {
        self.allocated_bytes.wrapping_sub(self.freed_bytes) as i64
    }
}

/// The most bytes that were out at any one time.
#[derive(Debug, Default)]
pub(super) struct Peak(AtomicI64);

impl Peak {
    /// Raises it to `bytes`.
    #[inline]
    pub(super) fn reach(&self, bytes: i64) {
        if bytes > self.0.load(Relaxed) {
            self.0.fetch_max(bytes, Relaxed);
        }
    }

    pub(super) fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// What threads have in common: the settled bytes and the peak.
#[derive(Debug, Default)]
pub(super) struct Common {
    settled: AtomicI64,
    pub(super) peak: Peak,
}

impl Common {
    pub(super) fn settled(&self) -> i64 {
        self.settled.load(Relaxed)
    }
}

/// One thread's counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    allocated: AtomicU64,
    allocated_bytes: AtomicU64,
    freed: AtomicU64,
    freed_bytes: AtomicU64,
    settled: AtomicI64,
    /// Most bytes pending since the last settlement.
    high: AtomicI64,
}

impl Counters {
    /// Counts a block; returns whether it is time to settle.
    #[inline]
    pub(super) fn allocate(&self, size: usize) -> bool {
        let bytes = self.allocated_bytes.load(Relaxed).wrapping_add(size as u64);
        self.allocated_bytes.store(bytes, Relaxed);
        self.allocated.store(self.allocated.load(Relaxed).wrapping_add(1), Relaxed);
        let pending = bytes.wrapping_sub(self.freed_bytes.load(Relaxed)) as i64 - self.settled.load(Relaxed);
        if pending > self.high.load(Relaxed) {
            self.high.store(pending, Relaxed);
            return pending > SETTLE;
        }
        false
    }

    /// Counts a freed block; returns whether it is time to settle.
    #[inline]
    pub(super) fn free(&self, size: usize) -> bool {
        let bytes = self.freed_bytes.load(Relaxed).wrapping_add(size as u64);
        self.freed_bytes.store(bytes, Relaxed);
        self.freed.store(self.freed.load(Relaxed).wrapping_add(1), Relaxed);
        let pending =
            self.allocated_bytes.load(Relaxed).wrapping_sub(bytes) as i64 - self.settled.load(Relaxed);
        pending < -SETTLE
    }

    /// Returns the bytes that are not settled.
    pub(super) fn pending(&self) -> i64 {
        self.totals().live_bytes() - self.settled.load(Relaxed)
    }

    /// Returns the most bytes that were pending at once.
    pub(super) fn high(&self) -> i64 {
        self.high.load(Relaxed)
    }

    /// Settles. Only the owning thread calls this.
    pub(super) fn settle(&self, common: &Common) {
        self.settle_reaching(common, |bytes| common.peak.reach(bytes));
    }

    /// Settles; `reach` is told the most bytes that all threads together may have had out. Only the owning thread
    /// calls this.
    pub(super) fn settle_reaching(&self, common: &Common, reach: impl FnOnce(i64)) {
        let (pending, high) = (self.pending(), self.high());
        if pending == 0 && high == 0 {
            return;
        }
        reach(common.settled() + high.max(pending));
        self.settled.store(self.settled.load(Relaxed) + pending, Relaxed);
        self.high.store(0, Relaxed);
        common.settled.fetch_add(pending, Relaxed);
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            allocated: self.allocated.load(Relaxed),
            allocated_bytes: self.allocated_bytes.load(Relaxed),
            freed: self.freed.load(Relaxed),
            freed_bytes: self.freed_bytes.load(Relaxed),
        }
    }
}

/// Returns the most bytes that threads may have had out together since they settled.
pub(super) fn highest<'a>(common: &Common, threads: impl Iterator<Item = &'a Counters> + Clone) -> i64 {
    let pending: i64 = threads.clone().map(Counters::pending).sum();
    let above = threads.map(|thread| thread.high() - thread.pending()).max().unwrap_or(0).max(0);
    common.settled() + pending + above
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn peaks_of_one_thread_are_exact() {
        let (common, counters) = (Common::default(), Counters::default());
        let mut live = Vec::new();
        let (mut current, mut most) = (0i64, 0i64);
        for step in 0..10_000usize {
            if step % 97 < 60 {
                let size = step * 7919 % 100_000 + 1;
                live.push(size);
                current += size as i64;
                if counters.allocate(size) {
                    counters.settle(&common);
                }
            } else if let Some(size) = live.pop() {
                current -= size as i64;
                if counters.free(size) {
                    counters.settle(&common);
                }
            }
            most = most.max(current);
            assert_eq!(common.peak.get().max(highest(&common, [&counters].into_iter())), most);
            assert_eq!(counters.totals().live_bytes(), current);
        }
        assert!(common.settled() > 0);
    }
}
