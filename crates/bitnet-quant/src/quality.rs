//! What quantisation does to each layer: weight errors, errors of outputs, sensitivity.
//!
//! [`ActivationStatistics`] gathers what enters a layer, feature by feature (what llama.cpp calls an importance matrix);
//! [`LayerReport`] sets the error of its quantised weights beside the error that this makes in its outputs on average,
//! so that layers can be ranked by what they lose.

use std::fmt;

use crate::scheme::{ErrorMetrics, ErrorSums, QuantOptions, QuantizedMatrix, Rows, quantize};
use crate::{FloatMatrix, QuantError};

/// Means over the activations that enter a layer, by input feature.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationStatistics {
    tokens: u64,
    squares: Vec<f64>,
    greatest: Vec<f32>,
}

impl ActivationStatistics {
    /// Begins with nothing seen, for `features` input features.
    pub fn new(features: usize) -> Self {
        ActivationStatistics { tokens: 0, squares: vec![0.0; features], greatest: vec![0.0; features] }
    }

    /// Takes tokens `[tokens, features]` in.
    ///
    /// # Errors
    /// Values that are not whole tokens, or not finite, by token and feature; nothing is taken then.
    pub fn observe(&mut self, x: &[f32]) -> Result<(), QuantError> {
        let width = self.squares.len().max(1);
        if !x.len().is_multiple_of(width) {
            let expected = x.len().next_multiple_of(width);
            return Err(QuantError::Values { what: "activations", expected, found: x.len() });
        }
        if let Some(at) = x.iter().position(|value| !value.is_finite()) {
            return Err(QuantError::NotFinite { row: at / width, col: at % width, value: x[at] });
        }
        for token in x.chunks_exact(width) {
            for ((square, greatest), &x) in self.squares.iter_mut().zip(&mut self.greatest).zip(token) {
                *square += f64::from(x) * f64::from(x);
                *greatest = greatest.max(x.abs());
            }
            self.tokens += 1;
        }
        Ok(())
    }

    /// Returns the number of tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the mean square of each feature.
    pub fn mean_squares(&self) -> Vec<f64> {
        self.squares.iter().map(|square| square / self.tokens.max(1) as f64).collect()
    }

    /// Returns the greatest magnitude of each feature.
    pub fn greatest(&self) -> &[f32] {
        &self.greatest
    }
}

/// What a scheme does to one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReport {
    /// Name of the layer.
    pub name: String,
    /// Bits a weight takes, parameters included.
    pub bits_per_weight: f64,
    /// Errors of the weights.
    pub weights: ErrorMetrics,
    /// Expected squared error of the outputs over their expected square, for independent input features with the mean
    /// squares observed, or equal ones where none were: 0 is no error, 1 an error as large as the output.
    pub sensitivity: f64,
}

impl fmt::Display for LayerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerReport { name, bits_per_weight, weights, sensitivity } = self;
        write!(f, "{name}: {bits_per_weight:.3} bits a weight, {weights}, output error {sensitivity:.4}")
    }
}

impl LayerReport {
    /// Quantises a layer and reports what is lost.
    ///
    /// # Errors
    /// As [`quantize`]; statistics of another width, or of no token.
    pub fn measure(
        name: &str,
        matrix: &FloatMatrix<'_>,
        options: &QuantOptions,
        activations: Option<&ActivationStatistics>,
    ) -> Result<Self, QuantError> {
        Self::of(name, matrix, &quantize(matrix, options)?, activations)
    }

    /// Reports what is lost between a layer and its quantised form.
    ///
    /// # Errors
    /// Another shape; statistics of another width, or of no token.
    pub fn of(
        name: &str,
        matrix: &FloatMatrix<'_>,
        quantized: &QuantizedMatrix,
        activations: Option<&ActivationStatistics>,
    ) -> Result<Self, QuantError> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (expected, found) = ([rows, cols], [quantized.rows(), quantized.cols()]);
        if expected != found {
            return Err(QuantError::OtherShape { expected, found });
        }
        if activations.is_some_and(|activations| activations.tokens() == 0) {
            return Err(QuantError::NoTokens);
        }
        let squares = activations.map_or_else(|| vec![1.0; cols], ActivationStatistics::mean_squares);
        if squares.len() != cols {
            return Err(QuantError::Values {
                what: "activation statistics",
                expected: cols,
                found: squares.len(),
            });
        }
        let (mut source, mut found) = (Rows::new(matrix), vec![0.0; cols]);
        let (mut sums, mut error, mut signal) = (ErrorSums::default(), 0.0, 0.0);
        for row in 0..rows {
            quantized.dequantize_row(row, &mut found)?;
            let reference = source.read(row);
            sums.add(reference, &found);
            for ((&a, &b), &square) in reference.iter().zip(&found).zip(&squares) {
                let (a, b) = (f64::from(a), f64::from(b));
                error += square * (a - b) * (a - b);
                signal += square * a * a;
            }
        }
        Ok(LayerReport {
            name: name.into(),
            bits_per_weight: quantized.bits_per_weight(),
            weights: sums.metrics(),
            sensitivity: if error == 0.0 { 0.0 } else { error / signal },
        })
    }
}

/// Sorts reports by what the layers lose, the most sensitive first.
pub fn by_sensitivity(mut reports: Vec<LayerReport>) -> Vec<LayerReport> {
    reports.sort_by(|a, b| b.sensitivity.total_cmp(&a.sensitivity));
    reports
}
