//! The layer in candle against the layer itself: outputs bit by bit, gradients through candle's autograd.
#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod inputs;

use bitnet_quant::candle::BitLinear as CandleLinear;
use bitnet_quant::prelude::*;
use candle_core::{DType, Device, Module, Tensor, Var};

use inputs::{gains, wave};

const ROWS: usize = 7;
const COLS: usize = 48;
const TOKENS: usize = 6;
const EPS: f32 = 1e-5;

fn own(norm: bool) -> BitLinear {
    let layer = BitLinear::from_master(wave(ROWS * COLS, 4), ROWS, COLS).unwrap();
    let layer = layer.with_bias(wave(ROWS, 77)).unwrap();
    match norm {
        true => layer.with_norm(RmsNorm { weight: gains(COLS), eps: EPS }).unwrap(),
        false => layer,
    }
}

fn var(values: Vec<f32>, shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0f32, |max, e| max.max(e.abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 2e-6 * scale, "{i}: expected {e}, found {f}");
    }
}

struct Parts {
    layer: CandleLinear,
    weight: Var,
    bias: Var,
    gains: Var,
}

fn parts(norm: bool) -> Parts {
    let (weight, bias) = (var(wave(ROWS * COLS, 4), &[ROWS, COLS]), var(wave(ROWS, 77), &[ROWS]));
    let gains = var(gains(COLS), &[COLS]);
    let layer = CandleLinear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())).unwrap();
    let layer = match norm {
        true => layer.with_norm(gains.as_tensor().clone(), EPS).unwrap(),
        false => layer,
    };
    Parts { layer, weight, bias, gains }
}

#[test]
fn outputs_are_the_bits_of_the_layer_in_every_form_and_rank() {
    for norm in [false, true] {
        let (own, Parts { layer, .. }) = (own(norm), parts(norm));
        let x = wave(TOKENS * COLS, 55);
        let expected = own.forward(&x).unwrap();
        let frozen = layer.freeze().unwrap();
        assert!(frozen.weight().is_none() && layer.weight().is_some());
        for shape in [&[TOKENS, COLS][..], &[2, 3, COLS], &[1, 2, 3, COLS]] {
            let x = Tensor::from_vec(x.clone(), shape, &Device::Cpu).unwrap();
            for layer in [&layer, &frozen] {
                let y = layer.forward(&x).unwrap();
                assert_eq!(y.dims()[..shape.len() - 1], shape[..shape.len() - 1]);
                assert_eq!(flat(&y), expected, "{norm} {shape:?}");
            }
        }
        // Values that do not stand in order.
        let turned = Tensor::from_vec(x.clone(), (TOKENS, COLS), &Device::Cpu).unwrap().t().unwrap();
        let turned = turned.contiguous().unwrap().t().unwrap();
        assert_eq!(flat(&layer.forward(&turned).unwrap()), expected);
    }
}

#[test]
fn gradients_through_autograd_are_those_of_the_layer() {
    for norm in [false, true] {
        let (own, Parts { layer, weight, bias, gains }) = (own(norm), parts(norm));
        let (x, g) = (wave(TOKENS * COLS, 55), wave(TOKENS * ROWS, 91));
        let expected = own.backward(&x, &g).unwrap();
        let x = var(x, &[2, 3, COLS]);
        let g = Tensor::from_vec(g, (2, 3, ROWS), &Device::Cpu).unwrap();
        // The gradient of the output is `g`.
        let loss = |layer: &CandleLinear| (layer.forward(&x).unwrap() * &g).unwrap().sum_all().unwrap();
        let gradients = loss(&layer).backward().unwrap();
        let of = |var: &Var| flat(gradients.get(var).unwrap());
        assert_close(&of(&x), &expected.input);
        assert_close(&of(&weight), &expected.weights);
        assert_close(&of(&bias), expected.bias.as_ref().unwrap());
        match &expected.norm {
            Some(expected) => assert_close(&of(&gains), expected),
            None => assert!(gradients.get(&gains).is_none()),
        }
        let frozen = loss(&layer.freeze().unwrap()).backward().unwrap();
        assert_eq!(flat(frozen.get(&x).unwrap()), expected.input);
        assert!(frozen.get(&weight).is_none());
    }
}

