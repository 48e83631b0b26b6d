//! Kernels on floats, written once over the width of a register.
//!
//! The bodies here are `inline(always)` and generic over [`Register`]; a tier makes them its own by calling them
//! from functions that carry its target features. The 32 virtual lanes are four registers of 8 or two of 16,
//! and every lane sees the additions of the scalar tier, in its order, each product rounded before the sum.

#![allow(unsafe_code)]

pub mod attention;
pub mod dense;
mod reduce;
pub mod ternary;

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::scalar::lanes::LANES;

/// A register of floats.
///
/// # Safety
/// Every method asks for the instruction set of its type, and loads and stores for [`WIDTH`](Self::WIDTH)
/// accessible elements; no alignment is asked for.
pub trait Register: Copy {
    /// Floats in it.
    const WIDTH: usize;
    /// Registers of the 32 lanes.
    const COUNT: usize = LANES / Self::WIDTH;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn load_f16(at: *const f16) -> Self;
    unsafe fn load_bf16(at: *const bf16) -> Self;
    unsafe fn store(self, at: *mut f32);
    /// Widens bytes to integers, which are kept as the bits of floats.
    unsafe fn load_bytes(at: *const u8) -> Self;
    /// Returns the values of codes of two bits in such integers, from bit `shift` on: the code less 1.
    unsafe fn values(self, shift: u32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// Adds lanes until eight are left: `l` and `l + 8` of sixteen.
    unsafe fn eight(self) -> __m256;
}

/// Elements that are read as f32.
pub trait Element: Copy {
    /// Widens a register full.
    ///
    /// # Safety
    /// As the methods of [`Register`].
    unsafe fn load<V: Register>(at: *const Self) -> V;

    /// Widens one.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Register>(at: *const f32) -> V {
        // SAFETY: by the contract.
        unsafe { V::load(at) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Register>(at: *const f16) -> V {
        // SAFETY: by the contract.
        unsafe { V::load_f16(at) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<V: Register>(at: *const bf16) -> V {
        // SAFETY: by the contract.
        unsafe { V::load_bf16(at) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// The products of `Q` rows with `K` rows over `len` columns, the lanes of each pair added up to eight.
///
/// Registers `r` and `r + COUNT / 2` of a sum are kept at a time, so that narrow registers hold as many pairs
/// at once as wide ones.
///
/// # Safety
/// `len` is a multiple of 32; each pointer has `len` elements; the features of `V` and AVX2 are there.
#[inline(always)]
unsafe fn products<V: Register, E: Element, const Q: usize, const K: usize>(
    a: [*const f32; Q],
    b: [*const E; K],
    len: usize,
) -> [[__m256; K]; Q] {
    // SAFETY: every read lies below `len`; features by the contract.
    unsafe {
        let mut out = [[V::splat(0.0); K]; Q];
        for half in 0..V::COUNT / 2 {
            let mut sums = [[[V::splat(0.0); 2]; K]; Q];
            let mut start = half * V::WIDTH;
            while start < len {
                for s in 0..2 {
                    let at = start + s * (LANES / 2);
                    let mut right = [V::splat(0.0); K];
                    for k in 0..K {
                        right[k] = E::load::<V>(b[k].add(at));
                    }
                    for q in 0..Q {
                        let left = V::load(a[q].add(at));
                        for k in 0..K {
                            sums[q][k][s] = sums[q][k][s].add(left.mul(right[k]));
                        }
                    }
                }
                start += LANES;
            }
            for q in 0..Q {
                for k in 0..K {
                    let pair = sums[q][k][0].add(sums[q][k][1]);
                    out[q][k] = if half == 0 { pair } else { out[q][k].add(pair) };
                }
            }
        }
        let mut eights = [[_mm256_setzero_ps(); K]; Q];
        for q in 0..Q {
            for k in 0..K {
                eights[q][k] = out[q][k].eight();
            }
        }
        eights
    }
}
