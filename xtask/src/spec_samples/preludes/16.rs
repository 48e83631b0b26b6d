use std::time::Duration;

use bitnet_core::memory::{HybridMemoryPool, TrackingLevel};
