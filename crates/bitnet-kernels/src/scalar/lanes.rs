//! Sums over 32 virtual lanes.
//!
//! Term `i` is added to lane `i % 32`, in ascending order of `i`; then lanes `l` and `l + 16` are added,
//! then `l` and `l + 8`, and so on down to one. Registers of 4, 8 or 16 floats all divide 32, so every
//! tier can do exactly these additions.

/// Virtual lanes of every floating-point sum.
pub const LANES: usize = 32;

/// Adds the lanes up by halving.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Adds `a[i] * b[i]` to the lanes. `a` starts at a multiple of 32 of the whole sum.
#[inline(always)]
pub fn multiply_add(lanes: &mut [f32; LANES], a: &[f32], b: &[f32]) {
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
}

/// Returns the inner product of two vectors of one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    multiply_add(&mut lanes, a, b);
    reduce(lanes)
}
