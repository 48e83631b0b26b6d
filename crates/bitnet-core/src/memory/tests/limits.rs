//! Limits, refusals of the system, and what a pool does about them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

#[test]
fn memory_limits_hold_for_each_size_class() {
    let config = MemoryPoolConfig {
        max_small_pool_size: 256 * 1024,
        max_large_pool_size: 3 * SMALL_BLOCK_LIMIT,
        ..Default::default()
    };
    let (pool, _ledger) = ledger_pool(config);
    let mut small = Vec::new();
    let error = loop {
        match pool.allocate(600, 8, &Device::Cpu) {
            Ok(handle) => small.push(handle),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("of 262144 bytes left (max_small_pool_size)"), "{error}");
    // Pages count, of which blocks of 640 bytes leave little unused.
    assert!(small.len() >= 256 * 1024 / 640 * 95 / 100, "{} blocks", small.len());
    let large = pool.allocate(2 * SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    assert!(is_out_of_memory(pool.allocate(SMALL_BLOCK_LIMIT + 1, 64, &Device::Cpu)));
    pool.allocate(SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    pool.deallocate(large).unwrap();
    pool.debug_validate();
    // What one class gave back serves another, whoever kept it at hand.
    small.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    let whole = pool.allocate(256 * 1024, 64, &Device::Cpu).unwrap();
    assert!(is_out_of_memory(pool.allocate(16, 16, &Device::Cpu)));
    pool.deallocate(whole).unwrap();
    pool.debug_validate();
}

#[test]
fn memory_that_the_system_refuses_is_a_typed_error_and_nothing_is_lost() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    ledger.allowed.store(3 << 20, Ordering::Relaxed);
    // The arena that it would like is refused, one of the size needed is not.
    let handle = pool.allocate(2 << 20, 64, &Device::Cpu).unwrap();
    assert!(is_out_of_memory(pool.allocate(2 << 20, 64, &Device::Cpu)));
    assert_eq!(pool.get_metrics().current_allocated, 2 << 20);
    pool.debug_validate();
    // The empty arena goes back before the system is asked again.
    pool.deallocate(handle).unwrap();
    pool.allocate(3 << 20, 64, &Device::Cpu).unwrap();
    pool.debug_validate();
}

#[test]
fn failure_callbacks_may_free_and_ask_again() {
    let kept: Arc<Mutex<Vec<MemoryHandle>>> = Arc::default();
    let owner: Arc<Mutex<Option<HybridMemoryPool>>> = Arc::default();
    let calls = Arc::new(AtomicU32::new(0));
    let config = MemoryPoolConfig { max_large_pool_size: 4 << 20, ..Default::default() };
    let builder = HybridMemoryPool::builder().config(config).on_failure({
        let (kept, owner, calls) = (Arc::clone(&kept), Arc::clone(&owner), Arc::clone(&calls));
        move |request, error, attempt| {
            assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }));
            assert_eq!((request.align, request.device), (64, Device::Cpu));
            assert!(attempt >= 1);
            calls.fetch_add(1, Ordering::Relaxed);
            let Some(handle) = kept.lock().unwrap().pop() else { return false };
            let pool = owner.lock().unwrap().clone().unwrap();
            pool.deallocate(handle).unwrap();
            true
        }
    });
    let (pool, _ledger) = ledger_pool_of(builder);
    *owner.lock().unwrap() = Some(pool.clone());
    for _ in 0..4 {
        kept.lock().unwrap().push(pool.allocate(1 << 20, 64, &Device::Cpu).unwrap());
    }
    let large = pool.allocate(3 << 20, 64, &Device::Cpu).unwrap();
    assert_eq!((calls.load(Ordering::Relaxed), kept.lock().unwrap().len()), (3, 1));
    assert!(is_out_of_memory(pool.allocate(4 << 20, 64, &Device::Cpu)));
    assert_eq!(calls.load(Ordering::Relaxed), 5);
    pool.deallocate(large).unwrap();
    *owner.lock().unwrap() = None;
    pool.debug_validate();
}

#[test]
fn admission_may_refuse_any_block() {
    let builder = HybridMemoryPool::builder().admission(|request| {
        if request.size == 13 { Err(BitNetError::mismatch("size", "luck", 13)) } else { Ok(()) }
    });
    let (pool, _ledger) = ledger_pool_of(builder);
    let handle = pool.allocate(12, 4, &Device::Cpu).unwrap();
    pool.deallocate(handle).unwrap();
    assert!(is_mismatch(pool.allocate(13, 4, &Device::Cpu)));
    assert!(is_mismatch(PoolBuffer::<u8>::zeroed(&pool, 13, &Device::Cpu, "unlucky")));
    assert_eq!(pool.get_metrics().active_allocations(), 0);
}

#[test]
fn first_arenas_stay_within_a_limit_that_is_set_alone() {
    let limit = 4 << 20;
    let config =
        MemoryPoolConfig { max_large_pool_size: limit, max_small_pool_size: limit, ..Default::default() };
    assert!(config.initial_large_pool_size > limit && config.initial_small_pool_size > limit);
    let (pool, _ledger) = ledger_pool(config);
    let _blocks = [64, 1 << 20].map(|size| pool.allocate(size, 64, &Device::Cpu).unwrap());
    assert_eq!(pool.footprint().reserved, 2 * limit as u64);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let tracking = |ratio| TrackingConfig { pressure_threshold_ratio: ratio, ..Default::default() };
    for ratio in [0.0, -1.0, 1.1, f64::NAN] {
        let config = MemoryPoolConfig { tracking_config: Some(tracking(ratio)), ..Default::default() };
        assert!(is_mismatch(HybridMemoryPool::with_config(config)), "{ratio}");
    }
    let cleanup = CleanupConfig { idle_cleanup_interval: std::time::Duration::ZERO, ..Default::default() };
    let config = MemoryPoolConfig { cleanup_config: Some(cleanup), ..Default::default() };
    assert!(is_mismatch(HybridMemoryPool::with_config(config)));
}
