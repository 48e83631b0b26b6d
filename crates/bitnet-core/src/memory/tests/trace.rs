//! The recorded allocations of a model's life, replayed: how full an arena gets before it refuses.

use super::*;

/// What loading a model took, as `tools/record_memory_trace.py` tells of it: 2B-4T shape, stored as I2_S, its weights put in
/// row fifths one after the other, an int8 head, then 119 tokens. A line is the size of a large block, or `-N` where block
/// `N` of them went.
const LOAD: &str = include_str!("load.trace");

/// Replays loads one after the other until the first refusal, and unloads the older of two models before every third;
/// returns the share of the limit in use then.
fn utilisation(strategy: LargeStrategy) -> f64 {
    let limit = 4 << 30;
    let config =
        MemoryPoolConfig { max_large_pool_size: limit, initial_large_pool_size: limit, ..Default::default() };
    let pool = HybridMemoryPool::builder().config(config).large_strategy(strategy).build().unwrap();
    let mut models: std::collections::VecDeque<Vec<Option<MemoryHandle>>> = Default::default();
    let mut loads = 0;
    'load: loop {
        if loads > 0 && loads % 3 == 0 {
            let oldest = models.pop_front().unwrap();
            oldest.into_iter().flatten().for_each(|handle| pool.deallocate(handle).unwrap());
        }
        models.push_back(Vec::new());
        let blocks = models.back_mut().unwrap();
        for line in LOAD.lines() {
            match line.strip_prefix('-') {
                Some(number) => {
                    let gone = blocks[number.parse::<usize>().unwrap() - 1].take().unwrap();
                    pool.deallocate(gone).unwrap();
                }
                None => match pool.allocate(line.parse().unwrap(), 64, &Device::Cpu) {
                    Ok(handle) => blocks.push(Some(handle)),
                    Err(error) => {
                        assert!(is_out_of_memory(Err::<(), _>(error)));
                        break 'load;
                    }
                },
            }
        }
        loads += 1;
    }
    pool.debug_validate();
    println!("{loads} loads before the refusal");
    assert!(loads >= 2);
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
