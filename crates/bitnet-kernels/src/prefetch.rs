//! Asking for memory before it is read.

#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines of `len` elements from `start`, into the second-level cache: a hint that reads nothing and
/// changes no result, whatever is there.
///
/// Nothing happens on processors for which this crate has no kernels.
#[inline]
pub fn prefetch<T>(start: *const T, len: usize) {
    for at in (0..len.saturating_mul(size_of::<T>())).step_by(LINE) {
        line(start.cast::<u8>().wrapping_add(at));
    }
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
