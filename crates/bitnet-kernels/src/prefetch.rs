//! Asking for memory before it is read.

#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for every cache line of `len` elements from `start`, into the second-level cache: a hint that reads nothing and
/// changes no result, whatever is there.
///
/// Nothing happens on processors for which this crate has no kernels.
#[inline]
pub fn prefetch<T>(start: *const T, len: usize) {
    let start = start.cast::<u8>();
    for offset in lines(start.addr(), len.saturating_mul(size_of::<T>())) {
        line(start.wrapping_offset(offset));
    }
}

/// Returns, from `address`, the starts of the lines that hold `bytes` bytes there.
#[inline]
fn lines(address: usize, bytes: usize) -> impl Iterator<Item = isize> {
    let lead = if bytes == 0 { 0 } else { address % LINE };
    (0..bytes.saturating_add(lead)).step_by(LINE).map(move |at| at as isize - lead as isize)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: SSE is part of x86-64, and a prefetch faults at no address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn line(at: *const u8) {
    // SAFETY: a prefetch faults at no address and changes no register.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags))
    };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn line(_: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_asked_for_and_none_beyond() {
        for address in 4096..4096 + 2 * LINE {
            for bytes in [0, 1, 2, 63, 64, 65, 127, 128, 129, 1000] {
                let asked: Vec<usize> =
                    lines(address, bytes).map(|offset| address.wrapping_add_signed(offset)).collect();
                let mut held: Vec<usize> = (address..address + bytes).map(|at| at / LINE * LINE).collect();
                held.dedup();
                assert_eq!(asked, held, "{bytes} bytes at {address}");
            }
        }
    }
}
