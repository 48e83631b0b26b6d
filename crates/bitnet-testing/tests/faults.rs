//! The whole-model check has teeth: each fault, run as candidate, is refused, and no fault passes.

#![allow(missing_docs)]

use bitnet_testing::compare::{Tolerance, check_logits};
use bitnet_testing::model::{Activation, ModelShape, SyntheticFamily, SyntheticModel};
use bitnet_testing::reference::{Fault, ReferenceModel};
use bitnet_testing::rng::Rng;
use bitnet_testing::shapes::{tiny, tiny_llama};
use bitnet_testing::temp::TempDir;

fn build(model: &SyntheticModel) -> ReferenceModel {
    let dir = TempDir::new("faults");
    model.write_folder(dir.path()).expect("a written folder");
    ReferenceModel::from_folder(dir.path())
}

fn verdict(model: &ReferenceModel, ids: &[u32], fault: Fault) -> Result<(), String> {
    let expected = model.logits(ids);
    let candidate = model.logits_with(ids, fault);
    check_logits(&candidate, &expected, model.vocab(), Tolerance::default()).map(|_| ())
}

fn families() -> Vec<SyntheticModel> {
    let silu = ModelShape { activation: Activation::Silu, ..tiny() };
    let own_norms = ModelShape { use_rms_norm: true, ..tiny_llama() };
    vec![
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, 1),
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetMaster, 2),
        SyntheticModel::new(tiny_llama(), SyntheticFamily::LlamaBitLinear, 3),
        SyntheticModel::new(own_norms, SyntheticFamily::LlamaBitLinear, 4),
        SyntheticModel::new(silu, SyntheticFamily::OneBitLlm, 5),
    ]
}

fn assert_refused(fault: Fault, tokens: usize) {
    for model in families() {
        let reference = build(&model);
        let ids = Rng::new(7).token_ids(tokens, model.shape.vocab);
        let error = verdict(&reference, &ids, fault).expect_err("the check refuses the fault");
        println!("{:?} {fault:?}: {error}", model.family);
    }
}

#[test]
fn no_fault_passes() {
    let ids = Rng::new(7).token_ids(32, tiny().vocab);
    for model in families() {
        assert_eq!(verdict(&build(&model), &ids, Fault::None), Ok(()), "{:?}", model.family);
    }
}

#[test]
fn no_activation_quantisation_is_refused() {
    assert_refused(Fault::NoActivationQuantisation, 32);
}

#[test]
fn truncated_activations_are_refused() {
    assert_refused(Fault::TruncateActivations, 32);
}

/// Tokens differ in their largest activation, so sharing a scale matters for all but one of them.
#[test]
fn a_per_tensor_activation_scale_is_refused() {
    assert_refused(Fault::PerTensorActivationScale, 32);
}

#[test]
fn a_weight_scale_off_by_one_percent_is_refused() {
    assert_refused(Fault::WeightScaleOffByOnePercent, 32);
}

/// Shifts the second half against the first: keys before the middle are one further away.
#[test]
fn shifted_positions_are_refused() {
    assert_refused(Fault::PositionsShifted, 32);
}

/// Needs a context beyond the cut; most of its positions lie there.
#[test]
fn attention_cut_at_256_is_refused() {
    assert_refused(Fault::AttentionCutAt256, 600);
}

#[test]
fn attention_cut_at_256_shows_only_beyond_256() {
    let reference = build(&families()[0]);
    let ids = Rng::new(7).token_ids(256, 320);
    assert_eq!(verdict(&reference, &ids, Fault::AttentionCutAt256), Ok(()));
    assert_eq!(reference.logits_with(&ids, Fault::AttentionCutAt256), reference.logits(&ids));
}

/// Random inputs hardly ever lie exactly between two integers, so rounding halves the wrong way shows
/// only on a model built from ties: half of the first layer's inputs are.
#[test]
fn half_away_rounding_is_refused() {
    let silu = ModelShape { activation: Activation::Silu, ..tiny() };
    for model in [
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, 1),
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetMaster, 2),
        SyntheticModel::new(tiny_llama(), SyntheticFamily::LlamaBitLinear, 3),
        SyntheticModel::new(silu, SyntheticFamily::OneBitLlm, 5),
    ] {
        let model = model.with_exact_ties();
        let reference = build(&model);
        let ids = Rng::new(7).token_ids(32, model.shape.vocab);
        assert_eq!(verdict(&reference, &ids, Fault::None), Ok(()));
        let error =
            verdict(&reference, &ids, Fault::HalfAwayRounding).expect_err("the check refuses the fault");
        println!("{:?} HalfAwayRounding: {error}", model.family);
    }
}

/// A model with float activations has no activation to quantise wrongly, but positions still count.
#[test]
fn float_models_notice_positions_only() {
    let model = build(&SyntheticModel::new(tiny_llama(), SyntheticFamily::TriLm, 6));
    let ids = Rng::new(7).token_ids(32, 320);
    assert_eq!(verdict(&model, &ids, Fault::TruncateActivations), Ok(()));
    assert!(verdict(&model, &ids, Fault::PositionsShifted).is_err());
}
