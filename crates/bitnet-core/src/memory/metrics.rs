//! What a pool has handed out.

use super::config::SizeClass;

/// Counts of one pool, over all clones and threads.
///
/// Units: bytes as asked for (padding is not counted), and numbers of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryMetrics {
    /// Bytes allocated since the pool was made.
    pub total_allocated: u64,
    /// Bytes deallocated since the pool was made.
    pub total_deallocated: u64,
    /// Bytes allocated now.
    pub current_allocated: u64,
    /// Most bytes allocated at any one time.
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
        self.allocation_count - self.deallocation_count
    }

    fn class_mut(&mut self, size: usize) -> &mut u64 {
        match SizeClass::of(size) {
            SizeClass::Small => &mut self.small_allocated,
            SizeClass::Large => &mut self.large_allocated,
        }
    }

    pub(super) fn record_allocation(&mut self, size: usize) {
        *self.class_mut(size) += size as u64;
        self.total_allocated += size as u64;
        self.current_allocated += size as u64;
        self.peak_allocated = self.peak_allocated.max(self.current_allocated);
        self.allocation_count += 1;
    }

    pub(super) fn record_deallocation(&mut self, size: usize) {
        *self.class_mut(size) -= size as u64;
        self.total_deallocated += size as u64;
        self.current_allocated -= size as u64;
        self.deallocation_count += 1;
    }
}
