//! Host memory from the process's allocator.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, MemoryRegion, Result};

/// Alignment that the system's zeroing allocation gives without further work.
const SYSTEM_ALIGN: usize = 16;
/// Size from which leaving zero pages untouched is worth a few bytes of padding.
const LAZY_ZERO_SIZE: usize = 64 * 1024;

/// Zeroed host memory.
///
/// The standard library serves a zeroed request above the system's own alignment by writing the zeros,
/// which makes every page resident at once. Sizeable blocks are therefore taken at the system's alignment
/// (where fresh pages stay untouched until used) with padding to align inside; where each of those
/// really begins is kept here, out of band.
#[derive(Debug, Default)]
pub(super) struct CpuMemory {
    bases: Mutex<HashMap<usize, usize>>,
}

impl CpuMemory {
    fn bases(&self) -> MutexGuard<'_, HashMap<usize, usize>> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the layout to ask the system for, and whether it is padded.
fn layout_of(size: usize, align: usize) -> Result<(Layout, bool)> {
    let invalid = |reason| BitNetError::new(ErrorKind::InvalidAllocation { size, align, reason });
    if size == 0 {
        return Err(invalid("the size is zero"));
    }
    let layout = Layout::from_size_align(size, align)
        .map_err(|_| invalid("the alignment is not a power of two or the size exceeds the address space"))?;
    if align <= SYSTEM_ALIGN || size < LAZY_ZERO_SIZE {
        return Ok((layout, false));
    }
    // `size + align` is below twice isize::MAX, so the sum cannot wrap; the layout checks the rest.
    let padded = Layout::from_size_align(size + (align - SYSTEM_ALIGN), SYSTEM_ALIGN)
        .map_err(|_| invalid("size and alignment together exceed the address space"))?;
    Ok((padded, true))
}

// SAFETY: regions come zeroed from the system allocator, which hands out none twice, aligned as their
// layout says and with exposed provenance; nothing here touches one again before `release`.
unsafe impl DeviceMemory for CpuMemory {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn acquire(&self, size: usize, align: usize) -> Result<MemoryRegion> {
        let (layout, padded) = layout_of(size, align)?;
        // SAFETY: `layout` has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: size,
                purpose: "cpu memory".into(),
                available: "the operating system refused".into(),
            }));
        }
        let base = base.expose_provenance();
        let address = if padded { base.next_multiple_of(align) } else { base };
        if padded {
            self.bases().insert(address, base);
        }
        Ok(MemoryRegion { address, size, align })
    }

    unsafe fn release(&self, region: MemoryRegion) {
        let Ok((layout, padded)) = layout_of(region.size, region.align) else {
            debug_assert!(false, "released a region that acquire cannot have made: {region:?}");
            return;
        };
        let base = if padded { self.bases().remove(&region.address) } else { Some(region.address) };
        let Some(base) = base else {
            debug_assert!(false, "released a region that is not out: {region:?}");
            return;
        };
        // SAFETY:
        // - `base` is what `alloc_zeroed` returned for this region, with its provenance exposed: either
        //   the address itself or, for padded layouts, the base recorded when it was acquired;
        // - `layout` is computed from the same size and alignment by the same function;
        // - the caller releases the region once and nothing refers to it any more.
        unsafe { dealloc(ptr::with_exposed_provenance_mut(base), layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_zeroed_and_given_back() {
        let memory = CpuMemory::default();
        for align in [1, 16, 64, 4096, 2 << 20] {
            for size in [1, 63, LAZY_ZERO_SIZE - 1, LAZY_ZERO_SIZE, 3 * LAZY_ZERO_SIZE + 1] {
                let region = memory.acquire(size, align).unwrap();
                assert_eq!((region.address % align, region.size, region.align), (0, size, align));
                // SAFETY: the region is `size` initialised bytes that only this test knows of.
                let bytes: &mut [u8] = unsafe {
                    std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(region.address), size)
                };
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(0xA5);
                // SAFETY: acquired above, released once, and `bytes` is not used again.
                unsafe { memory.release(region) };
            }
        }
        assert!(memory.bases().is_empty());
    }

    #[test]
    fn requests_that_nothing_can_serve_are_typed() {
        let memory = CpuMemory::default();
        for (size, align) in [(0, 64), (64, 3), (usize::MAX, 64), (isize::MAX as usize, 2)] {
            let error = memory.acquire(size, align).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{error}");
        }
        let error = memory.acquire(isize::MAX as usize / 2, 64).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    }
}
