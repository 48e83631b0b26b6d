//! Snapshots as JSON.
//!
//! Every field stands there once, in the units of its name; `null` is no limit, no default changed, or not known.
//! Unknown fields are refused: a field that is not understood may change the meaning of one that is.

use std::time::Duration;

use bitnet_backend::{BitNetError, Result};
use serde::{Deserialize, Serialize};

use super::{PoolSnapshot, SnapshotBlock};
use crate::memory::{
    CleanupConfig, LargeStrategy, MemoryMetrics, MemoryPoolConfig, MemoryPressureLevel, PoolFootprint,
    TrackingConfig, TrackingLevel,
};

/// Version of the document.
const SCHEMA: u32 = 1;

#[derive(Deserialize)]
struct Version {
    schema: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    config: Config,
    metrics: Metrics,
    footprint: Footprint,
    pressure: Name,
    blocks: Option<Vec<Block>>,
}

/// A word for one of several values.
type Name = String;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    initial_small_pool_bytes: u64,
    max_small_pool_bytes: Option<u64>,
    initial_large_pool_bytes: u64,
    max_large_pool_bytes: Option<u64>,
    large_strategy: Name,
    advanced_tracking: bool,
    tracking: Option<Tracking>,
    automatic_cleanup: bool,
    cleanup: Option<Cleanup>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tracking {
    level: Name,
    pressure_detection: bool,
    leak_detection: bool,
    pressure_threshold_ratio: f64,
    leak_detection_interval_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cleanup {
    idle_cleanup_interval_ns: u64,
    pressure_cleanup_threshold: f64,
    compaction: bool,
    max_cleanup_time_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metrics {
    allocated_bytes: u64,
    freed_bytes: u64,
    current_bytes: u64,
    peak_bytes: u64,
    allocations: u64,
    deallocations: u64,
    small_bytes: u64,
    large_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footprint {
    reserved_bytes: u64,
    held_bytes: u64,
    purgeable_bytes: u64,
    free_bytes: u64,
    largest_free_bytes: u64,
    free_in_spans_bytes: u64,
    metadata_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    size_bytes: u64,
    class_bytes: Option<u32>,
    device: Name,
    tag: String,
    generation: u32,
    age_ns: u64,
    pinned: bool,
    site: Option<String>,
}

const STRATEGIES: [(&str, LargeStrategy); 2] =
    [("best-fit", LargeStrategy::BestFit), ("buddy", LargeStrategy::Buddy)];
const LEVELS: [(&str, TrackingLevel); 4] = [
    ("none", TrackingLevel::None),
    ("basic", TrackingLevel::Basic),
    ("standard", TrackingLevel::Standard),
    ("detailed", TrackingLevel::Detailed),
];
const PRESSURES: [(&str, MemoryPressureLevel); 5] = [
    ("none", MemoryPressureLevel::None),
    ("low", MemoryPressureLevel::Low),
    ("medium", MemoryPressureLevel::Medium),
    ("high", MemoryPressureLevel::High),
    ("critical", MemoryPressureLevel::Critical),
];

fn name_of<T: PartialEq>(names: &[(&str, T)], value: &T) -> Name {
    names.iter().find(|(_, other)| other == value).map_or_else(Name::new, |(name, _)| (*name).into())
}

fn value_of<T: Copy>(what: &str, names: &[(&str, T)], found: &str) -> Result<T> {
    names.iter().find(|(name, _)| *name == found).map(|(_, value)| *value).ok_or_else(|| {
        let expected = names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        BitNetError::mismatch(what, format!("one of {expected}"), format!("{found:?}"))
    })
}

/// Whole nanoseconds; a time of over 584 years counts as that.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn limit(bytes: usize) -> Option<u64> {
    (bytes != usize::MAX).then_some(bytes as u64)
}

fn size(what: &str, bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| BitNetError::mismatch(what, "bytes in the address space", bytes))
}

fn size_limit(what: &str, bytes: Option<u64>) -> Result<usize> {
    bytes.map_or(Ok(usize::MAX), |bytes| size(what, bytes))
}

/// Returns the document of a snapshot.
pub(super) fn write(snapshot: &PoolSnapshot) -> Result<String> {
    let PoolSnapshot { config, large_strategy, metrics, footprint, pressure, blocks } = snapshot;
    let document = Document {
        schema: SCHEMA,
        config: Config {
            initial_small_pool_bytes: config.initial_small_pool_size as u64,
            max_small_pool_bytes: limit(config.max_small_pool_size),
            initial_large_pool_bytes: config.initial_large_pool_size as u64,
            max_large_pool_bytes: limit(config.max_large_pool_size),
            large_strategy: name_of(&STRATEGIES, large_strategy),
            advanced_tracking: config.enable_advanced_tracking,
            tracking: config.tracking_config.as_ref().map(|tracking| Tracking {
                level: name_of(&LEVELS, &tracking.level),
                pressure_detection: tracking.enable_pressure_detection,
                leak_detection: tracking.enable_leak_detection,
                pressure_threshold_ratio: tracking.pressure_threshold_ratio,
                leak_detection_interval_ns: nanoseconds(tracking.leak_detection_interval),
            }),
            automatic_cleanup: config.enable_automatic_cleanup,
            cleanup: config.cleanup_config.as_ref().map(|cleanup| Cleanup {
                idle_cleanup_interval_ns: nanoseconds(cleanup.idle_cleanup_interval),
                pressure_cleanup_threshold: cleanup.pressure_cleanup_threshold,
                compaction: cleanup.enable_compaction,
                max_cleanup_time_ns: nanoseconds(cleanup.max_cleanup_time),
            }),
        },
        metrics: Metrics {
            allocated_bytes: metrics.total_allocated,
            freed_bytes: metrics.total_deallocated,
            current_bytes: metrics.current_allocated,
            peak_bytes: metrics.peak_allocated,
            allocations: metrics.allocation_count,
            deallocations: metrics.deallocation_count,
            small_bytes: metrics.small_allocated,
            large_bytes: metrics.large_allocated,
        },
        footprint: Footprint {
            reserved_bytes: footprint.reserved,
            held_bytes: footprint.held,
            purgeable_bytes: footprint.purgeable,
            free_bytes: footprint.free,
            largest_free_bytes: footprint.largest_free,
            free_in_spans_bytes: footprint.free_in_spans,
            metadata_bytes: footprint.metadata,
        },
        pressure: name_of(&PRESSURES, pressure),
        blocks: blocks.as_ref().map(|blocks| blocks.iter().map(write_block).collect()),
    };
    let text = serde_json::to_string_pretty(&document);
    let text = text.map_err(|error| BitNetError::mismatch("snapshot", "a JSON document", error))?;
    Ok(text + "\n")
}

fn write_block(block: &SnapshotBlock) -> Block {
    Block {
        size_bytes: block.size,
        class_bytes: block.class,
        device: block.device.to_string(),
        tag: block.tag.clone(),
        generation: block.generation,
        age_ns: nanoseconds(block.age),
        pinned: block.pinned,
        site: block.site.clone(),
    }
}

/// Reads the document of a snapshot.
pub(super) fn read(text: &[u8]) -> Result<PoolSnapshot> {
    let invalid = |error| BitNetError::mismatch("snapshot", "a document of a memory pool", error);
    // First, as a later schema may have anything else.
    let version: Version = serde_json::from_slice(text).map_err(invalid)?;
    if version.schema != SCHEMA {
        return Err(BitNetError::mismatch("schema of the snapshot", SCHEMA, version.schema));
    }
    let document: Document = serde_json::from_slice(text).map_err(invalid)?;
    let Document { config, metrics, footprint, pressure, blocks, .. } = document;
    let large_strategy = value_of("large_strategy", &STRATEGIES, &config.large_strategy)?;
    let snapshot = PoolSnapshot {
        config: read_config(config)?,
        large_strategy,
        metrics: MemoryMetrics {
            total_allocated: metrics.allocated_bytes,
            total_deallocated: metrics.freed_bytes,
            current_allocated: metrics.current_bytes,
            peak_allocated: metrics.peak_bytes,
            allocation_count: metrics.allocations,
            deallocation_count: metrics.deallocations,
            small_allocated: metrics.small_bytes,
            large_allocated: metrics.large_bytes,
        },
        footprint: PoolFootprint {
            reserved: footprint.reserved_bytes,
            held: footprint.held_bytes,
            purgeable: footprint.purgeable_bytes,
            free: footprint.free_bytes,
            largest_free: footprint.largest_free_bytes,
            free_in_spans: footprint.free_in_spans_bytes,
            metadata: footprint.metadata_bytes,
        },
        pressure: value_of("pressure", &PRESSURES, &pressure)?,
        blocks: blocks.map(|blocks| blocks.into_iter().enumerate().map(read_block).collect()).transpose()?,
    };
    check(&snapshot)?;
    Ok(snapshot)
}

fn read_config(config: Config) -> Result<MemoryPoolConfig> {
    let tracking = |tracking: Tracking| -> Result<TrackingConfig> {
        Ok(TrackingConfig {
            level: value_of("tracking level", &LEVELS, &tracking.level)?,
            enable_pressure_detection: tracking.pressure_detection,
            enable_leak_detection: tracking.leak_detection,
            pressure_threshold_ratio: tracking.pressure_threshold_ratio,
            leak_detection_interval: Duration::from_nanos(tracking.leak_detection_interval_ns),
        })
    };
    let cleanup = |cleanup: Cleanup| CleanupConfig {
        idle_cleanup_interval: Duration::from_nanos(cleanup.idle_cleanup_interval_ns),
        pressure_cleanup_threshold: cleanup.pressure_cleanup_threshold,
        enable_compaction: cleanup.compaction,
        max_cleanup_time: Duration::from_nanos(cleanup.max_cleanup_time_ns),
    };
    Ok(MemoryPoolConfig {
        initial_small_pool_size: size("initial_small_pool_bytes", config.initial_small_pool_bytes)?,
        max_small_pool_size: size_limit("max_small_pool_bytes", config.max_small_pool_bytes)?,
        initial_large_pool_size: size("initial_large_pool_bytes", config.initial_large_pool_bytes)?,
        max_large_pool_size: size_limit("max_large_pool_bytes", config.max_large_pool_bytes)?,
        enable_advanced_tracking: config.advanced_tracking,
        tracking_config: config.tracking.map(tracking).transpose()?,
        enable_automatic_cleanup: config.automatic_cleanup,
        cleanup_config: config.cleanup.map(cleanup),
    })
}

fn read_block((index, block): (usize, Block)) -> Result<SnapshotBlock> {
    let named = |error: BitNetError| error.context(format!("block {index}"));
    if block.class_bytes.is_some_and(|class| u64::from(class) < block.size_bytes) {
        let expected = format!("{} or more", block.size_bytes);
        let found = block.class_bytes.unwrap_or_default();
        return Err(named(BitNetError::mismatch("class_bytes", expected, found)));
    }
    Ok(SnapshotBlock {
        size: block.size_bytes,
        class: block.class_bytes,
        device: block.device.parse().map_err(named)?,
        tag: block.tag,
        generation: block.generation,
        age: Duration::from_nanos(block.age_ns),
        pinned: block.pinned,
        site: block.site,
    })
}

/// Refuses sums that no pool has.
fn check(snapshot: &PoolSnapshot) -> Result<()> {
    let metrics = &snapshot.metrics;
    let of_classes = metrics.small_allocated.checked_add(metrics.large_allocated);
    let sums = [
        ("allocated_bytes - freed_bytes", metrics.total_allocated.checked_sub(metrics.total_deallocated)),
        ("small_bytes + large_bytes", of_classes),
    ];
    for (what, sum) in sums {
        if sum != Some(metrics.current_allocated) {
            let found = sum.map_or_else(|| "no number of bytes".into(), |sum| sum.to_string());
            return Err(BitNetError::mismatch(what, metrics.current_allocated, found));
        }
    }
    if metrics.deallocation_count > metrics.allocation_count {
        let expected = format!("at most {}", metrics.allocation_count);
        return Err(BitNetError::mismatch("deallocations", expected, metrics.deallocation_count));
    }
    Ok(())
}
