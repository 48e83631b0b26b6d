//! `BitLinear`: a linear layer on packed ternary weights and int8 activations (W1.58A8), with gradients.
//!
//! Forward, a token at a time: the optional input norm, per-token int8 quantisation, the exact integer product of
//! the packed codes, `acc / s_x * m` (or `acc / (s_x * s)`) and the bias: the arithmetic of the inference engine, by the
//! same kernels, so the outputs are its bits. Backward is in [`backward`](BitLinear::backward).
//!
//! A layer made of master weights keeps its packed codes beside them, keyed by the version of the weights: every way
//! to change a weight raises the version, and codes of another version are made anew before they are used.

pub(crate) mod backward;

use std::sync::{Arc, Mutex, PoisonError};

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_kernels::Kernels;
use bitnet_kernels::layout::row_quarters;

use crate::matrix::little_endian;
use crate::packing::TernaryPackedWeights;
use crate::{FloatMatrix, QuantError, absmean, ternary};

pub use backward::Gradients;

/// A norm of the input: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone, PartialEq)]
pub struct RmsNorm {
    /// Gains, one for each input feature.
    pub weight: Vec<f32>,
    /// What is added to the mean square.
    pub eps: f32,
}

/// A linear layer whose weights are ternary when it runs.
#[derive(Debug)]
pub struct BitLinear {
    out_features: usize,
    in_features: usize,
    weights: Weights,
    bias: Option<Vec<f32>>,
    norm: Option<RmsNorm>,
    kernels: &'static Kernels,
}

#[derive(Debug)]
enum Weights {
    /// Codes alone.
    Codes(Arc<Codes>),
    /// Weights in f32, the version of their content, and the codes of one version.
    Master { values: Vec<f32>, version: u64, cache: Mutex<Option<(u64, Arc<Codes>)>> },
}

/// Codes in row quarters.
#[derive(Debug, PartialEq)]
pub(crate) struct Codes {
    pub(crate) packed: Vec<u8>,
    pub(crate) scale: WeightScale,
}

impl Codes {
    /// Quantises master weights by their mean magnitude.
    pub(crate) fn of_master(values: &[f32], rows: usize, cols: usize) -> Result<Codes, QuantError> {
        let bytes = little_endian(values);
        let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, rows, cols)?;
        let quantized = absmean::quantize(&matrix)?;
        Ok(Codes { packed: quantized.packed, scale: quantized.scale })
    }

    /// What a code is worth.
    pub(crate) fn magnitude(&self) -> f32 {
        match self.scale {
            WeightScale::Multiply(scale) => scale,
            WeightScale::Divide(scale) => 1.0 / scale,
        }
    }
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), QuantError> {
    match expected == found {
        true => Ok(()),
        false => Err(QuantError::Values { what, expected, found }),
    }
}

impl BitLinear {
    /// Makes a layer of row-major master weights `[out_features, in_features]`.
    ///
    /// # Errors
    /// An empty shape, too many columns, or weights that are not as many as the shape says; a forced instruction set that is missing. Weights that are
    /// not finite are found by the first forward pass.
    pub fn from_master(
        weights: Vec<f32>,
        out_features: usize,
        in_features: usize,
    ) -> Result<Self, QuantError> {
        let weights = Weights::Master { values: weights, version: 0, cache: Mutex::new(None) };
        Self::new(weights, out_features, in_features)
    }

    /// Makes a layer of codes in row quarters, as checkpoints have them.
    ///
    /// # Errors
    /// As [`from_master`](Self::from_master); a code 3 in a row that is there, by element; a scale that is not above 0, or
    /// that is not finite as its reciprocal is.
    pub fn from_row_quarters(
        packed: Vec<u8>,
        scale: WeightScale,
        out_features: usize,
        in_features: usize,
    ) -> Result<Self, QuantError> {
        let (WeightScale::Multiply(found) | WeightScale::Divide(found)) = scale;
        if !(found > 0.0 && found.is_finite() && (1.0 / found).is_finite()) {
            return Err(QuantError::WeightScale { found });
        }
        let codes = Arc::new(Codes { packed, scale });
        let layer = Self::new(Weights::Codes(Arc::clone(&codes)), out_features, in_features)?;
        match row_quarters::find_odd_code(&codes.packed, out_features, in_features) {
            Some([row, col]) => Err(QuantError::NotTernary { row, col, magnitude: 1.0, value: 2.0 }),
            None => Ok(layer),
        }
    }

