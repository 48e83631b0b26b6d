//! Rotary position embedding, split halves: dimensions `i` and `i + head_dim / 2` form a pair.

/// Writes the inverse frequencies `theta^(-2i / head_dim)`, `i` below `head_dim / 2`.
///
/// Evaluated as `transformers` does: the exponent and the power rounded to f32, then inverted.
pub fn inverse_frequencies(theta: f32, head_dim: usize, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let exponent = (2 * i) as f32 / head_dim as f32;
        let power = libm::pow(f64::from(theta), f64::from(exponent)) as f32;
        *out = 1.0 / power;
    }
}

/// Writes cosine and sine of `position * frequency` for one position.
///
/// The angle is rounded to f32 as in `transformers`; its cosine and sine come from f64 and are the same
/// on every platform.
pub fn angles(position: u32, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    for ((&frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let angle = f64::from(position as f32 * frequency);
        *cos = libm::cos(angle) as f32;
        *sin = libm::sin(angle) as f32;
    }
}

/// Rotates every head of a row in place. `cos` and `sin` hold `head_dim / 2` values.
#[inline(always)]
pub fn rotate(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in row.chunks_exact_mut(head_dim) {
        let (first, second) = head.split_at_mut(head_dim / 2);
        for ((a, b), (&cos, &sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}
