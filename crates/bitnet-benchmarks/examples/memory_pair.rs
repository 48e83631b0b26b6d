//! Allocates and frees, and nothing else, for a profiler: `memory_pair KIND PAIRS`.
//!
//! `KIND` is `small` (64 B to 512 KB), `buddy` (1 MiB to 64 MiB), or a level of tracking under small pairs: `basic`,
//! `standard`, `detailed`, `precise`.
//!
//! ```sh
//! cargo build --release -p bitnet-benchmarks --example memory_pair
//! perf stat -e instructions:u,cycles:u target/release/examples/memory_pair small 100000000
//! ```

use bitnet_core::backend::{BitNetError, Device};
use bitnet_core::memory::{HybridMemoryPool, LargeStrategy, MemoryPoolConfig, TrackingConfig, TrackingLevel};

fn main() -> Result<(), BitNetError> {
    let mut args = std::env::args().skip(1);
    let (kind, pairs) =
        (args.next().unwrap_or_default(), args.next().and_then(|text| text.parse::<u64>().ok()));
    let level = match kind.as_str() {
        "basic" => TrackingLevel::Basic,
        "standard" => TrackingLevel::Standard,
        "detailed" | "precise" => TrackingLevel::Detailed,
        "small" | "buddy" => TrackingLevel::None,
        _ => {
            eprintln!(
                "memory_pair: expected small, buddy, basic, standard, detailed or precise, and a number"
            );
            std::process::exit(2);
        }
    };
    let tracking = TrackingConfig { level, enable_pressure_detection: false, ..TrackingConfig::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: level > TrackingLevel::None,
        tracking_config: Some(tracking),
        ..MemoryPoolConfig::default()
    };
    let builder = HybridMemoryPool::builder().config(config).precise_timestamps(kind == "precise");
    let buddy = kind == "buddy";
    let pool =
        builder.large_strategy(if buddy { LargeStrategy::Buddy } else { LargeStrategy::BestFit }).build()?;
    // Sizes spread over octaves, in an order that no predictor learns.
    let mut state = 1u64;
    let sizes: Vec<usize> = (0..1 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let octave = if buddy { 20 + (state >> 60) % 6 } else { 6 + (state >> 60) % 13 };
            (1usize << octave) + (state as usize >> 20) % (1 << octave)
        })
        .collect();
    for pair in 0..pairs.unwrap_or(1 << 20) {
        let handle = pool.allocate(sizes[pair as usize % sizes.len()], 64, &Device::Cpu)?;
        pool.deallocate(handle)?;
    }
    Ok(())
}
