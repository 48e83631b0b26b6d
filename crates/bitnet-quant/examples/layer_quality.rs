//! Which layers of a network lose most when they are quantised, for the activations that really enter them.
//!
//! ```sh
//! cargo run --package bitnet-quant --example layer_quality
//! ```
//!
//! Tokens run through three layers; [`ActivationStatistics`] gathers what enters each of them, as an importance matrix
//! does, and [`LayerReport`] weighs the error of every weight by it. `bitnet inspect --quality` prints the same reports
//! of a checkpoint, for inputs that are all alike.

use bitnet_quant::packing::PackError;
use bitnet_quant::prelude::*;
use bitnet_quant::quality::by_sensitivity;

/// Names of the layers, with their output and input features.
const LAYERS: [(&str, usize, usize); 3] = [("up", 256, 64), ("mix", 256, 256), ("down", 64, 256)];
const TOKENS: usize = 48;

/// Numbers around zero, a few of them large, as the weights and activations of transformers are.
fn draw(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|i| (next() + next() + next()) * if i % 61 == 0 { 4.0 } else { 1.0 }).collect()
}

fn main() -> Result<(), QuantError> {
    let schemes = [Scheme::Ternary, Scheme::Int4(Symmetry::Symmetric), Scheme::Int8(Symmetry::Symmetric)];
    let mut reports: Vec<Vec<LayerReport>> = vec![Vec::new(); schemes.len()];
    let mut x = draw(TOKENS * LAYERS[0].2, 0x9e37_79b9);
    for (index, (name, rows, cols)) in LAYERS.into_iter().enumerate() {
        let mut seen = ActivationStatistics::new(cols);
        seen.observe(&x)?;
        let weights = draw(rows * cols, 0x85eb_ca6b + index as u64);
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let matrix = FloatMatrix::new(bitnet_core::backend::BitNetDType::F32, &bytes, rows, cols)?;
        for (scheme, reports) in schemes.into_iter().zip(&mut reports) {
            let options = QuantOptions::new(scheme, Granularity::PerChannel);
            reports.push(LayerReport::measure(name, &matrix, &options, Some(&seen))?);
        }
        x = BitLinear::from_master(weights, rows, cols)?.forward(&x)?;
        println!("{name}: {} tokens, {}", seen.tokens(), packed(&matrix)?);
    }
    for (scheme, reports) in schemes.into_iter().zip(reports) {
        println!("{}, the most sensitive layer first", scheme.name());
        for report in by_sensitivity(reports) {
            println!("  {report}");
        }
    }
    Ok(())
}

/// Says what the ternary weights of a layer take in the packing that suits them.
fn packed(matrix: &FloatMatrix<'_>) -> Result<String, QuantError> {
    let options = QuantOptions::new(Scheme::Ternary, Granularity::PerTensor);
    let quantized = bitnet_quant::scheme::quantize(matrix, &options)?;
    let Some(codes) = quantized.ternary() else { return Ok(String::new()) };
    let values = simd_unpack_weights(codes).map_err(|error| match error {
        UnpackError::Pack(error) => QuantError::from(error),
        UnpackError::Isa(error) => QuantError::from(error),
        _ => QuantError::from(PackError::Memory { values: codes.len() }),
    })?;
    let config = TernaryPackingConfig::default();
    let strategy = TernaryPackerFactory::auto_select_strategy(&values, &config);
    Ok(TernaryPackerFactory::create_packer(strategy).pack(&values, &config)?.report().to_string())
}