#[test]
fn a_changed_variable_is_never_stale_and_a_frozen_layer_does_not_follow() {
    let Parts { layer, weight, .. } = parts(false);
    let x = Tensor::from_vec(wave(COLS, 2), (1, COLS), &Device::Cpu).unwrap();
    let (before, frozen) = (flat(&layer.forward(&x).unwrap()), layer.freeze().unwrap());
    let other = wave(ROWS * COLS, 150);
    weight.set(&Tensor::from_vec(other.clone(), (ROWS, COLS), &Device::Cpu).unwrap()).unwrap();
    let fresh = BitLinear::from_master(other, ROWS, COLS).unwrap().with_bias(wave(ROWS, 77)).unwrap();
    let after = flat(&layer.forward(&x).unwrap());
    assert_eq!(after, fresh.forward(&flat(&x)).unwrap());
    assert_ne!(after, before);
    assert_eq!(flat(&frozen.forward(&x).unwrap()), before);
}

#[test]
fn descent_by_candle_lowers_the_loss() {
    let target = BitLinear::from_master(wave(8 * 32, 100), 8, 32).unwrap();
    let x = wave(16 * 32, 200);
    let wanted = Tensor::from_vec(target.forward(&x).unwrap(), (16, 8), &Device::Cpu).unwrap();
    let x = Tensor::from_vec(x, (16, 32), &Device::Cpu).unwrap();
    let weight = var(wave(8 * 32, 5), &[8, 32]);
    let layer = CandleLinear::new(weight.as_tensor().clone(), None).unwrap();
    let mut losses = Vec::new();
    for _ in 0..60 {
        let loss = (layer.forward(&x).unwrap() - &wanted).unwrap().sqr().unwrap().sum_all().unwrap();
        losses.push(loss.to_scalar::<f32>().unwrap());
        let gradients = loss.backward().unwrap();
        let step = (gradients.get(&weight).unwrap() * 0.005).unwrap();
        weight.set(&(weight.as_tensor() - step).unwrap()).unwrap();
    }
    assert!(losses[59] < 0.25 * losses[0], "{losses:?}");
}

#[test]
fn narrow_floats_come_back_narrow_and_wrong_shapes_are_named() {
    let Parts { layer, .. } = parts(true);
    let x = Tensor::from_vec(wave(COLS, 9), (1, COLS), &Device::Cpu).unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let narrow = x.to_dtype(dtype).unwrap();
        let y = layer.forward(&narrow).unwrap();
        assert_eq!(y.dtype(), dtype);
        let wide = layer.forward(&narrow.to_dtype(DType::F32).unwrap()).unwrap();
        assert_eq!(
            flat(&y.to_dtype(DType::F32).unwrap()),
            flat(&wide.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap())
        );
    }
    let text = |result: candle_core::Result<_>| result.map(|_: Tensor| ()).unwrap_err().to_string();
    let wrong = Tensor::zeros((2, COLS + 1), DType::F32, &Device::Cpu).unwrap();
    assert!(text(parts(false).layer.forward(&wrong)).contains("expected 48 input features"));
    assert!(text(layer.freeze().unwrap().forward(&wrong)).contains("expected 48 input features"));
    let weight = || Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
    let bias = Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap();
    assert!(CandleLinear::new(weight(), Some(bias)).unwrap_err().to_string().contains("bias of 3 values"));
    let nan = Tensor::full(f32::NAN, (3, 4), &Device::Cpu).unwrap();
    let nan = CandleLinear::new(nan, None).unwrap();
    let x = Tensor::zeros((1, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(text(nan.forward(&x)).contains("element [0, 0]"));
}
