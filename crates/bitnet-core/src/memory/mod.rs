//! Memory: the pool that every buffer comes from, typed buffers on it, and tensors.
//!
//! [`HybridMemoryPool`] hands out blocks of device memory under generation-checked
//! [`MemoryHandle`]s. A handle names a block and does not point into it: bytes are reached through a
//! [`PinGuard`] or [`PinGuardMut`], and a block is neither given back nor moved while one exists.
//! [`PoolBuffer`] is the owner that most code wants: a pinned, zeroed, 64-byte aligned `[T]` that gives
//! its block back on drop. [`tensor::BitNetTensor`] adds shape and type.
//!
//! From the inside out: `heap` finds pages in arenas of a device (`best_fit`, `buddy`); `small` cuts pages into
//! blocks of size classes; `cache` keeps some at hand in each thread; `records`, `word` and `bias` are what a handle
//! is checked against; `service` and `shared` tie them together and `pool` is the door. Beside them: `tracking` (who holds what),
//! `pressure` (how much is left), `cleanup` (what goes back), `planner` (what can share a place).
//!
//! Bookkeeping is safe code on indices and page numbers. Addresses appear in four modules only, which
//! opt in to unsafe code: `cpu` (the system's mappings), `region` (releases a region once, and copies between
//! blocks), `cleanup::compaction` (says why a copy is sound) and `pin` (turns a pinned block into a slice); so do
//! `barrier` (a call of the system) and `latch` (a lock). To add
//! a device's memory, implement [`DeviceMemory`](bitnet_backend::DeviceMemory) and hand it to
//! [`PoolBuilder::device`].

mod barrier;
mod bias;
mod buffer;
mod builder;
mod cache;
mod cleanup;
mod config;
pub mod conversion;
mod counters;
mod cpu;
mod device_pool;
mod element;
mod forwards;
mod handle;
mod heap;
mod latch;
#[cfg(all(test, loom))]
mod loom_tests;
mod metrics;
mod pin;
mod planner;
mod pool;
mod pressure;
mod records;
mod region;
mod service;
mod shared;
mod shrink;
mod small;
mod sync;
pub mod tensor;
#[cfg(all(test, not(loom)))]
mod tests;
mod tracking;
mod word;

pub use buffer::{BUFFER_ALIGN, PoolBuffer};
pub use builder::{Admission, AllocationRequest, FailureCallback, PoolBuilder};
pub use cleanup::{CleanupConfig, CleanupMetrics, CleanupReport, CleanupStrategy, GenerationalSettings};
pub use config::{MemoryPoolConfig, SMALL_BLOCK_LIMIT};
pub use element::Element;
pub use handle::MemoryHandle;
pub use heap::LargeStrategy;
pub use metrics::{MemoryMetrics, PoolFootprint};
pub use pin::{PinGuard, PinGuardMut};
pub use planner::{LifetimePlan, PlanItem};
pub use pool::{HybridMemoryPool, MAX_ALIGN};
pub use pressure::{MemoryPressureLevel, PressureCallback, PressureReading};
pub use tracking::{
    DetailedMetrics, Leak, LiveBlock, Pattern, PatternKind, PatternReport, PoolSnapshot, SnapshotBlock,
    SnapshotDifference, TagScope, Timeline, TimelineEvent, TrackingConfig, TrackingLevel, Usage,
};
