//! How a pool gives memory back: compaction behind handles, each strategy's report, a cleanup thread.

use std::error::Error;
use std::time::{Duration, Instant};

use bitnet_core::device::get_cpu_device;
use bitnet_core::memory::{CleanupConfig, CleanupStrategy, HybridMemoryPool, MemoryPoolConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let device = get_cpu_device();
    let pool = HybridMemoryPool::new()?;
    let handles = (0..20_000).map(|n| pool.allocate(64 << (n % 6), 64, &device));
    let handles = handles.collect::<Result<Vec<_>, _>>()?;
    let mut kept = Vec::new();
    for (index, handle) in handles.into_iter().enumerate() {
        if index % 60 < 6 {
            pool.pin_mut(&handle)?.fill(index as u8);
            kept.push((index, handle));
        } else {
            pool.deallocate(handle)?;
        }
    }
    println!("{} bytes held for {}", pool.footprint().held, pool.get_metrics().current_allocated);
    for strategy in CleanupStrategy::ALL {
        let report = pool.cleanup(strategy);
        println!(
            "{strategy:?}: {} bytes released, {} purged, {} blocks moved in {:?}; {} bytes held",
            report.released_bytes,
            report.purged_bytes,
            report.moved_blocks,
            report.duration,
            pool.footprint().held
        );
    }
    for (index, handle) in kept {
        let intact = pool.pin(&handle)?.iter().all(|&byte| byte == index as u8);
        assert!(intact, "block {index} changed while it was moved");
        pool.deallocate(handle)?;
    }
    println!("every block kept its bytes");

    let cleanup = CleanupConfig { idle_cleanup_interval: Duration::from_millis(50), ..Default::default() };
    let config = MemoryPoolConfig {
        enable_automatic_cleanup: true,
        cleanup_config: Some(cleanup),
        ..Default::default()
    };
    let pool = HybridMemoryPool::with_config(config)?;
    let handle = pool.allocate(16 << 20, 64, &device)?;
    pool.pin_mut(&handle)?.fill(1);
    pool.deallocate(handle)?;
    let begin = Instant::now();
    while pool.footprint().reserved > 0 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!(
        "after {} ms of idling, {} runs of the cleanup thread left {} bytes reserved",
        begin.elapsed().as_millis(),
        pool.get_cleanup_metrics().runs,
        pool.footprint().reserved
    );
    Ok(())
}
