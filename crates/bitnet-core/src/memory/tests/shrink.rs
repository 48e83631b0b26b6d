//! What a shrunk block keeps and what it gives back.

use super::*;

#[test]
fn large_blocks_give_whole_pages_back_and_stay_in_place() {
    let mib = 1u64 << 20;
    for (strategy, held) in [(LargeStrategy::BestFit, 3 * mib + 4096), (LargeStrategy::Buddy, 4 * mib)] {
        let (pool, _ledger) = ledger_pool_of(HybridMemoryPool::builder().large_strategy(strategy));
        let mut handle = pool.allocate(8 << 20, 64, &Device::Cpu).unwrap();
        let mut pin = pool.pin_mut(&handle).unwrap();
        pin.fill(7);
        let address = pin.as_ptr();
        drop(pin);
        let clone = handle.clone();
        pool.shrink(&mut handle, (3 << 20) + 1).unwrap();
        pool.debug_validate();
        assert_eq!((handle.size(), pool.footprint().held), ((3 << 20) + 1, held));
        let metrics = pool.get_metrics();
        assert_eq!((metrics.current_allocated, metrics.peak_allocated), (3 * mib + 1, 8 * mib));
        for result in [pool.deallocate(clone.clone()), pool.pin(&clone).map(drop)] {
            assert!(is_invalid_handle(result));
        }
        let pin = pool.pin(&handle).unwrap();
        assert_eq!((pin.as_ptr(), pin.len()), (address, (3 << 20) + 1));
        assert!(pin.iter().all(|&byte| byte == 7));
        drop(pin);
        // The tail serves the next block, and is not taken for zeros.
        let zeroed = pool.allocate_zeroed(4 << 20, 64, &Device::Cpu).unwrap();
        assert!(pool.pin(&zeroed).unwrap().iter().all(|&byte| byte == 0));
        assert!(pool.pin(&handle).unwrap().iter().all(|&byte| byte == 7));
        pool.deallocate(handle).unwrap();
        pool.deallocate(zeroed).unwrap();
        pool.cleanup(CleanupStrategy::Idle);
        assert_eq!(pool.footprint().held, 0);
    }
}

#[test]
fn small_blocks_step_down_a_size_class() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    for (size, less) in [(600_000, 50_000), (4096, 100), (100, 99), (64, 1)] {
        let mut handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
        pool.pin_mut(&handle).unwrap().fill(size as u8);
        let clone = handle.clone();
        pool.shrink(&mut handle, less).unwrap();
        assert!(is_invalid_handle(pool.deallocate(clone)));
        let pin = pool.pin(&handle).unwrap();
        assert_eq!((pin.len(), pin.iter().all(|&byte| byte == size as u8)), (less, true));
        drop(pin);
        pool.debug_validate();
        pool.deallocate(handle).unwrap();
    }
    assert_eq!(pool.get_metrics().current_allocated, 0);
}

#[test]
fn clones_of_a_handle_never_come_between_a_shrinking_block_and_its_end() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let rounds = if cfg!(miri) { 5 } else { 20_000 };
    let current = Mutex::new(None);
    // Shared by the thread that shrinks until it ends, in whatever way.
    let shrinking = Arc::new(());
    let working = Arc::downgrade(&shrinking);
    std::thread::scope(|scope| {
        let _shrinking = shrinking;
        scope.spawn(|| {
            while working.strong_count() > 0 {
                let clone: Option<MemoryHandle> = current.lock().unwrap().clone();
                // Whatever it meets: the block before it shrinks, a pin, or that it has gone.
                (0..20).for_each(|_| drop(clone.as_ref().map(|clone| pool.pin(clone))));
            }
        });
        for _ in 0..rounds {
            let mut handle = pool.allocate(4096, 64, &Device::Cpu).unwrap();
            *current.lock().unwrap() = Some(handle.clone());
            // The clone may be open for a moment.
            while let Err(error) = pool.shrink(&mut handle, 100) {
                assert!(matches!(error.kind(), ErrorKind::Mismatch { .. }), "{error}");
                assert_eq!(handle.size(), 4096);
            }
            assert_eq!(pool.get_metrics().active_allocations(), 1);
            pool.deallocate(handle).unwrap();
        }
    });
    pool.debug_validate();
}

