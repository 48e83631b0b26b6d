//! Packing strategies: round trips, sizes, selection, hostile bytes.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod hostile;
mod round_trip;
mod sizes;
mod unpacker;

use bitnet_quant::prelude::*;

/// Ternary weights with a share of zeros, signs even, from a seed.
fn sparse(len: usize, zeros: f64, seed: u64) -> Vec<i8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let limit = (zeros * (1u64 << 32) as f64) as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 31
    };
    (0..len)
        .map(|_| {
            let bits = next();
            if bits >> 1 < limit { 0 } else { 1 - 2 * (bits & 1) as i8 }
        })
        .collect()
}

fn pack(strategy: TernaryPackingStrategy, weights: &[i8]) -> TernaryPackedWeights {
    TernaryPackerFactory::create_packer(strategy).pack(weights, &TernaryPackingConfig::default()).unwrap()
}
