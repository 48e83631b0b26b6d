//! Everything about a pool that the specification's configuration does not name.

use std::path::PathBuf;
use std::sync::Arc;

use bitnet_backend::{BitNetError, Device, DeviceMemory, Result};

use super::cleanup::{self, GenerationalSettings};
use super::cpu::CpuMemory;
use super::handle::MOST_ORDINAL;
use super::heap::LargeStrategy;
use super::pressure::{PressureMonitor, PressureSettings};
use super::shared::Shared;
use super::tracking::{Tracking, TrackingLevel};
use super::{HybridMemoryPool, MemoryPoolConfig};

/// A request for a block, as hooks see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationRequest {
    /// Bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Device.
    pub device: Device,
}

/// Called with a request that failed, the error, and how often it has been called for this request (from 1);
/// returns whether to try again, having freed something.
pub type FailureCallback = Arc<dyn Fn(&AllocationRequest, &BitNetError, u32) -> bool + Send + Sync>;

/// Called before a block is allocated; an error refuses it.
pub type Admission = Arc<dyn Fn(&AllocationRequest) -> Result<()> + Send + Sync>;

#[derive(Clone, Default)]
pub(super) struct PoolHooks {
    pub(super) failure: Option<FailureCallback>,
    pub(super) admission: Option<Admission>,
}

/// Settings of a [`HybridMemoryPool`]; made by [`HybridMemoryPool::builder`].
#[must_use]
pub struct PoolBuilder {
    config: MemoryPoolConfig,
    strategy: LargeStrategy,
    hooks: PoolHooks,
    memories: Vec<Arc<dyn DeviceMemory>>,
    events: usize,
    precise: bool,
    pressure: PressureSettings,
    generational: GenerationalSettings,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        PoolBuilder {
            config: MemoryPoolConfig::default(),
            strategy: LargeStrategy::default(),
            hooks: PoolHooks::default(),
            memories: vec![Arc::new(CpuMemory)],
            events: 4096,
            precise: false,
            pressure: PressureSettings::default(),
            generational: GenerationalSettings::default(),
        }
    }
}

impl PoolBuilder {
    /// Sets what the specification names.
    pub fn config(mut self, config: MemoryPoolConfig) -> Self {
        self.config = config;
        self
    }

    /// Chooses how room for large blocks is found; best fit by default.
    pub fn large_strategy(mut self, strategy: LargeStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Calls `callback` when a block cannot be allocated. It may free blocks of the pool, from this thread, and
    /// ask for another try.
    pub fn on_failure(
        mut self,
        callback: impl Fn(&AllocationRequest, &BitNetError, u32) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.hooks.failure = Some(Arc::new(callback));
        self
    }

    /// Asks `admission` before every block. Blocks are then not served from what threads have at hand without
    /// the question, which costs their speed.
    pub fn admission(
        mut self,
        admission: impl Fn(&AllocationRequest) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.hooks.admission = Some(Arc::new(admission));
        self
    }

    /// Adds the memory of another device.
    ///
    /// The first memory is the host's; a second one of the same device is never asked.
    pub fn device(mut self, memory: Arc<dyn DeviceMemory>) -> Self {
        self.memories.push(memory);
        self
    }

    /// Replaces the memories.
    #[cfg(all(test, not(loom)))]
    pub(super) fn memories(mut self, memories: Vec<Arc<dyn DeviceMemory>>) -> Self {
        self.memories = memories;
        self
    }

    /// Keeps the latest `events` events of each thread, 4096 by default.
    pub fn event_capacity(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// Reads the clock for every event, instead of one that moves on every two milliseconds.
    pub fn precise_timestamps(mut self, precise: bool) -> Self {
        self.precise = precise;
        self
    }

    /// Reads the files that tell of memory and its pressure below `root` instead of `/`.
    pub fn pressure_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.pressure.root = root.into();
        self
    }

    /// Sets when generational cleanup looks at which blocks.
    pub fn generational(mut self, settings: GenerationalSettings) -> Self {
        self.generational = settings;
        self
    }

    /// Makes the pool.
    ///
    /// # Errors
    /// `Mismatch` for a ratio outside 0 to 1 or an interval of zero; a cleanup thread that the system refuses.
    pub fn build(self) -> Result<HybridMemoryPool> {
        let config = self.config;
        check(&config)?;
        for memory in &self.memories {
            check_device(memory.device())?;
        }
        let tracking_config = config.tracking_config.clone().unwrap_or_default();
        let tracked = config.enable_advanced_tracking && tracking_config.level > TrackingLevel::None;
        let mut pressure = self.pressure;
        pressure.threshold = tracking_config.pressure_threshold_ratio;
        pressure.enabled = config.enable_advanced_tracking && tracking_config.enable_pressure_detection;
        let monitor = PressureMonitor::new(pressure);
        let tracking = tracked.then(|| Tracking::new(tracking_config, self.events, self.precise));
        let cleanup =
            config.enable_automatic_cleanup.then(|| config.cleanup_config.clone().unwrap_or_default());
        let shared =
            Arc::new(Shared::new(config, &self.memories, self.strategy, tracking, self.hooks, monitor));
        shared.cleaner.configure(self.generational);
        if let Some(cleanup) = cleanup {
            cleanup::start(&shared, &cleanup)?;
        }
        Ok(HybridMemoryPool { shared })
    }
}

fn check_device(device: Device) -> Result<()> {
    match device {
        Device::Cuda(ordinal) | Device::Metal(ordinal) if ordinal > MOST_ORDINAL => {
            Err(BitNetError::mismatch("ordinal of a device", format_args!("at most {MOST_ORDINAL}"), ordinal))
        }
        _ => Ok(()),
    }
}

fn check(config: &MemoryPoolConfig) -> Result<()> {
    let mut ratios = Vec::new();
    let mut times = Vec::new();
    if let Some(tracking) = &config.tracking_config {
        ratios.push(("pressure_threshold_ratio", tracking.pressure_threshold_ratio));
        times.push(("leak_detection_interval", tracking.leak_detection_interval));
    }
    if let Some(cleanup) = &config.cleanup_config {
        ratios.push(("pressure_cleanup_threshold", cleanup.pressure_cleanup_threshold));
        times.push(("idle_cleanup_interval", cleanup.idle_cleanup_interval));
        times.push(("max_cleanup_time", cleanup.max_cleanup_time));
    }
    for (name, ratio) in ratios {
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(BitNetError::mismatch(name, "a share above 0 and up to 1", ratio));
        }
    }
    for (name, time) in times {
        if time.is_zero() {
            return Err(BitNetError::mismatch(name, "a time above zero", "0 s"));
        }
    }
    Ok(())
}