    /// Makes a layer of packed weights, row after row.
    ///
    /// # Errors
    /// As [`from_row_quarters`](Self::from_row_quarters).
    pub fn from_packed(
        packed: &TernaryPackedWeights,
        scale: WeightScale,
        out_features: usize,
        in_features: usize,
    ) -> Result<Self, QuantError> {
        let mut values = vec![0i8; packed.len()];
        packed.unpack_into(Kernels::select()?, &mut values)?;
        let bytes: Vec<u8> = values.into_iter().map(|value| value as u8).collect();
        let packed = ternary::pack_bytes(&bytes, out_features, in_features)?;
        Self::from_row_quarters(packed, scale, out_features, in_features)
    }

    fn new(weights: Weights, out_features: usize, in_features: usize) -> Result<Self, QuantError> {
        let shape = QuantError::Shape { rows: out_features, cols: in_features };
        let (what, expected, found) = match &weights {
            Weights::Codes(codes) => {
                ("packed codes", row_quarters::packed_len(out_features, in_features), codes.packed.len())
            }
            Weights::Master { values, .. } => {
                ("weights", out_features.checked_mul(in_features), values.len())
            }
        };
        let expected = expected.filter(|&expected| expected > 0).ok_or(shape)?;
        check(what, expected, found)?;
        if in_features > row_quarters::MAX_COLS {
            return Err(QuantError::Columns { most: row_quarters::MAX_COLS, found: in_features });
        }
        let kernels = Kernels::select()?;
        Ok(BitLinear { out_features, in_features, weights, bias: None, norm: None, kernels })
    }

    /// Adds a bias to the output.
    ///
    /// # Errors
    /// A bias of another length.
    pub fn with_bias(self, bias: Vec<f32>) -> Result<Self, QuantError> {
        check("bias", self.out_features, bias.len())?;
        Ok(BitLinear { bias: Some(bias), ..self })
    }

    /// Normalises the input first.
    ///
    /// # Errors
    /// Gains of another length.
    pub fn with_norm(self, norm: RmsNorm) -> Result<Self, QuantError> {
        check("norm", self.in_features, norm.weight.len())?;
        Ok(BitLinear { norm: Some(norm), ..self })
    }

    /// Takes the kernels of a certain tier.
    pub fn with_kernels(self, kernels: &'static Kernels) -> Self {
        BitLinear { kernels, ..self }
    }

    /// Returns the number of output features.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Returns the number of input features.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Returns the master weights, if the layer has them.
    pub fn master(&self) -> Option<&[f32]> {
        match &self.weights {
            Weights::Master { values, .. } => Some(values),
            Weights::Codes(_) => None,
        }
    }

    /// Changes the master weights; the next pass packs them anew.
    ///
    /// # Errors
    /// A layer made of codes.
    pub fn master_mut(&mut self) -> Result<&mut [f32], QuantError> {
        match &mut self.weights {
            Weights::Master { values, version, .. } => {
                *version += 1;
                Ok(values)
            }
            Weights::Codes(_) => Err(QuantError::NoMaster),
        }
    }

    /// Returns the version of the weights: another one means that they may have changed.
    pub fn version(&self) -> u64 {
        match &self.weights {
            Weights::Master { version, .. } => *version,
            Weights::Codes(_) => 0,
        }
    }

