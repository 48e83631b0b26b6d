//! What a pool tracks.

use std::time::Duration;

/// How much a pool writes down about its blocks; each level includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrackingLevel {
    /// The totals of [`MemoryMetrics`](crate::memory::MemoryMetrics) only.
    None,
    /// Current, peak, allocated and freed by size class and device.
    Basic,
    /// The same by scope tag; live blocks; a ring of the latest events of each thread.
    #[default]
    Standard,
    /// The call site and the time of every live block and event.
    Detailed,
}

/// Settings of tracking.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackingConfig {
    /// How much is written down.
    pub level: TrackingLevel,
    /// Whether the pool watches how much memory is left and calls its pressure callbacks.
    pub enable_pressure_detection: bool,
    /// Whether [`DetailedMetrics`](crate::memory::DetailedMetrics) count blocks that live longer than
    /// `leak_detection_interval`.
    pub enable_leak_detection: bool,
    /// Share of the memory in use from which the pressure is high; the other levels follow from it.
    pub pressure_threshold_ratio: f64,
    /// Age from which a block counts as a possible leak. They are looked for whenever detailed metrics are asked for,
    /// and never in between.
    pub leak_detection_interval: Duration,
}

impl Default for TrackingConfig {
    fn default() -> Self {
        TrackingConfig {
            level: TrackingLevel::Standard,
            enable_pressure_detection: true,
            enable_leak_detection: true,
            pressure_threshold_ratio: 0.8,
            leak_detection_interval: Duration::from_secs(60),
        }
    }
}
