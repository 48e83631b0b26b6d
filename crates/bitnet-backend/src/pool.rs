//! Memory of one device, as a pool sees it.

use crate::{Device, Result};

/// A region of device memory: an address range that the owning [`DeviceMemory`] understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// Device address; for the CPU, a host pointer as an integer.
    pub address: usize,
    /// Length in bytes.
    pub size: usize,
    /// Alignment of `address`.
    pub align: usize,
}

/// Raw memory of one device: what a pool draws regions from and gives them back to.
///
/// Bookkeeping stays out of band, in the pool: an implementation never reads or writes a region.
///
/// # Safety
/// - A region that [`acquire`](Self::acquire) returned is `size` zeroed bytes at an address of the alignment
///   it states, and overlaps no other region until it is released.
/// - Where [`device`](Self::device) is [`Device::Cpu`], the address is that of host memory that may be
///   read and written through a pointer made from it (its provenance is exposed).
#[allow(unsafe_code)]
pub unsafe trait DeviceMemory: Send + Sync {
    /// Returns the device whose memory this is.
    fn device(&self) -> Device;

    /// Takes `size` zeroed bytes aligned to `align` (a power of two).
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) or
    /// [`ErrorKind::InvalidAllocation`](crate::ErrorKind::InvalidAllocation).
    fn acquire(&self, size: usize, align: usize) -> Result<MemoryRegion>;

    /// Reports whether [`acquire`](Self::acquire) only reserves addresses, each page taking memory when it
    /// is first touched (by the thread, and so on the node, that touches it). A pool then acquires far more
    /// than it hands out.
    fn is_lazy(&self) -> bool {
        false
    }

    /// Hints that a region is best served with huge pages. May do nothing.
    fn prefer_huge_pages(&self, region: MemoryRegion) {
        let _ = region;
    }

    /// Gives the memory of a part of a region back to the system and keeps its addresses, which read as
    /// zeros from then on. Returns the bytes given back: all, or none where that is not possible.
    ///
    /// # Safety
    /// `part` lies in a region that [`acquire`](Self::acquire) of this same object returned and that was not
    /// released, begins and ends at multiples of 4096 bytes, and nothing refers to its memory.
    #[allow(unsafe_code)]
    unsafe fn purge(&self, part: MemoryRegion) -> usize {
        let _ = part;
        0
    }

    /// Gives a region back.
    ///
    /// # Safety
    /// `region` came from [`acquire`](Self::acquire) of this same object, was not released before, and
    /// nothing refers to its memory any more.
    #[allow(unsafe_code)]
    unsafe fn release(&self, region: MemoryRegion);
}
