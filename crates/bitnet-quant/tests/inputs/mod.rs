//! Values that the tests of layers take.

/// Values from -1.25 to 1.37 of a prime period, in no order that repeats along a row.
pub fn wave(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i + seed) * 7919 % 251) as f32 * 0.01 - 1.25 + (i % 5) as f32 * 0.03).collect()
}

/// Gains of a norm, around 1.
pub fn gains(n: usize) -> Vec<f32> {
    wave(n, 30).iter().map(|w| 1.0 + 0.3 * w).collect()
}
