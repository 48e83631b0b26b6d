//! Memory: the pool that every buffer comes from, typed buffers on it, and tensors.
//!
//! [`HybridMemoryPool`] hands out blocks of device memory under generation-checked
//! [`MemoryHandle`]s. A handle names a block and does not point into it: bytes are reached through a
//! [`PinGuard`] or [`PinGuardMut`], and a block cannot be given back while one exists.
//! [`PoolBuffer`] is the owner that most code wants: a pinned, zeroed, 64-byte aligned `[T]` that gives
//! its block back on drop. [`tensor::BitNetTensor`] adds shape and type.
//!
//! Bookkeeping (`slots`, `pool`) is safe code on indices. Addresses appear in three modules only, which
//! opt in to unsafe code: `cpu` (the system's allocator), `region` (releases a region once, on drop) and
//! `pin` (turns a pinned region into a slice). To add a device's memory, implement
//! [`DeviceMemory`](bitnet_backend::DeviceMemory) and list it in `HybridMemoryPool::with_config`.

mod buffer;
mod config;
pub mod conversion;
mod cpu;
mod element;
mod handle;
mod metrics;
mod pin;
mod pool;
mod region;
mod slots;
pub mod tensor;
#[cfg(test)]
mod tests;

pub use buffer::{BUFFER_ALIGN, PoolBuffer};
pub use config::{MemoryPoolConfig, SMALL_BLOCK_LIMIT};
pub use element::Element;
pub use handle::MemoryHandle;
pub use metrics::MemoryMetrics;
pub use pin::{PinGuard, PinGuardMut};
pub use pool::{HybridMemoryPool, MAX_ALIGN};
