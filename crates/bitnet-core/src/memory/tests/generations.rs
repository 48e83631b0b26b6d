//! Blocks whose generations are used up, in every kind of place that blocks have.

use std::collections::HashSet;

use super::*;
use crate::memory::word::{LAST_GENERATION, Seen};

/// Leaves the words of free blocks three generations before their last.
fn age(pool: &HybridMemoryPool) {
    for (_, record) in pool.shared.records.iter() {
        for word in record.words.iter().filter(|word| word.see().0 == Seen::Free) {
            word.age(LAST_GENERATION - 3);
        }
    }
}

/// Reports whether any block of the pool rests until the next epoch of its record.
fn has_retired(pool: &HybridMemoryPool) -> bool {
    pool.shared.records.iter().flat_map(|(_, record)| &record.words).any(|word| word.see().0 == Seen::Retired)
}

/// Allocates and frees blocks of one size through the end of generations: no name comes twice, and what is stale stays so.
fn wear_out(strategy: LargeStrategy, size: usize, align: usize, device: Device) {
    let what = format!("{strategy:?} {size} {align} {device}");
    let config = MemoryPoolConfig::default();
    let builder = HybridMemoryPool::builder().config(config).large_strategy(strategy);
    let pool = match device {
        Device::Cpu => builder.build().unwrap(),
        device => builder.device(Ledger::new(device, false)).build().unwrap(),
    };
    let mut names = HashSet::new();
    let mut stale = Vec::new();
    let first = pool.allocate(size, align, &device).unwrap();
    pool.deallocate(first.clone()).unwrap();
    let epoch = first.epoch();
    stale.push(first);
    let mut retired = false;
    for round in 0..40 {
        if round % 10 == 0 {
            age(&pool);
            names.clear();
        }
        let handle = pool.allocate(size, align, &device).unwrap();
        assert!(
            names.insert((handle.slot(), handle.epoch(), handle.generation())),
            "{what}: {handle:?} twice"
        );
        if round % 3 == 1 && device.is_cpu() {
            let mut pin = pool.pin_mut(&handle).unwrap();
            pin.fill(round as u8);
        }
        pool.deallocate(handle.clone()).unwrap();
        stale.push(handle);
        // Where nothing else is in its memory, its record goes on to the next epoch at once.
        retired |= has_retired(&pool) || stale.last().is_some_and(|handle| handle.epoch() > epoch);
        pool.debug_validate();
        for old in &stale {
            assert!(is_invalid_handle(pool.deallocate(old.clone())), "{what}: {old:?} was freed twice");
        }
        // Handles of before the words were aged by hand name generations that come again.
        if round % 10 == 9 {
            stale.clear();
        }
    }
    assert!(retired, "{what}: no block was used up");
    pool.cleanup(CleanupStrategy::Idle);
    pool.debug_validate();
    assert_eq!(pool.get_metrics().current_allocated, 0);
}

#[test]
fn no_name_comes_twice_when_generations_end() {
    for strategy in [LargeStrategy::BestFit, LargeStrategy::Buddy] {
        // In spans of small blocks, alone for their alignment, large.
        for (size, align) in [(64, 64), (100_000, 64), (64, 1 << 21), (1 << 20, 64), (3 << 20, 4096)] {
            wear_out(strategy, size, align, Device::Cpu);
        }
        wear_out(strategy, 64, 64, Device::Cuda(0));
        wear_out(strategy, 1 << 20, 64, Device::Cuda(0));
    }
}

#[test]
fn blocks_that_moved_and_blocks_that_shrank_end_their_generations() {
    let pool = HybridMemoryPool::new().unwrap();
    let warm: Vec<_> = (0..600).map(|_| pool.allocate(4096, 64, &Device::Cpu).unwrap()).collect();
    warm.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    for _ in 0..6 {
        age(&pool);
        let mut handles: Vec<_> = (0..600u32)
            .map(|index| {
                let handle = pool.allocate(4096, 64, &Device::Cpu).unwrap();
                pool.pin_mut(&handle).unwrap()[..4].copy_from_slice(&index.to_ne_bytes());
                (index, handle)
            })
            .collect();
        for (index, handle) in &mut handles {
            if *index % 3 != 0 {
                pool.deallocate(handle.clone()).unwrap();
            } else if *index % 2 == 0 {
                // Three times at most, then the block has to get another place.
                for size in [4000, 3900, 3800, 3700] {
                    pool.shrink(handle, size).unwrap();
                }
            }
        }
        handles.retain(|(index, _)| index % 3 == 0);
        pool.compact();
        pool.debug_validate();
        for (index, handle) in handles {
            assert_eq!(pool.pin(&handle).unwrap()[..4], index.to_ne_bytes());
            pool.deallocate(handle.clone()).unwrap();
            assert!(is_invalid_handle(pool.deallocate(handle)));
        }
        pool.debug_validate();
    }
    assert!(pool.get_cleanup_metrics().moved_blocks > 0);
    assert_eq!(pool.get_metrics().current_allocated, 0);
}
