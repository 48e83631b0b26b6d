//! The layer against the reference, its gradients against an independent f64 form and finite differences.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod inputs;

use bitnet_core::backend::WeightScale;
use bitnet_kernels::{Isa, Kernels};
use bitnet_quant::prelude::*;
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::SafeTensors;

use inputs::{gains, wave};

fn golden() -> SafeTensors {
    SafeTensors::read(&golden_dir("units").join("bitlinear.safetensors"))
}

fn assert_close(found: &[f32], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |max, e| max.max(e.abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(f) - e).abs() <= relative * e.abs().max(1e-3 * scale),
            "{i}: expected {e}, found {f}"
        );
    }
}

/// Differences that roundings of f32 explain: sums cancel, so that they are held against the greatest value.
fn assert_near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |max, e| max.max(e.abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(f) - e).abs() <= 5e-7 * scale, "{i}: expected {e}, found {f}, of up to {scale}");
    }
}

#[test]
fn forward_is_the_reference_in_every_form_and_on_every_tier() {
    let file = golden();
    let master = BitLinear::from_master(file.f32s("w_master"), 48, 256).unwrap();
    let divide = WeightScale::Divide(file.f32s("w_inv_mean_abs")[0]);
    let packed = || BitLinear::from_row_quarters(file.u8s("w_packed_u8"), divide, 48, 256).unwrap();
    let x = file.f32s("x");
    assert_close(&master.forward(&x).unwrap(), &file.f64s("y_exact_f64"), 1e-6);
    let y = packed().forward(&x).unwrap();
    assert_close(&y, &file.f64s("y_exact_f64"), 1e-6);
    let wide = |name: &str| file.f32s(name).iter().map(|&y| f64::from(y)).collect::<Vec<_>>();
    let biased = packed().with_bias(file.f32s("bias")).unwrap();
    assert_close(&biased.forward(&x).unwrap(), &wide("y_bitlinear_div_bias_f32"), 1e-4);
    for isa in Isa::available() {
        let kernels = Kernels::for_isa(isa).unwrap();
        let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&packed().with_kernels(kernels).forward(&x).unwrap()), bits(&y), "{isa}");
    }
    let weights = TernaryPackerFactory::create_packer(TernaryPackingStrategy::EntropyCoded)
        .pack(&file.i8s("w_ternary"), &TernaryPackingConfig::default());
    let unpacked = BitLinear::from_packed(&weights.unwrap(), divide, 48, 256).unwrap();
    assert_eq!(unpacked.forward(&x).unwrap(), y);
}

#[test]
fn integer_products_are_exact_at_any_shape() {
    for (rows, cols, tokens) in [(1, 1, 1), (3, 5, 2), (6, 33, 7), (9, 257, 1)] {
        let (weights, x) = (wave(rows * cols, 3), wave(tokens * cols, 8));
        let layer = BitLinear::from_master(weights.clone(), rows, cols).unwrap();
        let mean = (weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / (rows * cols) as f64) as f32;
        let y = layer.forward(&x).unwrap();
        for t in 0..tokens {
            let x = &x[t * cols..][..cols];
            let absmax = x.iter().fold(1e-5f32, |max, x| max.max(x.abs()));
            let scale = (1.0 / absmax) * 127.0;
            for row in 0..rows {
                let code = |i: usize| {
                    (weights[row * cols + i] * (1.0 / mean)).round_ties_even().clamp(-1.0, 1.0) as i64
                };
                let acc: i64 = (0..cols).map(|i| code(i) * (x[i] * scale).round_ties_even() as i64).sum();
                assert_eq!(
                    y[t * rows + row],
                    acc as f32 / scale * (1.0 / (1.0 / mean)),
                    "{rows} {cols} {t} {row}"
                );
            }
        }
    }
}

