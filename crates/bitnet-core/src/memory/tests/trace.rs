//! The allocations of a recorded model's life, replayed: how full an arena gets before it refuses.

use super::*;

/// Bytes of the blocks that loading and running a 2-billion-parameter model takes, in the order of its
/// checkpoint: per layer four attention matrices, three of the feed-forward part, four norms, then KV blocks of
/// 64 positions, activations of chunks of different lengths, and staging buffers that come and go.
fn shapes() -> Vec<(usize, bool)> {
    let (hidden, intermediate, kv) = (2560usize, 6912usize, 640usize);
    let mut out = Vec::new();
    for layer in 0..30 {
        for (rows, cols) in [
            (hidden, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, hidden),
            (intermediate, hidden),
            (intermediate, hidden),
            (hidden, intermediate),
        ] {
            // Staged as stored, kept at two bits a weight.
            out.push((rows * cols / 2, false));
            out.push((rows * cols / 4, true));
        }
        out.push((128 * intermediate * 4 + layer * 4096, false));
    }
    out.push((128_256 * hidden, true));
    (0..40).for_each(|_| out.push((30 * 2 * kv * 64 * 2, true)));
    for tokens in [1, 17, 64, 128, 100, 33] {
        out.push((tokens * intermediate * 4 + SMALL_BLOCK_LIMIT, true));
        out.push((tokens * 128_256 * 4 / 8 + SMALL_BLOCK_LIMIT, false));
    }
    out.into_iter().filter(|&(size, _)| size >= SMALL_BLOCK_LIMIT).collect()
}

/// Replays models one after the other until the first refusal; returns the share of the limit in use then.
fn utilisation(strategy: LargeStrategy) -> f64 {
    let limit = 4 << 30;
    let config =
        MemoryPoolConfig { max_large_pool_size: limit, initial_large_pool_size: limit, ..Default::default() };
    let pool = HybridMemoryPool::builder().config(config).large_strategy(strategy).build().unwrap();
    let mut kept = std::collections::VecDeque::new();
    let mut staged = std::collections::VecDeque::new();
    let mut models = 0;
    'load: loop {
        for (size, keep) in shapes() {
            let Ok(handle) = pool.allocate(size, 64, &Device::Cpu) else { break 'load };
            if keep {
                kept.push_back(handle);
            } else {
                staged.push_back(handle);
            }
            // Staging is freed a little later than it is used.
            while staged.len() > 3 {
                pool.deallocate(staged.pop_front().unwrap()).unwrap();
            }
        }
        models += 1;
        // An older model's KV blocks go when a new conversation begins.
        if models % 2 == 0 {
            (0..20).for_each(|_| pool.deallocate(kept.pop_back().unwrap()).unwrap());
        }
    }
    assert!(models >= 2);
    pool.debug_validate();
    pool.get_metrics().current_allocated as f64 / limit as f64
}

#[test]
fn best_fit_fills_its_arena() {
    let share = utilisation(LargeStrategy::BestFit);
    println!("utilisation at the first refusal: best fit {:.2} %", share * 100.0);
    assert!(share >= 0.97, "{share}");
}

#[test]
fn buddy_wastes_what_its_rounding_does() {
    let share = utilisation(LargeStrategy::Buddy);
    println!("utilisation at the first refusal: buddy {:.2} %", share * 100.0);
    assert!((0.5..0.97).contains(&share), "{share}");
}
