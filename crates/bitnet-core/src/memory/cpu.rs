//! Host memory from the operating system.
#![allow(unsafe_code)]

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, MemoryRegion, Result};

use super::small::PAGE;

/// Zeroed host memory, page by page.
///
/// On Unix a region is a private mapping: addresses only, of which a page takes memory when a thread first
/// touches it, on that thread's node; huge pages are asked for by hint. Elsewhere it comes from the process's
/// allocator and cannot be purged.
#[derive(Debug, Default)]
pub(super) struct CpuMemory;

fn check(size: usize, align: usize) -> Result<usize> {
    let invalid = |reason| BitNetError::new(ErrorKind::InvalidAllocation { size, align, reason });
    if size == 0 {
        return Err(invalid("the size is zero"));
    }
    if !align.is_power_of_two() {
        return Err(invalid("the alignment is not a power of two"));
    }
    size.checked_next_multiple_of(PAGE)
        .filter(|&bytes| bytes.checked_add(align).is_some_and(|sum| sum <= isize::MAX as usize))
        .ok_or_else(|| invalid("size and alignment together exceed the address space"))
}

fn refused(size: usize) -> BitNetError {
    BitNetError::new(ErrorKind::OutOfMemory {
        requested: size,
        purpose: "cpu memory".into(),
        available: "the operating system refused".into(),
    })
}

#[cfg(all(unix, not(miri)))]
mod system {
    use std::ptr;

    use bitnet_backend::MemoryRegion;

    use super::PAGE;

    pub(super) const LAZY: bool = true;

    fn flags() -> i32 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANON;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let flags = flags | libc::MAP_NORESERVE;
        flags
    }

    /// Maps `bytes` bytes, a multiple of a page, at `align`.
    pub(super) fn acquire(bytes: usize, align: usize) -> Option<usize> {
        let mapped = if align > PAGE { bytes + align } else { bytes };
        // SAFETY: a new private mapping, placed by the system, overlaps nothing that exists.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), mapped, libc::PROT_READ | libc::PROT_WRITE, flags(), -1, 0)
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        let base = base.expose_provenance();
        let address = base.next_multiple_of(align);
        let (lead, tail) = (address - base, base + mapped - (address + bytes));
        for (start, len) in [(base, lead), (address + bytes, tail)] {
            if len > 0 {
                // SAFETY: a part of the mapping made above that nothing refers to, of whole pages.
                unsafe { libc::munmap(ptr::with_exposed_provenance_mut(start), len) };
            }
        }
        Some(address)
    }

    /// # Safety
    /// As `DeviceMemory::release`; `bytes` is the mapping's size.
    pub(super) unsafe fn release(address: usize, bytes: usize, _align: usize) {
        // SAFETY: the whole mapping made by `acquire`, to which nothing refers any more.
        let result = unsafe { libc::munmap(ptr::with_exposed_provenance_mut(address), bytes) };
        debug_assert_eq!(result, 0);
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn prefer_huge_pages(region: MemoryRegion) {
        let start = ptr::with_exposed_provenance_mut(region.address);
        // SAFETY: a hint on a live mapping that changes no contents. A system without huge pages refuses it.
        unsafe { libc::madvise(start, region.size, libc::MADV_HUGEPAGE) };
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn prefer_huge_pages(_region: MemoryRegion) {}

    /// # Safety
    /// As `DeviceMemory::purge`.
    pub(super) unsafe fn purge(part: MemoryRegion) -> bool {
        let start = ptr::with_exposed_provenance_mut(part.address);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: whole pages of a live private mapping, to whose contents nothing refers.
        let done = unsafe { libc::madvise(start, part.size, libc::MADV_DONTNEED) } == 0;
        // Elsewhere no advice promises zeros; a fresh mapping in the same place does.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        // SAFETY: as above; the new mapping takes the place of pages that nothing refers to.
        let done = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(start, part.size, protection, flags() | libc::MAP_FIXED, -1, 0) == start
        };
        done
    }
}