#[test]
fn packed_codes_are_never_stale() {
    let mut layer = BitLinear::from_master(wave(6 * 40, 1), 6, 40).unwrap();
    let x = wave(80, 2);
    let before = layer.forward(&x).unwrap();
    assert_eq!(layer.forward(&x).unwrap(), before);
    let version = layer.version();
    layer.master_mut().unwrap().iter_mut().for_each(|weight| *weight = -*weight);
    assert_ne!(layer.version(), version);
    let after = layer.forward(&x).unwrap();
    assert_eq!(after, before.iter().map(|y| -y).collect::<Vec<_>>());
    let fresh = BitLinear::from_master(layer.master().unwrap().to_vec(), 6, 40).unwrap();
    assert_eq!(fresh.forward(&x).unwrap(), after);
    let mut frozen = BitLinear::from_row_quarters(vec![0; 10], WeightScale::Multiply(1.0), 4, 10).unwrap();
    assert!(frozen.master().is_none() && frozen.master_mut().is_err());
}

const ROWS: usize = 5;
const COLS: usize = 24;
const TOKENS: usize = 3;
const EPS: f32 = 1e-5;

fn layer() -> BitLinear {
    let norm = RmsNorm { weight: gains(COLS), eps: EPS };
    let layer = BitLinear::from_master(wave(ROWS * COLS, 4), ROWS, COLS).unwrap();
    layer.with_bias(wave(ROWS, 77)).unwrap().with_norm(norm).unwrap()
}

/// The pass as training sees it, in f64 and from its formulas alone: quantisers give the values `quantised` where the
/// caller freezes them, and are the identity in what is differentiated.
struct Smooth {
    x: Vec<f64>,
    gains: Vec<f64>,
    weights: Vec<f64>,
    bias: Vec<f64>,
    /// Quantised minus plain, held fixed.
    x_offset: Vec<f64>,
    w_offset: Vec<f64>,
}

impl Smooth {
    fn normed(&self) -> Vec<f64> {
        let rows = self.x.chunks(COLS).flat_map(|x| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / COLS as f64;
            let inverse = 1.0 / (mean + f64::from(EPS)).sqrt();
            x.iter().zip(&self.gains).map(move |(x, g)| x * inverse * g)
        });
        rows.collect()
    }

    /// The scalar `sum(G y)`, whose derivatives are the gradients.
    fn objective(&self, g: &[f64]) -> f64 {
        let x: Vec<f64> = self.normed().iter().zip(&self.x_offset).map(|(x, o)| x + o).collect();
        let w: Vec<f64> = self.weights.iter().zip(&self.w_offset).map(|(w, o)| w + o).collect();
        let mut sum = 0.0;
        for t in 0..TOKENS {
            for row in 0..ROWS {
                let dot: f64 = (0..COLS).map(|i| x[t * COLS + i] * w[row * COLS + i]).sum();
                sum += g[t * ROWS + row] * (dot + self.bias[row]);
            }
        }
        sum
    }

    /// Freezes both quantisers where they are.
    fn new(x: &[f32], gains: &[f32], weights: &[f32], bias: &[f32]) -> Self {
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let mut smooth = Smooth {
            x: wide(x),
            gains: wide(gains),
            weights: wide(weights),
            bias: wide(bias),
            x_offset: vec![],
            w_offset: vec![],
        };
        let mean = smooth.weights.iter().map(|w| w.abs()).sum::<f64>() / weights.len() as f64;
        smooth.w_offset =
            smooth.weights.iter().map(|w| (w / mean).round_ties_even().clamp(-1.0, 1.0) * mean - w).collect();
        let normed = smooth.normed();
        smooth.x_offset = normed
            .chunks(COLS)
            .flat_map(|x| {
                let scale = 127.0 / x.iter().fold(0.0f64, |max, x| max.max(x.abs()));
                x.iter().map(move |x| (x * scale).round_ties_even() / scale - x)
            })
            .collect();
        smooth
    }
}

