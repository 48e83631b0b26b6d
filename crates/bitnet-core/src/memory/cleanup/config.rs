//! When a pool cleans up, and how.

use std::time::Duration;

/// Settings of automatic cleanup.
#[derive(Debug, Clone, PartialEq)]
pub struct CleanupConfig {
    /// Time without allocations after which the pool counts as idle, and between periodic runs.
    pub idle_cleanup_interval: Duration,
    /// Share of the memory, or of a limit of the pool, in use from which memory is short and runs are
    /// [`Pressure`](super::CleanupStrategy::Pressure): at once, and then once an interval.
    pub pressure_cleanup_threshold: f64,
    /// Whether blocks are moved together, so that whole spans become free.
    pub enable_compaction: bool,
    /// Time after which a run begins no further piece of work, be it one block to move or one free range to give
    /// back; what is left is done by the next.
    pub max_cleanup_time: Duration,
}

impl Default for CleanupConfig {
    fn default() -> Self {
        CleanupConfig {
            idle_cleanup_interval: Duration::from_secs(30),
            pressure_cleanup_threshold: 0.9,
            enable_compaction: true,
            max_cleanup_time: Duration::from_millis(100),
        }
    }
}
