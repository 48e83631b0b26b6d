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

    /// Gives a region back.
    ///
    /// # Safety
    /// `region` came from [`acquire`](Self::acquire) of this same object, was not released before, and
    /// nothing refers to its memory any more.
    #[allow(unsafe_code)]
    unsafe fn release(&self, region: MemoryRegion);
}
