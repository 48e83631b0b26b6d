//! [`BitLinear`] as a module of candle: where a model has a `Linear`, it can have this.
//!
//! A layer of *latent weights* quantises them in every forward pass, as training needs it: candle changes the tensor of a
//! `Var` in place and keeps no version of its content, so that codes kept from pass to pass could be stale. Two reads
//! of the weights are what that costs. [`BitLinear::freeze`] keeps the codes of the weights as they are, for inference.
//! Outputs are those of [`bit_linear::BitLinear`](crate::bit_linear::BitLinear), bit by bit; gradients go through candle's
//! autograd by straight-through estimators, `dX = G W` and `dW = G^T X` of the quantised values, which candle multiplies.
//!
//! Products run on the CPU. A tensor of another device is refused by candle, with the name of the operation.
//!
//! ```
//! use bitnet_quant::candle::BitLinear;
//! use candle_core::{Device, Module, Tensor, Var};
//!
//! # fn main() -> candle_core::Result<()> {
//! // Was: candle_nn::Linear::new(weight, Some(bias))
//! let weight = Var::randn(0f32, 1.0, (8, 16), &Device::Cpu)?;
//! let bias = Var::zeros(8, candle_core::DType::F32, &Device::Cpu)?;
//! let layer = BitLinear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()))?;
//!
//! let x = Tensor::randn(0f32, 1.0, (2, 3, 16), &Device::Cpu)?;
//! let loss = layer.forward(&x)?.sqr()?.mean_all()?;
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.get(&weight).unwrap().dims(), [8, 16]);
//!
//! // Trained: the codes alone, a sixteenth of the weights.
//! let packed = layer.freeze()?;
//! assert_eq!(packed.forward(&x)?.dims(), [2, 3, 8]);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use bitnet_kernels::Kernels;
use bitnet_kernels::layout::row_quarters;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Error, Layout, Module, Result, Shape, Tensor, bail,
};

use crate::bit_linear::backward::norm_backward;
use crate::bit_linear::{BitLinear as Layer, Codes, RmsNorm};

/// A linear layer whose weights are ternary and whose input is int8 when it runs.
#[derive(Debug, Clone)]
pub struct BitLinear {
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Latent { weight: Tensor, bias: Option<Tensor>, norm: Option<(Tensor, f32)> },
    Packed(Arc<Layer>),
}

impl BitLinear {
    /// Makes a layer of latent weights `[out_features, in_features]` and a bias `[out_features]`, as `Linear::new` of
    /// candle does.
    ///
    /// # Errors
    /// Weights that are no matrix; a bias of another length.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = weight.dims2()?;
        if in_features == 0 || in_features > row_quarters::MAX_COLS || out_features == 0 {
            let most = row_quarters::MAX_COLS;
            bail!(
                "bit-linear: expected 1 to {most} input features and at least 1 output feature, found {in_features} and \
                 {out_features}"
            );
        }
        if let Some(bias) = bias.as_ref().filter(|bias| bias.dims() != [out_features]) {
            bail!("bit-linear: expected a bias of {out_features} values, found shape {:?}", bias.dims());
        }
        Ok(BitLinear { form: Form::Latent { weight, bias, norm: None } })
    }

    /// Normalises the input first: `x / sqrt(mean(x^2) + eps) * gains`.
    ///
    /// # Errors
    /// Gains of another length; a layer of packed codes, which has its own norm.
    pub fn with_norm(self, gains: Tensor, eps: f32) -> Result<Self> {
        let Form::Latent { weight, bias, .. } = self.form else {
            bail!("bit-linear: a layer of packed codes takes the norm that it was made with");
        };
        let in_features = weight.dim(1)?;
        if gains.dims() != [in_features] {
            bail!("bit-linear: expected gains of {in_features} values, found shape {:?}", gains.dims());
        }
        Ok(BitLinear { form: Form::Latent { weight, bias, norm: Some((gains, eps)) } })
    }

    /// Makes a layer of packed codes, with the bias and the norm that it has. Gradients reach its input only.
    pub fn from_layer(layer: Layer) -> Self {
        BitLinear { form: Form::Packed(Arc::new(layer)) }
    }

    /// Returns the layer with the codes of its weights as they are now.
    ///
    /// # Errors
    /// Weights that are not finite, or not on the CPU.
    pub fn freeze(&self) -> Result<Self> {
        let Form::Latent { weight, bias, norm } = &self.form else { return Ok(self.clone()) };
        let mut layer = layer_of(&flat(weight)?, weight.dims2()?)?;
        if let Some(bias) = bias {
            layer = layer.with_bias(flat(bias)?).map_err(Error::wrap)?;
        }
        if let Some((gains, eps)) = norm {
            let norm = RmsNorm { weight: flat(gains)?, eps: *eps };
            layer = layer.with_norm(norm).map_err(Error::wrap)?;
        }
        Ok(BitLinear::from_layer(layer))
    }

    /// Returns the latent weights; `None` for a layer of packed codes.
    pub fn weight(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Latent { weight, .. } => Some(weight),
            Form::Packed(_) => None,
        }
    }

    /// Returns the bias tensor; `None` without one and for a layer of packed codes.
    pub fn bias(&self) -> Option<&Tensor> {
        match &self.form {
            Form::Latent { bias, .. } => bias.as_ref(),
            Form::Packed(_) => None,
        }
    }
}

