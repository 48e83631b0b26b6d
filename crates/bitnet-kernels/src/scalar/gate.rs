//! The gate of the feed-forward block.

use super::exp::exp;

/// Writes `max(gate, 0)^2 * up`.
#[inline(always)]
pub fn squared_relu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        // A comparison that a NaN fails keeps the NaN, unlike `max`.
        let positive = if gate < 0.0 { 0.0 } else { gate };
        *out = (positive * positive) * up;
    }
}

/// Writes `gate / (1 + exp(-gate)) * up`.
#[inline(always)]
pub fn silu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = (gate / (1.0 + exp(-gate))) * up;
    }
}