#[cfg(any(not(unix), miri))]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr;

    use bitnet_backend::MemoryRegion;

    pub(super) const LAZY: bool = false;

    pub(super) fn acquire(bytes: usize, align: usize) -> Option<usize> {
        let layout = Layout::from_size_align(bytes, align).ok()?;
        // SAFETY: the size is above zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() { None } else { Some(base.expose_provenance()) }
    }

    /// # Safety
    /// As `DeviceMemory::release`; `bytes` and `align` are those of `acquire`.
    pub(super) unsafe fn release(address: usize, bytes: usize, align: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, align) {
            // SAFETY: the same layout as in `acquire`, and the address that it returned.
            unsafe { dealloc(ptr::with_exposed_provenance_mut(address), layout) };
        }
    }

    pub(super) fn prefer_huge_pages(_region: MemoryRegion) {}

    /// # Safety
    /// None; the allocator takes no parts back.
    pub(super) unsafe fn purge(_part: MemoryRegion) -> bool {
        false
    }
}

// SAFETY: regions are fresh zeroed mappings (or allocations), handed out once, aligned as asked and with
// exposed provenance; nothing here touches one again before `purge` or `release`.
unsafe impl DeviceMemory for CpuMemory {
    fn device(&self) -> Device {
        Device::Cpu
    }

    fn acquire(&self, size: usize, align: usize) -> Result<MemoryRegion> {
        let bytes = check(size, align)?;
        let address = system::acquire(bytes, align).ok_or_else(|| refused(size))?;
        Ok(MemoryRegion { address, size, align })
    }

    fn is_lazy(&self) -> bool {
        system::LAZY
    }

    fn prefer_huge_pages(&self, region: MemoryRegion) {
        system::prefer_huge_pages(region);
    }

    unsafe fn purge(&self, part: MemoryRegion) -> usize {
        // SAFETY: the caller keeps the contract of this method, which is the function's.
        if unsafe { system::purge(part) } { part.size } else { 0 }
    }

    unsafe fn release(&self, region: MemoryRegion) {
        let Ok(bytes) = check(region.size, region.align) else {
            debug_assert!(false, "released a region that acquire cannot have made: {region:?}");
            return;
        };
        // SAFETY: the caller releases a region of `acquire` once; `bytes` is computed as it was there.
        unsafe { system::release(region.address, bytes, region.align) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_zeroed_purged_and_given_back() {
        let memory = CpuMemory;
        for align in [1, 16, 4096, 2 << 20] {
            for size in [1, 63, 4096, 3 * 65536 + 1] {
                let region = memory.acquire(size, align).unwrap();
                assert_eq!((region.address % align, region.size, region.align), (0, size, align));
                // SAFETY: the region is `size` initialised bytes that only this test knows of.
                let bytes: &mut [u8] = unsafe {
                    std::slice::from_raw_parts_mut(
                        std::ptr::with_exposed_provenance_mut(region.address),
                        size,
                    )
                };
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(0xA5);
                if size >= PAGE {
                    let part = MemoryRegion { address: region.address, size: PAGE, align: PAGE };
                    // SAFETY: one whole page of the region; `bytes` is read again only afterwards.
                    let purged = unsafe { memory.purge(part) };
                    let expected = if purged == PAGE { 0 } else { 0xA5 };
                    assert!(bytes[..PAGE].iter().all(|&byte| byte == expected));
                    assert!(bytes[PAGE..].iter().all(|&byte| byte == 0xA5));
                }
                // SAFETY: acquired above, released once, and `bytes` is not used again.
                unsafe { memory.release(region) };
            }
        }
    }

    #[test]
    fn requests_that_nothing_can_serve_are_typed() {
        let memory = CpuMemory;
        for (size, align) in [(0, 64), (64, 3), (usize::MAX, 64), (isize::MAX as usize, 2)] {
            let error = memory.acquire(size, align).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{error}");
        }
        let error = memory.acquire(isize::MAX as usize / 2, 64).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    }
}