impl Module for BitLinear {
    /// Runs the layer over `[.., in_features]`, in F32 inside, and returns `[.., out_features]` of the input's type.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?.contiguous()?;
        let out = match &self.form {
            Form::Packed(layer) => wide.apply_op1(Packed(Arc::clone(layer)))?,
            Form::Latent { weight, bias, norm } => {
                let input = match norm {
                    Some((gains, eps)) => {
                        wide.apply_op2(&gains.to_dtype(DType::F32)?.contiguous()?, Norm { eps: *eps })?
                    }
                    None => wide,
                };
                let out = input.apply_op2(&weight.to_dtype(DType::F32)?.contiguous()?, Latent)?;
                match bias {
                    Some(bias) => out.broadcast_add(&bias.to_dtype(DType::F32)?)?,
                    None => out,
                }
            }
        };
        out.to_dtype(x.dtype())
    }
}

/// Returns the values of a tensor in F32.
fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// Makes a layer of the codes of weights.
fn layer_of(weights: &[f32], (rows, cols): (usize, usize)) -> Result<Layer> {
    let codes = Codes::of_master(weights, rows, cols).map_err(Error::wrap)?;
    Layer::from_row_quarters(codes.packed, codes.scale, rows, cols).map_err(Error::wrap)
}

/// Returns the values of contiguous storage.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout, name: &str) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("{name}: expected contiguous values"),
    }
}

/// Returns the shape of the output, for an input whose last dimension is `cols`.
fn shape_of_output(layout: &Layout, rows: usize, cols: usize) -> Result<Shape> {
    let mut dims = layout.dims().to_vec();
    match dims.last_mut() {
        Some(last) if *last == cols => *last = rows,
        _ => bail!("bit-linear: expected {cols} input features, found shape {:?}", layout.dims()),
    }
    Ok(Shape::from(dims))
}

/// The whole layer of packed codes.
struct Packed(Arc<Layer>);

impl CustomOp1 for Packed {
    fn name(&self) -> &'static str {
        "bit-linear-packed"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = shape_of_output(layout, self.0.out_features(), self.0.in_features())?;
        let out = self.0.forward(values(storage, layout, self.name())?).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (input, _) = self.0.backward_input(&flat(x)?, &flat(gradient)?).map_err(Error::wrap)?;
        Ok(Some(Tensor::from_vec(input, x.shape(), x.device())?))
    }
}

/// The product of an input and latent weights, both quantised.
struct Latent;

impl CustomOp2 for Latent {
    fn name(&self) -> &'static str {
        "bit-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = weight_layout.shape().dims2()?;
        let shape = shape_of_output(x_layout, rows, cols)?;
        let layer = layer_of(values(weight, weight_layout, self.name())?, (rows, cols))?;
        let out = layer.forward(values(x, x_layout, self.name())?).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, cols) = weight.dims2()?;
        let layer = layer_of(&flat(weight)?, (rows, cols))?;
        let gradient = gradient.contiguous()?.reshape(((), rows))?;
        let ternary = Tensor::from_vec(layer.dequantized().map_err(Error::wrap)?, (rows, cols), x.device())?;
        let input = gradient.matmul(&ternary)?.reshape(x.shape())?;
        let quantized = layer.quantize_input(&flat(x)?);
        let tokens = quantized.codes.chunks_exact(cols).zip(&quantized.scales);
        let seen: Vec<f32> = tokens
            .flat_map(|(codes, &scale)| codes.iter().map(move |&code| f32::from(code) / scale))
            .collect();
        let seen = Tensor::from_vec(seen, ((), cols), x.device())?;
        Ok((Some(input), Some(gradient.t()?.matmul(&seen)?)))
    }
}

/// The norm of the input.
struct Norm {
    eps: f32,
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "bit-linear-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gains: &CpuStorage,
        gains_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gains = values(gains, gains_layout, self.name())?;
        let shape = shape_of_output(x_layout, gains.len(), gains.len())?;
        let x = values(x, x_layout, self.name())?;
        let kernels = Kernels::select().map_err(Error::wrap)?;
        let mut out = vec![0.0; x.len()];
        for (x, out) in x.chunks_exact(gains.len()).zip(out.chunks_exact_mut(gains.len())) {
            (kernels.rms_norm)(x, gains, self.eps, out);
        }
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gains: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let norm = RmsNorm { weight: flat(gains)?, eps: self.eps };
        let cols = norm.weight.len();
        let (values, gradient) = (flat(x)?, flat(gradient)?);
        let mut input = vec![0.0; values.len()];
        let mut sums = vec![0.0f64; cols];
        let tokens = values.chunks_exact(cols).zip(gradient.chunks_exact(cols));
        for ((x, gradient), out) in tokens.zip(input.chunks_exact_mut(cols)) {
            let gradient: Vec<f64> = gradient.iter().map(|&g| f64::from(g)).collect();
            norm_backward(&norm, x, &gradient, out, &mut sums);
        }
        let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
        let input = Tensor::from_vec(input, x.shape(), x.device())?;
        Ok((Some(input), Some(Tensor::from_vec(sums, gains.shape(), gains.device())?)))
    }
}
