//! Measurements of space: bookkeeping, resident memory after churn, the rate of purging.

use std::time::Instant;

use bitnet_core::device::Device;
use bitnet_core::memory::{CleanupStrategy, HybridMemoryPool, LargeStrategy, MemoryHandle};

use super::candidates::{ALIGN, pool_of};
use super::measure::{Random, mix};

/// What the pool takes besides what was asked for.
#[derive(Debug, Clone)]
pub struct Space {
    /// Block size, and bookkeeping as a share of a fresh fill with such blocks.
    pub metadata: Vec<(usize, f64)>,
    /// Resident bytes above live bytes after six rounds that free and allocate half, and a compaction.
    pub churn_overhead: f64,
    /// Bytes a second given back to the system.
    pub purge_rate: f64,
}

fn take(pool: &HybridMemoryPool, size: usize) -> MemoryHandle {
    match pool.allocate(size, ALIGN, &Device::Cpu) {
        Ok(handle) => handle,
        Err(error) => panic!("{error}"),
    }
}

fn give(pool: &HybridMemoryPool, handle: MemoryHandle) {
    if let Err(error) = pool.deallocate(handle) {
        panic!("{error}");
    }
}

fn touch(pool: &HybridMemoryPool, handle: &MemoryHandle) {
    match pool.pin_mut(handle) {
        Ok(mut pin) => pin.fill(1),
        Err(error) => panic!("{error}"),
    }
}

/// Returns the resident bytes of this process; `None` where the system does not say.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4096)
}

fn metadata(size: usize) -> f64 {
    let pool = pool_of(LargeStrategy::BestFit);
    let total = if size < 1 << 20 { 64 << 20 } else { 4 << 30 };
    let handles: Vec<_> = (0..total / size).map(|_| take(&pool, size)).collect();
    let share = pool.footprint().metadata as f64 / (handles.len() * size) as f64;
    handles.into_iter().for_each(|handle| give(&pool, handle));
    share
}

/// Churns blocks of mixed sizes; returns resident bytes above the live ones, as a share.
fn churn() -> f64 {
    let pool = pool_of(LargeStrategy::BestFit);
    let sizes = mix(1 << 14, 6, 19);
    let mut random = Random(3);
    let mut handles: Vec<MemoryHandle> = Vec::with_capacity(1 << 14);
    let before = resident().unwrap_or(0);
    for round in 0..7 {
        if round > 0 {
            let half = handles.len() / 2;
            for _ in 0..half {
                let index = random.next(handles.len() as u64) as usize;
                give(&pool, handles.swap_remove(index));
            }
        }
        let missing = 6000 - handles.len();
        for _ in 0..missing {
            let handle = take(&pool, sizes[random.next(sizes.len() as u64) as usize]);
            touch(&pool, &handle);
            handles.push(handle);
        }
    }
    pool.compact();
    pool.cleanup(CleanupStrategy::Idle);
    let live = pool.get_metrics().current_allocated as f64;
    let after = resident().unwrap_or(0);
    handles.into_iter().for_each(|handle| give(&pool, handle));
    (after.saturating_sub(before)) as f64 / live - 1.0
}

/// Gives pages back between blocks that stay, as an arena without any is unmapped as a whole.
fn purge() -> f64 {
    let pool = pool_of(LargeStrategy::BestFit);
    let handles: Vec<_> = (0..128).map(|_| take(&pool, 8 << 20)).collect();
    handles.iter().for_each(|handle| touch(&pool, handle));
    let (mut kept, mut given) = (Vec::new(), Vec::new());
    for (index, handle) in handles.into_iter().enumerate() {
        if index % 2 == 0 { &mut kept } else { &mut given }.push(handle);
    }
    given.into_iter().for_each(|handle| give(&pool, handle));
    let begin = Instant::now();
    let bytes = pool.purge();
    let rate = bytes as f64 / begin.elapsed().as_secs_f64();
    kept.into_iter().for_each(|handle| give(&pool, handle));
    rate
}

/// Runs the measurements of space.
pub fn space() -> Space {
    let metadata = [64, 256, 1024, 16 << 10, 1 << 20, 16 << 20].map(|size| (size, metadata(size)));
    Space { metadata: metadata.to_vec(), churn_overhead: churn(), purge_rate: purge() }
}