#[test]
fn gradients_are_finite_differences_of_the_pass_with_frozen_quantisers() {
    let (x, g) = (wave(TOKENS * COLS, 55), wave(TOKENS * ROWS, 91));
    let layer = layer();
    let gradients = layer.backward(&x, &g).unwrap();
    let g: Vec<f64> = g.iter().map(|&g| f64::from(g)).collect();
    let mut smooth = Smooth::new(&x, &gains(COLS), &wave(ROWS * COLS, 4), &wave(ROWS, 77));
    let h = 1e-5;
    let mut slopes = |field: fn(&mut Smooth) -> &mut Vec<f64>, n: usize| -> Vec<f64> {
        (0..n)
            .map(|i| {
                let mut at = |by: f64| {
                    field(&mut smooth)[i] += by;
                    let value = smooth.objective(&g);
                    field(&mut smooth)[i] -= by;
                    value
                };
                (at(h) - at(-h)) / (2.0 * h)
            })
            .collect()
    };
    assert_close(&gradients.input, &slopes(|s| &mut s.x, TOKENS * COLS), 1e-4);
    assert_close(&gradients.weights, &slopes(|s| &mut s.weights, ROWS * COLS), 1e-4);
    assert_close(gradients.bias.as_ref().unwrap(), &slopes(|s| &mut s.bias, ROWS), 1e-4);
    assert_close(gradients.norm.as_ref().unwrap(), &slopes(|s| &mut s.gains, COLS), 1e-4);
}

/// The file that `tools/make_bit_linear_reference.py` wrote.
fn torch() -> SafeTensors {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    SafeTensors::read(&folder.join("tests/data/bit_linear_torch.safetensors"))
}

#[test]
fn outputs_and_gradients_are_those_of_pytorch() {
    let file = torch();
    let [rows, cols] = file.get("weight").shape[..] else { panic!("a matrix") };
    for name in ["plain", "norm"] {
        let layer = BitLinear::from_master(file.f32s("weight"), rows, cols).unwrap();
        let layer = layer.with_bias(file.f32s("bias")).unwrap();
        let layer = match name {
            "norm" => layer.with_norm(RmsNorm { weight: file.f32s("gains"), eps: EPS }).unwrap(),
            _ => layer,
        };
        let wide = |part: &str| -> Vec<f64> {
            file.f32s(&format!("{name}.{part}")).iter().map(|&value| f64::from(value)).collect()
        };
        let x = file.f32s("x");
        assert_near(&layer.forward(&x).unwrap(), &file.f64s(&format!("{name}.y")));
        let gradients = layer.backward(&x, &file.f32s("gradient")).unwrap();
        assert_near(&gradients.input, &wide("dx"));
        assert_near(&gradients.weights, &wide("dweight"));
        assert_near(gradients.bias.as_ref().unwrap(), &wide("dbias"));
        match &gradients.norm {
            Some(gains) => assert_near(gains, &wide("dgains")),
            None => assert_eq!(name, "plain"),
        }
    }
}

/// Plain descent on the latent weights brings the ternary layer nearer to a ternary target.
#[test]
fn descent_through_the_estimator_lowers_the_loss() {
    let target = BitLinear::from_master(wave(8 * 32, 100), 8, 32).unwrap();
    let mut layer = BitLinear::from_master(wave(8 * 32, 5), 8, 32).unwrap();
    let x = wave(16 * 32, 200);
    let wanted = target.forward(&x).unwrap();
    let mut losses = Vec::new();
    for _ in 0..60 {
        let y = layer.forward(&x).unwrap();
        let g: Vec<f32> = y.iter().zip(&wanted).map(|(y, w)| y - w).collect();
        losses.push(g.iter().map(|g| g * g).sum::<f32>());
        let gradients = layer.backward(&x, &g).unwrap();
        assert!(gradients.bias.is_none() && gradients.norm.is_none());
        for (weight, gradient) in layer.master_mut().unwrap().iter_mut().zip(&gradients.weights) {
            *weight -= 0.01 * gradient;
        }
    }
    assert!(losses[59] < 0.25 * losses[0], "{losses:?}");
}

#[test]
fn wrong_shapes_are_named() {
    let text = |error: QuantError| error.to_string();
    assert!(
        text(BitLinear::from_master(vec![0.0; 5], 2, 3).unwrap_err()).contains("expected 6 values, found 5")
    );
    assert!(BitLinear::from_master(vec![], 0, 3).is_err());
    assert!(
        text(BitLinear::from_row_quarters(vec![0, 0xff, 0], WeightScale::Multiply(1.0), 2, 3).unwrap_err())
            .contains("[0, 1]")
    );
    let layer = layer();
    assert!(text(layer.forward(&[0.0; 25]).unwrap_err()).contains("found 25"));
    assert!(text(layer.backward(&[0.0; COLS], &[0.0; 3]).unwrap_err()).contains("gradient"));
    let nan = BitLinear::from_master(vec![f32::NAN; 4], 2, 2).unwrap();
    assert!(text(nan.forward(&[1.0; 2]).unwrap_err()).contains("element [0, 0]"));
}

