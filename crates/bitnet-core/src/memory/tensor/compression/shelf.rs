//! Tensors by name, compressed when memory is short.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use bitnet_backend::{BitNetError, Result};

use super::codec::Compressed;
use super::policy::CompressionPolicy;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};
use crate::memory::{HybridMemoryPool, MemoryPressureLevel};

/// Owns tensors by name and compresses those that nobody uses while memory is short.
///
/// A clone is another handle on the same shelf. Tensors that are not contiguous, or not in memory of the
/// shelf's pool, are kept and never compressed. Pressure is that of the pool, which has to detect it
/// ([`TrackingConfig::enable_pressure_detection`](crate::memory::TrackingConfig)): the shelf acts when the level changes,
/// when a tensor is added, and when [`relieve`](Self::relieve) is called.
#[derive(Debug, Clone)]
pub struct TensorShelf {
    inner: Arc<Inner>,
}

/// What one look at the shelf did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompressionReport {
    /// Tensors compressed.
    pub compressed: usize,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes after.
    pub bytes_after: u64,
    /// Tensors left alone because somebody has them.
    pub in_use: usize,
    /// Tensors left alone because they were used too recently.
    pub too_fresh: usize,
    /// Tensors left alone because they are small, strided, in memory that is not the pool's, or did not shrink when they
    /// were tried.
    pub unsuitable: usize,
    /// Tensors that could not be compressed for lack of memory.
    pub failed: usize,
}

/// What is on a shelf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShelfMetrics {
    /// Tensors.
    pub tensors: usize,
    /// Those that are compressed now.
    pub compressed: usize,
    /// Bytes of all tensors when none is compressed.
    pub logical_bytes: u64,
    /// Bytes that they occupy now.
    pub stored_bytes: u64,
    /// Tensors compressed so far.
    pub compressions: u64,
    /// Tensors decompressed so far.
    pub reloads: u64,
}

#[derive(Debug)]
struct Inner {
    pool: HybridMemoryPool,
    policy: CompressionPolicy,
    entries: Mutex<BTreeMap<String, Arc<Mutex<Entry>>>>,
    /// One look at a time: a look may allocate, which may change the level, which asks for a look.
    looking: AtomicBool,
    compressions: AtomicU64,
    reloads: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    state: State,
    used: Instant,
    /// Tried, and it did not shrink.
    incompressible: bool,
}

#[derive(Debug)]
enum State {
    Whole(BitNetTensor),
    Compressed(TensorMetadata, Compressed),
}

impl TensorShelf {
    /// Makes an empty shelf; what is decompressed, and compressed, comes from `pool`.
    ///
    /// # Errors
    /// `Mismatch` for a ratio below 1.
    pub fn new(pool: &HybridMemoryPool, policy: CompressionPolicy) -> Result<Self> {
        policy.check()?;
        let inner = Arc::new(Inner {
            pool: pool.clone(),
            policy,
            entries: Mutex::default(),
            looking: AtomicBool::new(false),
            compressions: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
        });
        // The pool must not keep the shelf alive, which keeps the pool.
        let weak = Arc::downgrade(&inner);
        pool.register_pressure_callback(Box::new(move |level| {
            if let Some(inner) = weak.upgrade() {
                inner.look(level, Instant::now());
            }
        }));
        Ok(TensorShelf { inner })
    }

    /// Adds a tensor, in place of one of the same name.
    pub fn insert(&self, name: impl Into<String>, tensor: BitNetTensor) {
        let entry = Entry { state: State::Whole(tensor), used: Instant::now(), incompressible: false };
        // What is replaced goes after the lock does: its memory is the pool's, which may ask for a look.
        let replaced = lock(&self.inner.entries).insert(name.into(), Arc::new(Mutex::new(entry)));
        drop(replaced);
        self.relieve();
    }

    /// Removes a tensor, and returns it; `None` when there is none of this name.
    ///
    /// # Errors
    /// As [`get`](Self::get); the tensor stays on the shelf then.
    pub fn remove(&self, name: &str) -> Result<Option<BitNetTensor>> {
        while let Some((entry, tensor)) = self.inner.take_up(name)? {
            let mut entries = lock(&self.inner.entries);
            // Another tensor may have got the name meanwhile: it stays, or is the one to remove.
            if entries.get(name).is_some_and(|found| Arc::ptr_eq(found, &entry)) {
                entries.remove(name);
                return Ok(Some(tensor));
            }
        }
        Ok(None)
    }

    /// Returns a tensor, decompressed where it was not; `None` when there is none of this name. As long as the caller,
    /// or a view, has it, it is not compressed.
    ///
    /// # Errors
    /// As [`HybridMemoryPool::allocate`].
    pub fn get(&self, name: &str) -> Result<Option<BitNetTensor>> {
        Ok(self.inner.take_up(name)?.map(|(_, tensor)| tensor))
    }

    /// Compresses what the policy allows under the pool's pressure as last looked at.
    pub fn relieve(&self) -> CompressionReport {
        self.relieve_at(self.inner.pool.pressure_level())
    }

