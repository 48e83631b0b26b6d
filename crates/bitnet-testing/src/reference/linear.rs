//! Projections: activation and weight quantisation, exact integer and f64 products.

use super::threads::{over_rows, transpose};
use super::{Fault, Norm};

/// Weight rows that are widened together, so that activations are streamed once per block.
const ROW_BLOCK: usize = 8;

/// Holds a projection's weight.
#[derive(Debug)]
pub(super) enum Weight {
    /// Ternary values and the number that turns `acc / s_x` into the output.
    Ternary { values: Vec<i8>, multiplier: f64 },
    /// Float values, multiplied by float activations.
    Dense(Vec<f32>),
}

/// Holds a projection.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) weight: Weight,
    /// The projection's own norm of its input.
    pub(super) norm: Option<Norm>,
}

impl Linear {
    /// Multiplies each row of `x` `[n, cols]`; the result is `[n, rows]`.
    pub(super) fn apply(&self, x: &[f64], fault: Fault) -> Vec<f64> {
        let normed = self.norm.as_ref().map(|norm| norm.apply(x));
        let x = normed.as_deref().unwrap_or(x);
        match &self.weight {
            Weight::Dense(values) => float_products(x, values, self.rows, self.cols),
            Weight::Ternary { values, multiplier } => {
                let off = if fault == Fault::WeightScaleOffByOnePercent { 1.01 } else { 1.0 };
                self.ternary(x, values, multiplier * off, fault)
            }
        }
    }

    fn ternary(&self, x: &[f64], values: &[i8], multiplier: f64, fault: Fault) -> Vec<f64> {
        if fault == Fault::NoActivationQuantisation {
            let mut y = float_products(x, values, self.rows, self.cols);
            y.iter_mut().for_each(|v| *v *= multiplier);
            return y;
        }
        let x: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let shared = (fault == Fault::PerTensorActivationScale).then(|| activation_scale(&x));
        let (mut quantised, mut scales) = (Vec::with_capacity(x.len()), Vec::new());
        for row in x.chunks_exact(self.cols) {
            let scale = shared.unwrap_or_else(|| activation_scale(row));
            quantised.extend(row.iter().map(|v| quantise(*v, scale, fault)));
            scales.push(f64::from(scale));
        }
        let acc = integer_products(&quantised, values, self.rows, self.cols);
        acc.iter().enumerate().map(|(i, a)| f64::from(*a) / scales[i / self.rows] * multiplier).collect()
    }
}

/// Returns `127 / max(max|x|, 1e-5)` the way a number is divided by a tensor: the reciprocal, rounded
/// to f32, times 127, rounded again. The last bit decides ties.
fn activation_scale(x: &[f32]) -> f32 {
    x.iter().fold(1e-5f32, |m, v| m.max(v.abs())).recip() * 127.0
}

fn quantise(value: f32, scale: f32, fault: Fault) -> i8 {
    let scaled = value * scale;
    let whole = match fault {
        Fault::TruncateActivations => scaled.trunc(),
        Fault::HalfAwayRounding => scaled.round(),
        _ => scaled.round_ties_even(),
    };
    whole.clamp(-128.0, 127.0) as i8
}

/// Quantises one token's activations; returns the int8 values and the scale `s_x`.
///
/// `s_x = 127 · (1 / max(max|x|, 1e-5))`, `x_q = clamp(round_half_even(x · s_x), -128, 127)`, every
/// operation rounded to f32 (the reciprocal too, as the checkpoints' own framework divides).
pub fn quantise_activations(x: &[f32]) -> (Vec<i8>, f32) {
    let scale = activation_scale(x);
    (x.iter().map(|v| quantise(*v, scale, Fault::None)).collect(), scale)
}

/// Quantises a weight matrix by absmean; returns the ternary values and `s = 1 / max(mean|W|, 1e-5)`.
///
/// `W_q = clamp(round_half_even(W · s), -1, 1)` in f32; the mean is summed in f64 and rounded to f32.
/// The dequantised weight is `W_q / s`.
pub fn absmean_ternary(weight: &[f32]) -> (Vec<i8>, f32) {
    let sum: f64 = weight.iter().map(|w| f64::from(w.abs())).sum();
    let mean = (sum / weight.len() as f64) as f32;
    let s = 1.0 / mean.max(1e-5);
    (weight.iter().map(|w| (w * s).round_ties_even().clamp(-1.0, 1.0) as i8).collect(), s)
}

/// Multiplies `x` `[n, cols]` by the transpose of `weight` `[rows, cols]` exactly; the result is `[n, rows]`.
pub fn integer_products(x: &[i8], weight: &[i8], rows: usize, cols: usize) -> Vec<i32> {
    assert!(cols < 1 << 16, "sums of {cols} products of int8 fit an i32");
    let wide: Vec<i16> = x.iter().map(|v| i16::from(*v)).collect();
    products(&wide, weight, rows, cols, i16::from, integer_dot)
}

/// Multiplies `x` `[n, cols]` by the transpose of `weight` `[rows, cols]` in f64; the result is `[n, rows]`.
pub(super) fn float_products<W>(x: &[f64], weight: &[W], rows: usize, cols: usize) -> Vec<f64>
where
    W: Copy + Sync,
    f64: From<W>,
{
    products(x, weight, rows, cols, f64::from, float_dot)
}

/// Multiplies matrices by dot products, after widening blocks of weight rows.
fn products<W, X, Y>(
    x: &[X],
    weight: &[W],
    rows: usize,
    cols: usize,
    widen: impl Fn(W) -> X + Sync,
    dot: impl Fn(&[X], &[X]) -> Y + Sync,
) -> Vec<Y>
where
    W: Copy + Sync,
    X: Copy + Sync,
    Y: Copy + Default + Send,
{
    assert_eq!(weight.len(), rows * cols, "values of a {rows} x {cols} weight");
    assert!(x.len().is_multiple_of(cols), "rows of {cols} activations");
    let tokens = x.len() / cols;
    if tokens == 0 {
        return Vec::new();
    }
    // Computed as [rows, tokens], so that threads own whole weight rows.
    let mut by_row = vec![Y::default(); rows * tokens];
    over_rows(&mut by_row, tokens, |first, out| {
        let mut block = Vec::with_capacity(ROW_BLOCK * cols);
        for (b, out) in out.chunks_mut(ROW_BLOCK * tokens).enumerate() {
            let start = (first + b * ROW_BLOCK) * cols;
            block.clear();
            block.extend(weight[start..start + out.len() / tokens * cols].iter().map(|w| widen(*w)));
            for (t, x) in x.chunks_exact(cols).enumerate() {
                for (r, w) in block.chunks_exact(cols).enumerate() {
                    out[r * tokens + t] = dot(x, w);
                }
            }
        }
    });
    transpose(&by_row, rows, tokens)
}

/// Sums exactly. Wrapping operations, because checked sums do not vectorise; none can wrap: 2^16
/// products of magnitude 2^7 (int8 times ternary) or 2^14 (int8 times int8) stay below 2^31.
fn integer_dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (a, b)| sum.wrapping_add(i32::from(*a).wrapping_mul(i32::from(*b))))
}

/// Sums in eight lanes, for speed; f64 makes the order immaterial at f32 precision.
pub(super) fn float_dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + tail
}
