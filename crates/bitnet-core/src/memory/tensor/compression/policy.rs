//! What is compressed, and when.

use std::time::Duration;

use bitnet_backend::{BitNetError, Result};

use crate::memory::MemoryPressureLevel;

/// When a [`TensorShelf`](super::TensorShelf) compresses which tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompressionPolicy {
    /// Tensors of fewer bytes are left alone.
    pub min_bytes: usize,
    /// Least ratio of the bytes before to the bytes after; what stays below is left alone, and not tried again.
    pub min_ratio: f64,
    /// Time without use after which a tensor is compressed under medium pressure; `None` never does.
    pub idle_at_medium: Option<Duration>,
    /// The same under high pressure.
    pub idle_at_high: Option<Duration>,
    /// The same under critical pressure.
    pub idle_at_critical: Option<Duration>,
}

impl Default for CompressionPolicy {
    /// From 64 KiB and a quarter saved: after a minute, 5 seconds and at once.
    fn default() -> Self {
        CompressionPolicy {
            min_bytes: 64 << 10,
            min_ratio: 4.0 / 3.0,
            idle_at_medium: Some(Duration::from_secs(60)),
            idle_at_high: Some(Duration::from_secs(5)),
            idle_at_critical: Some(Duration::ZERO),
        }
    }
}

impl CompressionPolicy {
    /// Returns the time without use after which a tensor is compressed; `None` where none is.
    pub fn idle_at(&self, level: MemoryPressureLevel) -> Option<Duration> {
        match level {
            MemoryPressureLevel::None | MemoryPressureLevel::Low => None,
            MemoryPressureLevel::Medium => self.idle_at_medium,
            MemoryPressureLevel::High => self.idle_at_high,
            MemoryPressureLevel::Critical => self.idle_at_critical,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.min_ratio >= 1.0 && self.min_ratio.is_finite() {
            return Ok(());
        }
        Err(BitNetError::mismatch("min_ratio of a compression policy", "a number from 1 on", self.min_ratio))
    }
}