    /// Compresses what the policy allows under the given pressure.
    pub fn relieve_at(&self, level: MemoryPressureLevel) -> CompressionReport {
        self.inner.look(level, Instant::now())
    }

    #[cfg(test)]
    pub(super) fn relieve_in(
        &self,
        level: MemoryPressureLevel,
        time: std::time::Duration,
    ) -> CompressionReport {
        self.inner.look(level, Instant::now() + time)
    }

    /// Returns what is on the shelf.
    pub fn metrics(&self) -> ShelfMetrics {
        let entries: Vec<_> = lock(&self.inner.entries).values().map(Arc::clone).collect();
        let mut out = ShelfMetrics {
            tensors: entries.len(),
            compressions: self.inner.compressions.load(Ordering::Relaxed),
            reloads: self.inner.reloads.load(Ordering::Relaxed),
            ..ShelfMetrics::default()
        };
        for entry in entries {
            let (logical, stored) = match &lock(&entry).state {
                State::Whole(tensor) => (tensor.size_bytes(), tensor.size_bytes()),
                State::Compressed(_, compressed) => {
                    out.compressed += 1;
                    (compressed.original(), compressed.bytes())
                }
            };
            out.logical_bytes += logical as u64;
            out.stored_bytes += stored as u64;
        }
        out
    }
}

impl Inner {
    /// Returns what has a name, and its tensor, decompressed where it was not.
    fn take_up(&self, name: &str) -> Result<Option<(Arc<Mutex<Entry>>, BitNetTensor)>> {
        let Some(found) = lock(&self.entries).get(name).map(Arc::clone) else { return Ok(None) };
        let mut entry = lock(&found);
        entry.used = Instant::now();
        let tensor = match &entry.state {
            State::Whole(tensor) => tensor.clone(),
            State::Compressed(metadata, compressed) => {
                let named = |error: BitNetError| error.context(format!("tensor {name}"));
                let mut tensor = BitNetTensor::new(metadata.clone(), &self.pool).map_err(named)?;
                compressed.expand(tensor.as_mut_bytes()?).map_err(named)?;
                tensor.metadata = metadata.clone();
                entry.state = State::Whole(tensor.clone());
                self.reloads.fetch_add(1, Ordering::Relaxed);
                tensor
            }
        };
        drop(entry);
        Ok(Some((found, tensor)))
    }

    fn look(&self, level: MemoryPressureLevel, now: Instant) -> CompressionReport {
        let mut report = CompressionReport::default();
        let Some(idle) = self.policy.idle_at(level) else { return report };
        if self.looking.swap(true, Ordering::Acquire) {
            return report;
        }
        let entries: Vec<_> = lock(&self.entries).values().map(Arc::clone).collect();
        for entry in entries {
            // Whoever holds it is about to use it, or waits for this very look.
            match entry.try_lock() {
                Ok(mut entry) => self.consider(&mut entry, now, idle, &mut report),
                Err(TryLockError::Poisoned(entry)) => {
                    self.consider(&mut entry.into_inner(), now, idle, &mut report);
                }
                Err(TryLockError::WouldBlock) => report.in_use += 1,
            }
        }
        self.looking.store(false, Ordering::Release);
        report
    }

    fn consider(
        &self,
        entry: &mut Entry,
        now: Instant,
        idle: std::time::Duration,
        report: &mut CompressionReport,
    ) {
        let State::Whole(tensor) = &entry.state else { return };
        let small = tensor.size_bytes() < self.policy.min_bytes || tensor.size_bytes() == 0;
        // Memory of another pool, a file or a vector would give this pool nothing back, and cost it what it shrinks to.
        let ours = tensor.memory().pool().is_some_and(|pool| Arc::ptr_eq(&pool.shared, &self.pool.shared));
        let suitable = ours && !small && !entry.incompressible;
        let Some(bytes) = tensor.as_bytes().ok().filter(|_| suitable) else {
            report.unsuitable += 1;
            return;
        };
        // The shelf has the one strong reference, under the entry's lock, and no weak one could become another.
        if Arc::strong_count(tensor.memory()) > 1 || Arc::weak_count(tensor.memory()) > 0 {
            report.in_use += 1;
            return;
        }
        if now.saturating_duration_since(entry.used) < idle {
            report.too_fresh += 1;
            return;
        }
        match Compressed::new(bytes, tensor.dtype(), self.policy.min_ratio, &self.pool) {
            Ok(Some(compressed)) => {
                report.compressed += 1;
                report.bytes_before += compressed.original() as u64;
                report.bytes_after += compressed.bytes() as u64;
                let metadata = tensor.metadata().relaid(Layout::row_major(tensor.shape().to_vec()));
                entry.state = State::Compressed(metadata, compressed);
                self.compressions.fetch_add(1, Ordering::Relaxed);
            }
            Ok(None) => {
                entry.incompressible = true;
                report.unsuitable += 1;
            }
            Err(_) => report.failed += 1,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
