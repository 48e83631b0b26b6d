//! Matrices that the tests of schemes take.

use bitnet_core::backend::BitNetDType;
use bitnet_quant::FloatMatrix;

/// Normal-looking weights of a prime period, with an outlier in some rows.
pub fn weights(rows: usize, cols: usize) -> Vec<f32> {
    let value = |i: usize| {
        let wave = ((i * 7919 % 251) as f32 - 125.0) / 125.0;
        wave * wave * wave * 0.08 + if i.is_multiple_of(1013) { 0.7 } else { 0.0 }
    };
    (0..rows * cols).map(value).collect()
}

/// Little-endian f32 values.
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Runs with f32 values as a matrix of `cols` columns.
pub fn with_matrix<T>(values: &[f32], cols: usize, run: impl FnOnce(&FloatMatrix<'_>) -> T) -> T {
    let bytes = bytes(values);
    run(&FloatMatrix::new(BitNetDType::F32, &bytes, values.len() / cols, cols).unwrap())
}
