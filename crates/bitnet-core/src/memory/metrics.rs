//! What a pool has handed out.

/// Counts of one pool, over all clones and threads.
///
/// Units: bytes as asked for (padding is not counted), and numbers of blocks. Threads count for themselves, so
/// figures taken while others allocate may be a few blocks apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryMetrics {
    /// Bytes allocated since the pool was made.
    pub total_allocated: u64,
    /// Bytes deallocated since the pool was made.
    pub total_deallocated: u64,
    /// Bytes allocated now.
    pub current_allocated: u64,
    /// Most bytes allocated at any one time: exact while one thread allocates, and otherwise short by at most
    /// 4 MiB of small blocks a thread.
    pub peak_allocated: u64,
    /// Blocks allocated since the pool was made.
    pub allocation_count: u64,
    /// Blocks deallocated since the pool was made.
    pub deallocation_count: u64,
    /// Bytes allocated now in blocks below [`SMALL_BLOCK_LIMIT`](super::SMALL_BLOCK_LIMIT).
    pub small_allocated: u64,
    /// Bytes allocated now in larger blocks.
    pub large_allocated: u64,
}

impl MemoryMetrics {
    /// Returns the number of blocks allocated now.
    pub fn active_allocations(&self) -> u64 {
        self.allocation_count.saturating_sub(self.deallocation_count)
    }
}

/// Where the memory of a pool is, over all its devices.
///
/// Units: bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolFootprint {
    /// Addresses reserved.
    pub reserved: u64,
    /// Pages handed out to blocks and to the spans of size classes.
    pub held: u64,
    /// Free pages that may still hold memory of the system; a purge gives them back.
    pub purgeable: u64,
    /// Free bytes in reserved pages and in spans.
    pub free: u64,
    /// Largest block that fits without reserving more.
    pub largest_free: u64,
    /// Free bytes in spans of size classes.
    pub free_in_spans: u64,
    /// Bookkeeping, without the caches of threads.
    pub metadata: u64,
}

impl PoolFootprint {
    /// Returns the share of the held bytes that no block uses for anything asked for; 0 for an empty pool.
    pub fn fragmentation(&self, live: u64) -> f64 {
        if self.held == 0 { 0.0 } else { (1.0 - live as f64 / self.held as f64).max(0.0) }
    }
}
