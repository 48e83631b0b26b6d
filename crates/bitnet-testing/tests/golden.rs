//! The reference against golden data of an independent implementation.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)]

use bitnet_testing::compare::{top2_margin, whole_rms_relative};
use bitnet_testing::golden::{GOLDEN_MODELS, golden_dir};
use bitnet_testing::pack::unpack_rows;
use bitnet_testing::reference::{
    ReferenceModel, absmean_ternary, integer_products, quantise_activations, relu2, rms_norm, rope, silu,
};
use bitnet_testing::safetensors::SafeTensors;

#[test]
fn logits_of_every_model() {
    for name in GOLDEN_MODELS {
        let dir = golden_dir(name);
        let expected = SafeTensors::read(&dir.join("expected.safetensors"));
        let model = ReferenceModel::from_folder(&dir);
        let got = model.logits(&expected.token_ids("input_ids"));
        let rms = whole_rms_relative(&got, &expected.f32s("logits_int8_exact"));
        println!("{name}: {rms:.2e}");
        assert!(rms <= 1e-6, "{name}: rms {rms}");
    }
}

/// Teacher-forced: each greedy id is the reference's own choice where the margin is clear.
#[test]
fn greedy_ids_of_every_model() {
    for name in GOLDEN_MODELS {
        let dir = golden_dir(name);
        let expected = SafeTensors::read(&dir.join("expected.safetensors"));
        let model = ReferenceModel::from_folder(&dir);
        let ids = expected.token_ids("greedy_ids_int8_exact");
        let prompt = expected.token_ids("input_ids").len();
        assert_eq!(ids.len(), prompt + 32);
        let logits = model.logits(&ids);
        let mut decided = 0;
        for (i, id) in ids.iter().enumerate().skip(prompt) {
            let row = &logits[(i - 1) * model.vocab()..i * model.vocab()];
            let (best, margin) = top2_margin(row);
            if margin > 1e-3 {
                decided += 1;
                assert_eq!(best as u32, *id, "{name}, step {}", i - prompt);
            }
        }
        assert!(decided >= 28, "{name}: {decided} decided steps");
        assert_eq!(model.greedy(&ids[..prompt], 4), ids[..prompt + 4], "{name}");
    }
}

#[test]
fn bitlinear_units() {
    let st = SafeTensors::read(&golden_dir("units").join("bitlinear.safetensors"));
    let (rows, cols) = (48, 256);
    let ternary = st.i8s("w_ternary");
    let (weights, s) = absmean_ternary(&st.f32s("w_master"));
    assert_eq!(weights, ternary);
    assert!((s / st.f32s("w_inv_mean_abs")[0] - 1.0).abs() < 1e-6);
    assert_eq!(unpack_rows(&st.u8s("w_packed_u8"), rows, cols), ternary);
    let (mut quantised, mut scales) = (Vec::new(), Vec::new());
    for x in st.f32s("x").chunks_exact(cols) {
        let (q, scale) = quantise_activations(x);
        quantised.extend(q);
        scales.push(scale);
    }
    assert_eq!(scales, st.f32s("x_scale"));
    assert_eq!(quantised, st.i8s("x_int8"));
    let acc = integer_products(&quantised, &ternary, rows, cols);
    assert_eq!(acc, st.i32s("int32_acc"));
    let mean = f64::from(st.f32s("w_mean_abs")[0]);
    for (i, (acc, expected)) in acc.iter().zip(st.f64s("y_exact_f64")).enumerate() {
        let y = f64::from(*acc) / f64::from(scales[i / rows]) * mean;
        assert!((y - expected).abs() <= 1e-6 * expected.abs(), "output {i}: {y}, expected {expected}");
    }
}

fn assert_near(got: &[f64], expected: &[f32], what: &str) {
    let got: Vec<f32> = got.iter().map(|v| *v as f32).collect();
    let rms = whole_rms_relative(&got, expected);
    assert!(rms < 2e-7, "{what}: rms {rms}");
}

#[test]
fn operations() {
    let st = SafeTensors::read(&golden_dir("units").join("ops.safetensors"));
    let x: Vec<f64> = st.f32s("x").into_iter().map(f64::from).collect();
    let rows = || x.chunks_exact(64);
    let norm = st.f32s("norm_w");
    let normed: Vec<f64> = rows().flat_map(|row| rms_norm(row, &norm, 1e-5)).collect();
    assert_near(&normed, &st.f32s("rmsnorm_1e-5"), "rms norm");
    assert_near(&x.iter().map(|v| relu2(*v)).collect::<Vec<_>>(), &st.f32s("relu2"), "relu2");
    assert_near(&x.iter().map(|v| silu(*v)).collect::<Vec<_>>(), &st.f32s("silu"), "silu");
    let positions = st.i32s("rope_positions");
    for (theta, name) in
        [(10_000.0, "rope_split_half_theta10000"), (500_000.0, "rope_split_half_theta500000")]
    {
        let mut rotated = x.clone();
        for (row, position) in rotated.chunks_exact_mut(64).zip(&positions) {
            rope(row, usize::try_from(*position).unwrap(), theta);
        }
        assert_near(&rotated, &st.f32s(name), name);
    }
}
