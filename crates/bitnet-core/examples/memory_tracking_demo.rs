//! What a tracking pool knows: usage by tag and class, leaks with their call sites, patterns, exports.
//!
//! `cargo run --example memory_tracking_demo [FOLDER]` also writes `snapshot.pickle`, for PyTorch's memory_viz,
//! and `trace.json`, for Perfetto, into FOLDER.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use bitnet_core::device::get_cpu_device;
use bitnet_core::memory::{
    HybridMemoryPool, MemoryPoolConfig, PoolBuffer, TagScope, TrackingConfig, TrackingLevel,
};

fn main() -> Result<(), Box<dyn Error>> {
    let tracking = TrackingConfig { level: TrackingLevel::Detailed, ..Default::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..Default::default()
    };
    let pool = HybridMemoryPool::builder().config(config).precise_timestamps(true).build()?;
    pool.register_pressure_callback(Box::new(|level| println!("memory pressure is now {level:?}")));
    let device = get_cpu_device();

    let weights = {
        let _scope = TagScope::enter("weights");
        PoolBuffer::<u8>::zeroed(&pool, 3 << 20, &device, "the weights")?
    };
    let forgotten = {
        let _scope = TagScope::enter("kv");
        pool.allocate(640 * 64 * 2, 64, &device)?
    };
    for _ in 0..200 {
        let _scope = TagScope::enter("activations");
        let row = PoolBuffer::<f32>::zeroed(&pool, 2560, &device, "a row")?;
        drop(row);
    }

    print!("{}", pool.report_text());
    for leak in pool.leaks(Duration::ZERO) {
        println!("not given back: {} blocks, {} bytes, tag {}", leak.blocks, leak.bytes, leak.tag);
    }
    if let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) {
        std::fs::write(folder.join("snapshot.pickle"), pool.snapshot_pickle())?;
        std::fs::write(folder.join("trace.json"), pool.trace_json().to_string())?;
    }
    pool.deallocate(forgotten)?;
    drop(weights);
    println!("at the end {} blocks are allocated", pool.get_metrics().active_allocations());
    Ok(())
}
