//! Cleanup: what goes back, what moves, and what must not.

use std::time::{Duration, Instant};

use super::*;

/// Allocates blocks of mixed small sizes, filled with their number, and frees all but every `keep`-th.
fn churn(pool: &HybridMemoryPool, count: usize, keep: usize) -> Vec<(MemoryHandle, u8)> {
    let blocks: Vec<_> = (0..count)
        .map(|n| {
            let handle = pool.allocate(64 << (n % 6), 64, &Device::Cpu).unwrap();
            pool.pin_mut(&handle).unwrap().fill(n as u8);
            (handle, n as u8)
        })
        .collect();
    let (kept, freed): (Vec<_>, Vec<_>) =
        blocks.into_iter().enumerate().partition(|(n, _)| n % (6 * keep) < 6);
    freed.into_iter().for_each(|(_, (handle, _))| pool.deallocate(handle).unwrap());
    kept.into_iter().map(|(_, block)| block).collect()
}

#[test]
fn compaction_moves_blocks_behind_their_handles() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let mut kept = churn(&pool, 6000, 10);
    let before = pool.footprint().held;
    for round in 0..3 {
        let report = pool.compact();
        pool.debug_validate();
        assert!(round > 0 || report.moved_blocks > 100, "{report:?}");
        for (handle, fill) in &kept {
            assert!(pool.pin(handle).unwrap().iter().all(|byte| byte == fill));
        }
        // Blocks that were moved are freed, allocated and moved on like any other.
        let freed = kept.len() / 3;
        kept.drain(..freed).for_each(|(handle, _)| {
            pool.deallocate(handle.clone()).unwrap();
            assert!(is_invalid_handle(pool.pin(&handle)));
        });
        kept.extend(churn(&pool, 600, 10));
        pool.debug_validate();
    }
    pool.compact();
    let after = pool.footprint().held;
    assert!(after * 3 < before, "{before} to {after}");
    kept.into_iter().for_each(|(handle, _)| pool.deallocate(handle).unwrap());
    pool.cleanup(CleanupStrategy::Idle);
    assert_eq!(pool.footprint().held, 0);
    pool.debug_validate();
}

/// Small enough for an interpreter that looks for undefined behaviour.
#[test]
fn moved_blocks_are_read_written_and_freed() {
    let pool = HybridMemoryPool::new().unwrap();
    for (size, count) in [(16 << 10, 24), (1 << 20, 5)] {
        let mut blocks: Vec<_> = (0..count)
            .map(|n| {
                let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                pool.pin_mut(&handle).unwrap().fill(n);
                (handle, n)
            })
            .collect();
        blocks.retain(|(handle, n)| {
            let kept = n % 4 == 3;
            if !kept {
                pool.deallocate(handle.clone()).unwrap();
            }
            kept
        });
        assert!(pool.compact().moved_blocks > 0, "{size}");
        for (handle, n) in blocks {
            let mut pin = pool.pin_mut(&handle).unwrap();
            assert_eq!((pin[0], pin[size / 2], pin[size - 1]), (n, n, n));
            pin[0] = !n;
            drop(pin);
            assert_eq!(pool.pin(&handle).unwrap()[0], !n);
            pool.deallocate(handle.clone()).unwrap();
            assert!(is_invalid_handle(pool.pin(&handle)));
        }
    }
    pool.debug_validate();
}

#[test]
fn cleanup_never_touches_pinned_memory() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let buffers: Vec<_> = (0..2000)
        .map(|n| PoolBuffer::<u32>::zeroed(&pool, 10 + n % 300, &Device::Cpu, "a tensor").unwrap())
        .collect();
    let mut kept: Vec<_> = buffers.into_iter().enumerate().filter(|(n, _)| n % 7 == 0).collect();
    kept.iter_mut().for_each(|(n, buffer)| buffer.fill(*n as u32));
    let addresses: Vec<_> = kept.iter().map(|(_, buffer)| buffer.as_ptr()).collect();
    for strategy in CleanupStrategy::ALL {
        let report = pool.cleanup(strategy);
        assert_eq!((report.moved_blocks, report.strategy), (0, strategy));
        pool.debug_validate();
    }
    for ((n, buffer), address) in kept.iter().zip(addresses) {
        assert_eq!(buffer.as_ptr(), address);
        assert!(buffer.iter().all(|&value| value == *n as u32));
    }
}

