//! `i8mm-ternary-i8`: 9.5 vector operations for 128 weights and a token from eight tokens on; one token, and
//! the last of an odd number, by `dotprod-ternary-i8`.
//!
//! `usmmla` multiplies two rows of eight unsigned bytes by two rows of eight signed ones into four sums of
//! 32 bits. Eight packed bytes stand in both halves of a register, and one mask with a place for each half
//! leaves the codes of two quarters. `usmmla` takes them as unsigned, so that the last quarter needs no shift
//! either; `smmla` would. The instruction is written out because its intrinsic is not stable.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::aarch64::dotprod::ternary::products;
use crate::aarch64::neon::ternary::{WIDTH, padded_rest, subtract_sums};

/// Pairs of tokens that share one separation of the codes.
const PAIRS: usize = 4;
/// Columns whose sums provably fit while codes carry the factors `4^i` of their quarters.
///
/// A term is at most `(2 * 64) * 128 = 2^14`, so that 2^16 of them reach `2^30`.
const SPAN: usize = 1 << 16;

/// Sums of two quarters (the outer index in a register) and two tokens: quarters 0 and 1, then 2 and 3.
type PairSums = [int32x4_t; 2];

/// The contract of `scalar::ternary::row_quarters_i8`.
#[target_feature(enable = "neon,dotprod,i8mm")]
pub fn row_quarters_i8(codes: &[u8], x: &[i8], sums: &[i32], out: &mut [[i32; 4]]) {
    let tokens = sums.len();
    if tokens == 0 || x.is_empty() {
        out.fill([0; 4]);
        return;
    }
    let cols = x.len() / tokens;
    for start in (0..tokens).step_by(2 * PAIRS) {
        let x = &x[start * cols..];
        let end = tokens.min(start + 2 * PAIRS);
        for (line, out) in codes.chunks_exact(cols).zip(out.chunks_exact_mut(tokens)) {
            let (paired, single) = out[start..end].as_chunks_mut::<2>();
            match paired.len() {
                0 => {}
                1 => pairs::<1, 2>(line, x, paired),
                2 => pairs::<2, 4>(line, x, paired),
                3 => pairs::<3, 6>(line, x, paired),
                _ => pairs::<PAIRS, { 2 * PAIRS }>(line, x, paired),
            }
            if let [single] = single {
                [*single] = products::<1>(line, &x[2 * paired.len() * cols..]);
            }
        }
    }
    subtract_sums(sums, out);
}

/// Writes `sum(code * x)` of the four quarters for `P` pairs of tokens, `T = 2 P`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn pairs<const P: usize, const T: usize>(codes: &[u8], x: &[i8], out: &mut [[[i32; 4]; 2]]) {
    const { assert!(T == 2 * P) };
    let cols = codes.len();
    assert!(x.len() >= T * cols && out.len() == P);
    out.as_flattened_mut().fill([0; 4]);
    let whole = cols / WIDTH * WIDTH;
    for span in (0..whole).step_by(SPAN) {
        let mut sums = [[vdupq_n_s32(0); 2]; P];
        for at in (span..whole.min(span + SPAN)).step_by(WIDTH) {
            // SAFETY: `at + 16 <= whole <= cols`, and `x` holds `T` rows of `cols`, asserted.
            unsafe { add_step(&mut sums, codes.as_ptr().add(at), x.as_ptr().add(at), cols) };
        }
        add_sums(&sums, out);
    }
    if whole < cols {
        let mut sums = [[vdupq_n_s32(0); 2]; P];
        let (codes, x) = padded_rest::<T>(codes, x, whole);
        // SAFETY: 16 codes, and `T` rows of 16 activations.
        unsafe { add_step(&mut sums, codes.as_ptr(), x.as_flattened().as_ptr(), WIDTH) };
        add_sums(&sums, out);
    }
}

/// Adds one step of 16 columns.
///
/// # Safety
/// 16 bytes can be read at `codes`, at `x` and at each of the `2 P - 1` rows that follow at distance `cols`.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn add_step<const P: usize>(sums: &mut [PairSums; P], codes: *const u8, x: *const i8, cols: usize) {
    // SAFETY: by the contract; `vld1q` asks for no alignment.
    let packed = unsafe { vld1q_u8(codes) };
    let low = split(vcombine_u8(vget_low_u8(packed), vget_low_u8(packed)));
    let high = split(vcombine_u8(vget_high_u8(packed), vget_high_u8(packed)));
    for (pair, sums) in sums.iter_mut().enumerate() {
        // SAFETY: by the contract; `vld1q` asks for no alignment.
        let (a, b) = unsafe { (vld1q_s8(x.add(2 * pair * cols)), vld1q_s8(x.add((2 * pair + 1) * cols))) };
        let x_low = vcombine_s8(vget_low_s8(a), vget_low_s8(b));
        let x_high = vcombine_s8(vget_high_s8(a), vget_high_s8(b));
        for half in 0..2 {
            sums[half] = usmmla(sums[half], low[half], x_low);
            sums[half] = usmmla(sums[half], high[half], x_high);
        }
    }
}

/// Separates eight bytes, given twice, into quarters 0 and 1, and 2 and 3, each where it stands in the byte.
#[inline]
#[target_feature(enable = "neon")]
fn split(packed: uint8x16_t) -> [uint8x16_t; 2] {
    [
        vandq_u8(packed, vcombine_u8(vdup_n_u8(0x03), vdup_n_u8(0x0c))),
        vandq_u8(packed, vcombine_u8(vdup_n_u8(0x30), vdup_n_u8(0xc0))),
    ]
}

/// Adds the sums to `out`, without the factors of the quarters, of which they are multiples.
#[inline]
#[target_feature(enable = "neon")]
fn add_sums(sums: &[PairSums], out: &mut [[[i32; 4]; 2]]) {
    for (sums, out) in sums.iter().zip(out) {
        let [first, second] = out;
        first[0] += vgetq_lane_s32::<0>(sums[0]);
        second[0] += vgetq_lane_s32::<1>(sums[0]);
        first[1] += vgetq_lane_s32::<2>(sums[0]) >> 2;
        second[1] += vgetq_lane_s32::<3>(sums[0]) >> 2;
        first[2] += vgetq_lane_s32::<0>(sums[1]) >> 4;
        second[2] += vgetq_lane_s32::<1>(sums[1]) >> 4;
        first[3] += vgetq_lane_s32::<2>(sums[1]) >> 6;
        second[3] += vgetq_lane_s32::<3>(sums[1]) >> 6;
    }
}

/// Adds to `sum` (`[row of a, row of b]`) the products of the two rows of eight in each operand.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn usmmla(mut sum: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes its registers only; the features are this function's own.
    unsafe {
        asm!(
            "usmmla {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
