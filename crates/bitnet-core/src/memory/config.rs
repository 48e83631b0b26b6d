//! What a pool may hold.

/// Blocks of this many bytes or more are large, smaller ones small.
pub const SMALL_BLOCK_LIMIT: usize = 1024 * 1024;

/// The limits of a [`HybridMemoryPool`](super::HybridMemoryPool).
///
/// Holds the settings that the pool obeys today. The initial sizes, tracking and cleanup settings of the
/// specification are added together with the systems that obey them. Fill in the rest with
/// `..Default::default()`.
///
/// Units: bytes, over all devices of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPoolConfig {
    /// Most bytes in blocks below [`SMALL_BLOCK_LIMIT`] at any one time.
    pub max_small_pool_size: usize,
    /// Most bytes in blocks of [`SMALL_BLOCK_LIMIT`] and above at any one time.
    pub max_large_pool_size: usize,
}

impl Default for MemoryPoolConfig {
    /// Sets no limit below that of the operating system.
    fn default() -> Self {
        MemoryPoolConfig { max_small_pool_size: usize::MAX, max_large_pool_size: usize::MAX }
    }
}

/// The two sides of [`SMALL_BLOCK_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeClass {
    Small,
    Large,
}

impl SizeClass {
    pub(super) fn of(size: usize) -> Self {
        if size < SMALL_BLOCK_LIMIT { SizeClass::Small } else { SizeClass::Large }
    }

    /// Returns the setting that limits this class, and its name.
    pub(super) fn limit(self, config: &MemoryPoolConfig) -> (usize, &'static str) {
        match self {
            SizeClass::Small => (config.max_small_pool_size, "max_small_pool_size"),
            SizeClass::Large => (config.max_large_pool_size, "max_large_pool_size"),
        }
    }
}