#[test]
fn large_blocks_move_down_and_their_pages_go_back() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let size = 2 << 20;
    let mut blocks: Vec<_> = (0..16u8)
        .map(|n| {
            let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
            pool.pin_mut(&handle).unwrap().fill(n);
            (handle, n)
        })
        .collect();
    let mut n = 0;
    blocks.retain(|(handle, _)| {
        n += 1;
        if n % 4 != 0 {
            pool.deallocate(handle.clone()).unwrap();
        }
        n % 4 == 0
    });
    let report = pool.compact();
    assert!(report.moved_blocks >= 3 && report.purged_bytes >= 12 * size as u64, "{report:?}");
    for (handle, fill) in &blocks {
        assert!(pool.pin(handle).unwrap().iter().all(|byte| byte == fill));
    }
    let footprint = pool.footprint();
    assert_eq!((footprint.held, footprint.purgeable), (4 * size as u64, 0));
    pool.debug_validate();
}

#[test]
fn generations_spare_young_spans() {
    let settings = GenerationalSettings { min_age: 3, every: 1 };
    let (pool, _ledger) = ledger_pool_of(HybridMemoryPool::builder().generational(settings));
    let kept = churn(&pool, 6000, 10);
    for _ in 0..2 {
        assert_eq!(pool.cleanup(CleanupStrategy::Generational).moved_blocks, 0);
    }
    assert!(pool.cleanup(CleanupStrategy::Generational).moved_blocks > 0);
    let metrics = pool.get_cleanup_metrics();
    assert_eq!((metrics.runs, metrics.latest.len()), (3, 3));
    for (handle, fill) in &kept {
        assert!(pool.pin(handle).unwrap().iter().all(|byte| byte == fill));
    }
    pool.debug_validate();
}

#[test]
fn the_cleanup_thread_runs_and_stops() {
    let cleanup = CleanupConfig { idle_cleanup_interval: Duration::from_millis(20), ..Default::default() };
    let config = MemoryPoolConfig {
        enable_automatic_cleanup: true,
        cleanup_config: Some(cleanup),
        ..Default::default()
    };
    let (pool, ledger) = ledger_pool(config);
    let handle = pool.allocate(8 << 20, 64, &Device::Cpu).unwrap();
    pool.pin_mut(&handle).unwrap().fill(1);
    pool.deallocate(handle).unwrap();
    let begin = Instant::now();
    let idle = || pool.get_cleanup_metrics().latest.iter().any(|run| run.strategy == CleanupStrategy::Idle);
    while !idle() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", pool.get_cleanup_metrics());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ledger.outstanding(), 0);
    let weak = Arc::downgrade(&pool.shared);
    drop(pool);
    let begin = Instant::now();
    while weak.strong_count() > 0 {
        // A run in progress holds the pool until it ends.
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn nothing_moves_where_compaction_is_off() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let _kept = churn(&pool, 6000, 10);
    let clean = |compact| pool.shared.clean(CleanupStrategy::Pressure, None, compact, Duration::MAX);
    assert_eq!(clean(false).moved_blocks, 0);
    assert!(clean(true).moved_blocks > 0);
}

#[test]
fn runs_end_when_their_time_is_over() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let _kept = churn(&pool, 6000, 10);
    let large = pool.allocate(16 << 20, 64, &Device::Cpu).unwrap();
    pool.pin_mut(&large).unwrap().fill(1);
    pool.deallocate(large).unwrap();
    let report = pool.shared.clean(CleanupStrategy::Pressure, None, true, Duration::from_nanos(1));
    assert_eq!((report.moved_blocks, report.released_bytes, report.purged_bytes), (0, 0, 0));
    assert!(!report.complete);
    assert_eq!(pool.get_cleanup_metrics().incomplete_runs, 1);
    pool.debug_validate();
    // The next run does what was left.
    let report = pool.cleanup(CleanupStrategy::Pressure);
    assert!(report.complete && report.moved_blocks > 100 && report.purged_bytes >= 16 << 20, "{report:?}");
    assert!(pool.cleanup(CleanupStrategy::Pressure).complete);
    pool.debug_validate();
}

#[test]
fn blocks_are_moved_under_pressure_and_not_when_nobody_allocates() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let _kept = churn(&pool, 6000, 10);
    assert_eq!(pool.cleanup(CleanupStrategy::Idle).moved_blocks, 0);
    let footprint = pool.footprint();
    assert_eq!(footprint.purgeable, 0);
    assert!(pool.cleanup(CleanupStrategy::Pressure).moved_blocks > 100);
    assert!(pool.footprint().held * 2 < footprint.held);
}
