//! Layers of true shapes, long contexts and float activations against the naive reference.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use bitnet_testing::compare::{Tolerance, check_logits};
use bitnet_testing::{
    ModelShape, ReferenceModel, SyntheticFamily, SyntheticModel, rng::Rng, shapes, temp::TempDir,
};
use common::{all_logits, engine};

/// Compares `count` positions; the vocabulary is cut down, since the head is not what is tested.
fn check(label: &str, shape: ModelShape, family: SyntheticFamily, count: usize, tolerance: Tolerance) {
    let shape = ModelShape { vocab: 64, layers: 1, max_positions: 2048, ..shape };
    let dir = TempDir::new(label);
    SyntheticModel::new(shape, family, 11).write_folder(dir.path()).unwrap();
    let ids = Rng::new(5).token_ids(count, 64);
    let found = all_logits(&mut engine(dir.path()), &ids);
    let expected = ReferenceModel::from_folder(dir.path()).logits(&ids);
    check_logits(&found, &expected, 64, tolerance).unwrap_or_else(|error| panic!("{label}: {error}"));
}

fn named(name: &str) -> (ModelShape, SyntheticFamily) {
    shapes::by_name(name).unwrap()
}

#[test]
fn two_b_4t_layer_matches() {
    let (shape, family) = named("2b-4t");
    assert_eq!((shape.hidden, shape.intermediate, shape.heads, shape.kv_heads), (2560, 6912, 20, 5));
    check("2b-4t", shape, family, 12, Tolerance::default());
}

#[test]
fn falcon3_layer_with_wide_heads_matches() {
    let (shape, family) = named("falcon3-1b");
    assert_eq!(shape.head_dim, 256);
    check("falcon3-1b", shape, family, 12, Tolerance::default());
}

#[test]
fn one_bit_llm_layer_matches() {
    let (shape, family) = named("large");
    check("large", shape, family, 12, Tolerance::default());
}

#[test]
fn a_context_of_1100_tokens_matches() {
    check("long", shapes::tiny(), SyntheticFamily::BitNetPacked, 1100, Tolerance::default());
}

#[test]
fn head_dim_other_than_hidden_over_heads_matches() {
    let shape = ModelShape { head_dim: 96, ..shapes::tiny() };
    assert_ne!(shape.head_dim * shape.heads, shape.hidden);
    let shape = ModelShape { sub_norms: false, activation: bitnet_testing::model::Activation::Silu, ..shape };
    check("head-dim", shape, SyntheticFamily::LlamaBitLinear, 80, Tolerance::default());
}

#[test]
fn trilm_like_float_activations_match() {
    // Without int8 rounding nothing amplifies: the bound is that of f32 arithmetic.
    let (shape, family) = named("trilm-99m");
    let tight = Tolerance { median_position_rms: 3e-6, whole_rms: 3e-6, argmax_margin: 1e-3 };
    check("trilm", shape, family, 80, tight);
}
