//! What a pool may hold and what watches over it.

use super::cleanup::CleanupConfig;
use super::tracking::TrackingConfig;

/// Blocks of this many bytes or more are large, smaller ones small.
pub const SMALL_BLOCK_LIMIT: usize = 1024 * 1024;

/// The settings of a [`HybridMemoryPool`](super::HybridMemoryPool) that the specification names; the others
/// are those of [`PoolBuilder`](super::PoolBuilder).
///
/// Units: bytes, of each device of the pool. Sizes count pages that the pool has handed out or keeps for a
/// size class, so a block counts with what it is rounded up to. Initial sizes reserve addresses, not memory, and no
/// more of them than the limit beside them: a limit may be set alone.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryPoolConfig {
    /// Addresses that the first arena of small blocks reserves.
    pub initial_small_pool_size: usize,
    /// Most bytes in blocks below [`SMALL_BLOCK_LIMIT`] at any one time.
    pub max_small_pool_size: usize,
    /// Addresses that the first arena of large blocks reserves.
    pub initial_large_pool_size: usize,
    /// Most bytes in blocks of [`SMALL_BLOCK_LIMIT`] and above at any one time.
    pub max_large_pool_size: usize,
    /// Whether the pool tracks its blocks, as `tracking_config` says.
    pub enable_advanced_tracking: bool,
    /// What is tracked; `None` stands for the default.
    pub tracking_config: Option<TrackingConfig>,
    /// Whether a thread of the pool cleans up, as `cleanup_config` says.
    pub enable_automatic_cleanup: bool,
    /// When and how it cleans up; `None` stands for the default.
    pub cleanup_config: Option<CleanupConfig>,
}

impl Default for MemoryPoolConfig {
    /// Sets no limit below that of the operating system; tracking and automatic cleanup are off.
    fn default() -> Self {
        MemoryPoolConfig {
            initial_small_pool_size: 64 * 1024 * 1024,
            max_small_pool_size: usize::MAX,
            initial_large_pool_size: 128 * 1024 * 1024,
            max_large_pool_size: usize::MAX,
            enable_advanced_tracking: false,
            tracking_config: None,
            enable_automatic_cleanup: false,
            cleanup_config: None,
        }
    }
}
