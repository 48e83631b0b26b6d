//! Norm, activations, rotary embedding and attention in f64.

use super::linear::float_dot;
use super::threads::{over_rows, transpose};

/// Returns `x / sqrt(mean(x²) + eps) · weight`.
pub fn rms_norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean_square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean_square + eps).sqrt();
    x.iter().zip(weight).map(|(v, w)| v * factor * f64::from(*w)).collect()
}

/// Returns the square of the positive part.
pub fn relu2(x: f64) -> f64 {
    x.max(0.0).powi(2)
}

/// Returns `x / (1 + e^-x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Rotates one head's vector to `position`: elements i and i + d/2 form a pair of frequency
/// `theta^(-2i/d)`.
///
/// Exponent, power, reciprocal, angle, cosine and sine are each rounded to f32, as the model's
/// definition has them: at high positions the rounding of the angle is part of the function.
pub fn rope(head: &mut [f64], position: usize, theta: f64) {
    let half = head.len() / 2;
    for i in 0..half {
        let exponent = (2 * i) as f32 / head.len() as f32;
        let frequency = 1.0 / theta.powf(f64::from(exponent)) as f32;
        let angle = f64::from(position as f32 * frequency);
        let (cos, sin) = (f64::from(angle.cos() as f32), f64::from(angle.sin() as f32));
        let (a, b) = (head[i], head[i + half]);
        head[i] = a * cos - b * sin;
        head[i + half] = b * cos + a * sin;
    }
}

/// Gives attention's dimensions.
pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Latest positions a query sees, itself included.
    pub(super) window: usize,
}

/// Mixes values by causal softmax attention; query head j uses key and value head j / (heads/kv_heads).
///
/// Shapes: `q` `[n, heads, head_dim]`, `k` and `v` `[n, kv_heads, head_dim]`, result as `q`.
pub(super) fn attention(q: &[f64], k: &[f64], v: &[f64], shape: &Attention) -> Vec<f64> {
    let d = shape.head_dim;
    let tokens = q.len() / (shape.heads * d);
    if tokens == 0 {
        return Vec::new();
    }
    // Computed as [heads, n, head_dim], so that threads own whole heads.
    let mut by_head = vec![0.0; q.len()];
    over_rows(&mut by_head, tokens * d, |first, out| {
        for (h, out) in out.chunks_exact_mut(tokens * d).enumerate() {
            let head = first + h;
            let kv_head = head / (shape.heads / shape.kv_heads);
            let gather = |rows: &[f64], heads: usize, head: usize| -> Vec<f64> {
                rows.chunks_exact(heads * d).flat_map(|row| &row[head * d..(head + 1) * d]).copied().collect()
            };
            let q = gather(q, shape.heads, head);
            let k = gather(k, shape.kv_heads, kv_head);
            let v = gather(v, shape.kv_heads, kv_head);
            for t in 0..tokens {
                let seen = (t + 1).saturating_sub(shape.window) * d..(t + 1) * d;
                one_query(&q[t * d..(t + 1) * d], &k[seen.clone()], &v[seen], &mut out[t * d..(t + 1) * d]);
            }
        }
    });
    let rows: Vec<&[f64]> = by_head.chunks_exact(d).collect();
    transpose(&rows, shape.heads, tokens).concat()
}

/// Mixes the rows of `v` into `out` (zero on entry).
fn one_query(q: &[f64], k: &[f64], v: &[f64], out: &mut [f64]) {
    let d = q.len();
    let scores: Vec<f64> = k.chunks_exact(d).map(|k| float_dot(q, k) / (d as f64).sqrt()).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (weight, v) in weights.iter().zip(v.chunks_exact(d)) {
        let share = weight / total;
        out.iter_mut().zip(v).for_each(|(o, v)| *o += share * v);
    }
}
