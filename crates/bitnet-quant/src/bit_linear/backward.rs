//! Gradients of [`BitLinear`] by straight-through estimators.
//!
//! Rounding has no useful derivative. As in training of BitNet, both quantisers pass the gradient through unchanged
//! (`x + (quantised(x) - x).detach()`): with `X` the quantised activations and `W` the ternary weights times their scale,
//! `dX = G W`, `dW = G^T X`, `db = sum of G`; the input's norm is differentiated as it is. Sums over output features and
//! tokens are taken in f64.

use bitnet_kernels::layout::row_quarters;

use super::{BitLinear, RmsNorm, check};
use crate::QuantError;

/// Gradients of one backward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// Of the input, `[tokens, in_features]`.
    pub input: Vec<f32>,
    /// Of the latent weights, `[out_features, in_features]`.
    pub weights: Vec<f32>,
    /// Of the bias, where there is one.
    pub bias: Option<Vec<f32>>,
    /// Of the gains of the norm, where there is one.
    pub norm: Option<Vec<f32>>,
}

impl BitLinear {
    /// Returns the gradients for an input `[tokens, in_features]` and the gradient of its output
    /// `[tokens, out_features]`.
    ///
    /// # Errors
    /// Values that are not whole tokens, or not as many tokens; master weights that are not finite.
    pub fn backward(&self, x: &[f32], output: &[f32]) -> Result<Gradients, QuantError> {
        let (rows, cols) = (self.out_features, self.in_features);
        let (input, norm) = self.backward_input(x, output)?;
        let tokens = x.len() / cols;
        let quantized = self.quantize_input(x);
        let mut latent = vec![0.0; rows * cols];
        let mut sums = vec![0.0f64; cols];
        for (row, latent) in latent.chunks_exact_mut(cols).enumerate() {
            sums.fill(0.0);
            for (t, codes) in quantized.codes.chunks_exact(cols).enumerate() {
                let gradient = f64::from(output[t * rows + row]) / f64::from(quantized.scales[t]);
                for (sum, &code) in sums.iter_mut().zip(codes) {
                    *sum += gradient * f64::from(code);
                }
            }
            latent.iter_mut().zip(&sums).for_each(|(latent, &sum)| *latent = sum as f32);
        }
        let bias = self.bias.as_ref().map(|_| {
            let sum = |row: usize| (0..tokens).map(|t| f64::from(output[t * rows + row])).sum::<f64>() as f32;
            (0..rows).map(sum).collect()
        });
        Ok(Gradients { input, weights: latent, bias, norm })
    }

    /// Returns the gradients of the input and of the gains of the norm alone, as [`backward`](Self::backward).
    pub(crate) fn backward_input(
        &self,
        x: &[f32],
        output: &[f32],
    ) -> Result<(Vec<f32>, Option<Vec<f32>>), QuantError> {
        let (rows, cols) = (self.out_features, self.in_features);
        let tokens = self.tokens("input", x.len(), cols)?;
        check("gradient of the output", tokens * rows, output.len())?;
        let codes = self.codes()?;
        let magnitude = f64::from(codes.magnitude());
        let mut weights = vec![0i8; rows * cols];
        row_quarters::unpack(&codes.packed, rows, cols, &mut weights);

        let mut input = vec![0.0; x.len()];
        let mut normed_gradient = vec![0.0f64; cols];
        let mut norm = self.norm.as_ref().map(|_| vec![0.0f64; cols]);
        for t in 0..tokens {
            normed_gradient.fill(0.0);
            for (row, &gradient) in weights.chunks_exact(cols).zip(&output[t * rows..]) {
                let gradient = f64::from(gradient) * magnitude;
                for (sum, &weight) in normed_gradient.iter_mut().zip(row) {
                    *sum += gradient * f64::from(weight);
                }
            }
            let (x, out) = (&x[t * cols..][..cols], &mut input[t * cols..][..cols]);
            match (&self.norm, &mut norm) {
                (Some(of), Some(gains)) => norm_backward(of, x, &normed_gradient, out, gains),
                _ => out.iter_mut().zip(&normed_gradient).for_each(|(out, &g)| *out = g as f32),
            }
        }
        let narrow = |gains: Vec<f64>| gains.into_iter().map(|gain| gain as f32).collect();
        Ok((input, norm.map(narrow)))
    }
}

/// Takes the gradient `g` of `y_i = x_i r w_i`, `r = (mean(x^2) + eps)^-1/2`, back to `x`, and adds that of the gains:
/// `dx_i = r g_i w_i - x_i r^3 / n sum(g_j w_j x_j)`.
pub(crate) fn norm_backward(norm: &RmsNorm, x: &[f32], g: &[f64], out: &mut [f32], gains: &mut [f64]) {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / n;
    let inverse = 1.0 / (mean + f64::from(norm.eps)).sqrt();
    let parts = || g.iter().zip(&norm.weight).zip(x);
    let along: f64 = parts().map(|((&g, &w), &x)| g * f64::from(w) * f64::from(x)).sum();
    let shared = inverse.powi(3) / n * along;
    for (((&g, &w), &x), (out, gain)) in parts().zip(out.iter_mut().zip(gains)) {
        *out = (inverse * g * f64::from(w) - f64::from(x) * shared) as f32;
        *gain += g * f64::from(x) * inverse;
    }
}
