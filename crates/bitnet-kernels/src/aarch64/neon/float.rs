//! `neon-dense`: the 32 virtual lanes as eight registers.
//!
//! Additions and multiplications are those of the scalar tier, in the same order for every lane, and never
//! fused; rows narrower than f32 are widened in registers.

use std::arch::aarch64::*;

use half::{bf16, f16};

use crate::scalar::dense::DenseRow;
use crate::scalar::lanes::LANES;

/// Floats in a register.
const WIDTH: usize = 4;
/// Registers of one sum.
const REGISTERS: usize = LANES / WIDTH;

type Sum = [float32x4_t; REGISTERS];

/// Elements that are read as f32.
///
/// The methods are `inline(always)` without a target feature of their own, as a trait demands: they become part
/// of their callers here, which have it.
trait Element: Copy {
    /// Widens four elements.
    ///
    /// # Safety
    /// Four elements can be read from `at`; NEON is there.
    unsafe fn load_four(at: *const Self) -> float32x4_t;

    /// Widens one.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load_four(at: *const f32) -> float32x4_t {
        // SAFETY: by the contract; `vld1q` asks for no alignment.
        unsafe { vld1q_f32(at) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load_four(at: *const f16) -> float32x4_t {
        // SAFETY: by the contract; `vld1` asks for no alignment, and `f16` is transparent over `u16`.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at.cast()))) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load_four(at: *const bf16) -> float32x4_t {
        // SAFETY: by the contract; `vld1` asks for no alignment, and `bf16` is transparent over `u16`.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at.cast()))) }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// The contract of `scalar::dense::dense`.
#[target_feature(enable = "neon")]
pub fn dense(row: DenseRow<'_>, x: &[f32], out: &mut [f32]) {
    match row {
        DenseRow::F32(row) => dense_tokens(row, x, out),
        DenseRow::F16(row) => dense_tokens(row, x, out),
        DenseRow::BF16(row) => dense_tokens(row, x, out),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dense_tokens<E: Element>(row: &[E], x: &[f32], out: &mut [f32]) {
    let mut t = 0;
    while t + 2 <= out.len() {
        out[t..t + 2].copy_from_slice(&dots::<E, 2>(row, &x[t * row.len()..]));
        t += 2;
    }
    if t < out.len() {
        [out[t]] = dots::<E, 1>(row, &x[t * row.len()..]);
    }
}

/// The products of one row with the first `T` tokens of `x`.
#[inline]
#[target_feature(enable = "neon")]
fn dots<E: Element, const T: usize>(row: &[E], x: &[f32]) -> [f32; T] {
    let cols = row.len();
    assert!(x.len() >= T * cols);
    let mut sums = [[vdupq_n_f32(0.0); REGISTERS]; T];
    let whole = cols / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for r in 0..REGISTERS {
            let at = start + r * WIDTH;
            // SAFETY: `at + 4 <= whole <= cols`.
            let wide = unsafe { E::load_four(row.as_ptr().add(at)) };
            for t in 0..T {
                // SAFETY: as above, in token `t` of the `T` asserted.
                let x = unsafe { vld1q_f32(x.as_ptr().add(t * cols + at)) };
                // Each product is rounded before the addition.
                sums[t][r] = vaddq_f32(sums[t][r], vmulq_f32(wide, x));
            }
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        out[t] = finish_sum(sums[t], &row[whole..], &x[t * cols + whole..]);
    }
    out
}

/// Adds the products past the last whole 32, each to its lane, and reduces.
#[inline]
#[target_feature(enable = "neon")]
fn finish_sum<E: Element>(mut sum: Sum, row: &[E], x: &[f32]) -> f32 {
    if !row.is_empty() {
        let mut lanes = [0.0f32; LANES];
        for r in 0..REGISTERS {
            // SAFETY: `r * 4 + 4` is at most 32, the lanes of the array.
            unsafe { vst1q_f32(lanes.as_mut_ptr().add(r * WIDTH), sum[r]) };
        }
        for (lane, (value, x)) in lanes.iter_mut().zip(row.iter().zip(x)) {
            *lane += value.widen() * x;
        }
        for r in 0..REGISTERS {
            // SAFETY: as above.
            sum[r] = unsafe { vld1q_f32(lanes.as_ptr().add(r * WIDTH)) };
        }
    }
    reduce(sum)
}

/// Adds the lanes up by halving, as `Lanes::reduce`.
#[inline]
#[target_feature(enable = "neon")]
fn reduce(mut sum: Sum) -> f32 {
    for half in [4, 2, 1] {
        for r in 0..half {
            sum[r] = vaddq_f32(sum[r], sum[r + half]);
        }
    }
    let two = vadd_f32(vget_low_f32(sum[0]), vget_high_f32(sum[0]));
    vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
}