#[test]
fn a_code_that_is_none_is_named_by_its_row_where_there_is_one() {
    // Two lines of three columns: rows 0, 2 and 4 share the first, rows 1, 3 and 5 the second; rows 6 and 7 are absent.
    let made = |packed: Vec<u8>| BitLinear::from_row_quarters(packed, WeightScale::Multiply(0.5), 6, 3);
    let zeros = 0b01_01_01_01u8;
    for row in 0..6 {
        let mut packed = vec![zeros; 6];
        packed[row % 2 * 3 + 2] |= 3 << (2 * (row / 2));
        let error = made(packed).unwrap_err();
        assert_eq!(error, QuantError::NotTernary { row, col: 2, magnitude: 1.0, value: 2.0 });
    }
    let layer = made(vec![0b11_01_10_01; 6]).unwrap();
    assert_eq!(layer.forward(&[1.0, 1.0, 1.0]).unwrap(), [0.0, 0.0, 1.5, 1.5, 0.0, 0.0]);
}

#[test]
fn scales_that_codes_cannot_be_worth_and_too_many_columns_are_refused() {
    let made =
        |scale| BitLinear::from_row_quarters(vec![0; 3], scale, 1, 3).map(|layer| layer.out_features());
    let weights = TernaryPackerFactory::create_packer(TernaryPackingStrategy::BitPacked2Bit)
        .pack(&[0, 1, -1], &TernaryPackingConfig::default())
        .unwrap();
    for bad in [0.0, -0.0, -1.0, f32::INFINITY, f32::NAN, 1e-40] {
        for scale in [WeightScale::Multiply(bad), WeightScale::Divide(bad)] {
            let error = made(scale).unwrap_err();
            assert!(error.to_string().starts_with("weight scale: expected one above 0"), "{error}");
            assert!(BitLinear::from_packed(&weights, scale, 1, 3).is_err(), "{bad}");
        }
    }
    assert_eq!(made(WeightScale::Divide(f32::MAX)), Ok(1));
    let wide = BitLinear::from_master(vec![0.0; (1 << 20) + 1], 1, (1 << 20) + 1).unwrap_err();
    assert_eq!(wide.to_string(), "columns: expected at most 1048576, found 1048577");
}

#[test]
fn weights_stand_for_their_codes_times_or_over_the_scale() {
    let codes: Vec<i8> = (0..7 * 9).map(|i| [0, 1, -1, 0, -1][i * 7919 % 251 % 5]).collect();
    let packed = TernaryPackerFactory::create_packer(TernaryPackingStrategy::Base3Packed)
        .pack(&codes, &TernaryPackingConfig::default())
        .unwrap();
    for (scale, worth) in [(WeightScale::Multiply(0.375), 0.375), (WeightScale::Divide(4.0), 0.25)] {
        let layer = BitLinear::from_packed(&packed, scale, 7, 9).unwrap();
        let expected: Vec<f32> = codes.iter().map(|&code| f32::from(code) * worth).collect();
        assert_eq!(layer.dequantized().unwrap(), expected);
    }
}

#[test]
fn a_token_that_is_not_finite_gives_nan_in_its_own_row_alone() {
    let layer = BitLinear::from_master(wave(6 * 40, 1), 6, 40).unwrap().with_bias(wave(6, 3)).unwrap();
    let whole = wave(3 * 40, 2);
    let expected = layer.forward(&whole).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = whole.clone();
        x[40 + 17] = bad;
        let y = layer.forward(&x).unwrap();
        assert!(y[6..12].iter().all(|y| y.is_nan()), "{bad}: {y:?}");
        assert_eq!((&y[..6], &y[12..]), (&expected[..6], &expected[12..]), "{bad}");
    }
}