#[test]
fn blocks_that_were_kept_whole_have_the_alignment_that_they_are_asked_for_with() {
    let (pool, _ledger) = ledger_pool_of(HybridMemoryPool::builder().large_strategy(LargeStrategy::Buddy));
    let below = pool.allocate(4 << 20, 64, &Device::Cpu).unwrap();
    let kept = pool.allocate(2 << 20, 64, &Device::Cpu).unwrap();
    pool.deallocate(kept).unwrap();
    let mut aligned = pool.allocate(2 << 20, 2 << 20, &Device::Cpu).unwrap();
    pool.pin_mut(&aligned).unwrap().fill(9);
    pool.shrink(&mut aligned, 200_000).unwrap();
    // The room below that is found first has half a mebibyte for its alignment at most.
    let mut below = below;
    pool.shrink(&mut below, 200_000).unwrap();
    pool.compact();
    pool.debug_validate();
    let pin = pool.pin(&aligned).unwrap();
    assert!((pin.as_ptr() as usize).is_multiple_of(2 << 20) && pin.iter().all(|&byte| byte == 9));
    assert_eq!(pool.footprint().held, 2 * (256 << 10));
}

#[test]
fn shrinking_refuses_what_makes_no_sense() {
    let pool = HybridMemoryPool::new().unwrap();
    let mut handle = pool.allocate(1000, 64, &Device::Cpu).unwrap();
    for size in [0, 1001, usize::MAX] {
        let error = pool.shrink(&mut handle, size).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{error}");
    }
    let pin = pool.pin(&handle).unwrap();
    assert!(is_mismatch(pool.shrink(&mut handle, 10)));
    drop(pin);
    pool.deallocate(handle.clone()).unwrap();
    assert!(is_invalid_handle(pool.shrink(&mut handle, 10)));
}

#[test]
fn shrunk_blocks_are_tracked_under_their_tag() {
    let tracking = TrackingConfig {
        level: TrackingLevel::Detailed,
        enable_pressure_detection: false,
        ..Default::default()
    };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..Default::default()
    };
    let (pool, _ledger) = ledger_pool(config);
    let scope = TagScope::enter("shrunk");
    let mut handle = pool.allocate(4 << 20, 64, &Device::Cpu).unwrap();
    drop(scope);
    pool.shrink(&mut handle, 1 << 20).unwrap();
    let detailed = pool.get_detailed_metrics().unwrap();
    let usage = detailed.by_tag.iter().find(|usage| usage.name == "shrunk").unwrap();
    assert_eq!((usage.current_bytes, usage.peak_bytes), (1 << 20, 4 << 20));
    let live = pool.live_blocks();
    assert_eq!((live.len(), live[0].size, live[0].tag), (1, 1 << 20, "shrunk"));
    assert_eq!(pool.timeline().events.last().unwrap().live_bytes, 1 << 20);
}

#[test]
fn buffers_shrink_to_what_they_keep() {
    let (pool, _ledger) = ledger_pool(MemoryPoolConfig::default());
    let mut buffer = PoolBuffer::<f32>::zeroed(&pool, 1 << 20, &Device::Cpu, "a test").unwrap();
    buffer.iter_mut().enumerate().for_each(|(n, value)| *value = n as f32);
    let address = buffer.as_ptr();
    assert!(buffer.shrink_to((1 << 20) + 1).is_err());
    buffer.shrink_to(1000).unwrap();
    assert_eq!((buffer.as_ptr(), buffer.len(), pool.footprint().held), (address, 1000, 4096));
    assert!(buffer.iter().enumerate().all(|(n, &value)| value == n as f32));
    buffer.shrink_to(0).unwrap();
    assert!(buffer.is_empty() && buffer.shrink_to(1).is_err());
    assert_eq!(pool.get_metrics().active_allocations(), 0);
}