    /// Returns the codes of the weights as they are now.
    pub(crate) fn codes(&self) -> Result<Arc<Codes>, QuantError> {
        let (values, version, cache) = match &self.weights {
            Weights::Codes(codes) => return Ok(Arc::clone(codes)),
            Weights::Master { values, version, cache } => (values, *version, cache),
        };
        // A panic elsewhere cannot leave half of a pair behind.
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, codes)) = cache.as_ref().filter(|(of, _)| *of == version) {
            return Ok(Arc::clone(codes));
        }
        let codes = Arc::new(Codes::of_master(values, self.out_features, self.in_features)?);
        *cache = Some((version, Arc::clone(&codes)));
        Ok(codes)
    }

    /// Runs the layer over a batch of tokens `[tokens, in_features]` and returns `[tokens, out_features]`.
    ///
    /// A token that holds a NaN or an infinity gives NaN in its own row.
    ///
    /// # Errors
    /// Values that are not whole tokens; master weights that are not finite.
    pub fn forward(&self, x: &[f32]) -> Result<Vec<f32>, QuantError> {
        let tokens = self.tokens("input", x.len(), self.in_features)?;
        let codes = self.codes()?;
        let input = self.quantize_input(x);
        let lines = row_quarters::quads(self.out_features);
        let mut acc = vec![[0; 4]; lines * tokens];
        (self.kernels.row_quarters.i8)(&codes.packed, &input.codes, &input.sums, &mut acc);
        let mut out = vec![0.0; tokens * self.out_features];
        for (t, out) in out.chunks_exact_mut(self.out_features).enumerate() {
            for (row, out) in out.iter_mut().enumerate() {
                let acc = acc[row % lines * tokens + t][row / lines] as f32;
                *out = match codes.scale {
                    WeightScale::Multiply(scale) => acc / input.scales[t] * scale,
                    WeightScale::Divide(scale) => acc / (input.scales[t] * scale),
                };
                if let Some(bias) = &self.bias {
                    *out += bias[row];
                }
            }
        }
        Ok(out)
    }

    /// Returns what the weights stand for when the layer runs, row after row.
    ///
    /// # Errors
    /// Master weights that are not finite.
    pub fn dequantized(&self) -> Result<Vec<f32>, QuantError> {
        let codes = self.codes()?;
        let mut values = vec![0i8; self.out_features * self.in_features];
        row_quarters::unpack(&codes.packed, self.out_features, self.in_features, &mut values);
        let magnitude = codes.magnitude();
        Ok(values.into_iter().map(|value| f32::from(value) * magnitude).collect())
    }

    fn tokens(&self, what: &'static str, values: usize, width: usize) -> Result<usize, QuantError> {
        match values.is_multiple_of(width) {
            true => Ok(values / width),
            false => {
                Err(QuantError::Values { what, expected: values.next_multiple_of(width), found: values })
            }
        }
    }

    /// Normalises and quantises tokens.
    pub(crate) fn quantize_input(&self, x: &[f32]) -> QuantizedInput {
        let width = self.in_features;
        let mut input = QuantizedInput { codes: vec![0; x.len()], scales: Vec::new(), sums: Vec::new() };
        let mut normed = vec![0.0; if self.norm.is_some() { width } else { 0 }];
        for (x, codes) in x.chunks_exact(width).zip(input.codes.chunks_exact_mut(width)) {
            let x = match &self.norm {
                Some(norm) => {
                    (self.kernels.rms_norm)(x, &norm.weight, norm.eps, &mut normed);
                    &normed[..]
                }
                None => x,
            };
            let row = (self.kernels.quantize)(x, codes);
            input.scales.push(row.scale);
            input.sums.push(row.sum);
        }
        input
    }
}

/// Int8 tokens.
pub(crate) struct QuantizedInput {
    pub(crate) codes: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_made_once_for_a_version_of_the_weights() {
        let mut layer = BitLinear::from_master(vec![0.5, -0.25, 0.0, 1.0], 2, 2).unwrap();
        let first = layer.codes().unwrap();
        layer.forward(&[1.0, 2.0]).unwrap();
        assert!(Arc::ptr_eq(&first, &layer.codes().unwrap()));
        // Asked for is as good as changed, since nobody says whether a write followed.
        layer.master_mut().unwrap();
        let second = layer.codes().unwrap();
        assert!(!Arc::ptr_eq(&first, &second) && first == second);
        assert!(Arc::ptr_eq(&second, &layer.codes().unwrap()));
    }
}
