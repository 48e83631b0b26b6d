use super::*;
use crate::compare::whole_rms_relative;
use crate::pack::unpack_rows;
use crate::reference::{Fault, ReferenceModel};
use crate::rng::Rng;
use crate::safetensors::SafeTensors;
use crate::shapes::{tiny, tiny_llama};
use crate::temp::TempDir;

fn all_models(seed: u64) -> Vec<SyntheticModel> {
    let own_norms = ModelShape { use_rms_norm: true, ..tiny_llama() };
    let silu = ModelShape { activation: Activation::Silu, ..tiny() };
    vec![
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, seed),
        SyntheticModel::new(tiny(), SyntheticFamily::BitNetMaster, seed),
        SyntheticModel::new(tiny_llama(), SyntheticFamily::LlamaBitLinear, seed),
        SyntheticModel::new(own_norms, SyntheticFamily::LlamaBitLinear, seed),
        SyntheticModel::new(silu, SyntheticFamily::OneBitLlm, seed),
        SyntheticModel::new(tiny_llama(), SyntheticFamily::TriLm, seed),
    ]
}

fn logits(model: &SyntheticModel, ids: &[u32]) -> Vec<f32> {
    let dir = TempDir::new("model");
    model.write_folder(dir.path()).unwrap();
    ReferenceModel::from_folder(dir.path()).logits(ids)
}

/// Every family gives logits of a trained model's size that depend on the seed and on every position.
#[test]
fn every_family_computes() {
    let ids = Rng::new(9).token_ids(24, tiny().vocab);
    for model in all_models(1) {
        let got = logits(&model, &ids);
        let std = (got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / got.len() as f64).sqrt();
        assert!((1.0..10.0).contains(&std), "{:?}: logits of size {std}", model.family);
        let other = SyntheticModel { seed: 2, ..model.clone() };
        assert!(whole_rms_relative(&logits(&other, &ids), &got) > 0.5, "{:?}", model.family);
        let mut changed = ids.clone();
        changed[0] = (changed[0] + 1) % tiny().vocab as u32;
        let last = got.len() - tiny().vocab;
        assert!(
            whole_rms_relative(&logits(&model, &changed)[last..], &got[last..]) > 1e-3,
            "{:?}",
            model.family
        );
    }
}

#[test]
fn shards_and_spellings_hold_the_same_model() {
    let ids = Rng::new(9).token_ids(8, tiny().vocab);
    for model in all_models(1) {
        let expected = logits(&model, &ids);
        let list = Eos::List(vec![317, 319]);
        for shards in [2, 3, 7] {
            let spelled = model.clone().with_shards(shards).with_transformers5().with_eos(list.clone());
            let dir = TempDir::new("shards");
            spelled.write_folder(dir.path()).unwrap();
            let files = std::fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(files, shards + 2, "shards, index and config.json");
            assert_eq!(ReferenceModel::from_folder(dir.path()).logits(&ids), expected);
        }
    }
}

#[test]
fn config_says_what_the_model_is() {
    let model = SyntheticModel::new(tiny_llama(), SyntheticFamily::LlamaBitLinear, 1);
    let config = Json::parse(&model.config().to_string()).unwrap();
    assert_eq!(config.get("head_dim").unwrap().as_usize(), Some(128));
    assert_eq!(config.get("rope_theta").unwrap().as_f64(), Some(500_000.0));
    assert_eq!(config.get("eos_token_id").unwrap().as_usize(), Some(318));
    let new = model.with_transformers5().with_eos(Eos::List(vec![1, 2])).config();
    assert!(new.get("rope_theta").is_none() && new.get("torch_dtype").is_none());
    assert_eq!(new.get("rope_parameters").unwrap().get("rope_theta").unwrap().as_f64(), Some(500_000.0));
    assert_eq!(new.get("eos_token_id").unwrap().items().len(), 2);
    let plain = SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, 1).config();
    assert!(plain.get("head_dim").is_none());
}

/// `unpack_rows` panics on code 3, so this shows that it never occurs; the values are near thirds.
#[test]
fn packed_weights_are_uniform_ternary() {
    let dir = TempDir::new("packed");
    SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, 1).write_folder(dir.path()).unwrap();
    let st = SafeTensors::read_folder(dir.path());
    let name = "model.layers.1.mlp.down_proj.weight";
    let values = unpack_rows(&st.u8s(name), 256, 512);
    for v in [-1, 0, 1] {
        let share = values.iter().filter(|x| **x == v).count() as f64 / values.len() as f64;
        assert!((share - 1.0 / 3.0).abs() < 0.02, "{v}: {share}");
    }
}

/// Half of what the first layer quantises lies exactly between two integers, in f32 as in f64.
#[test]
fn exact_ties_are_exact() {
    let dir = TempDir::new("ties");
    let model = SyntheticModel::new(tiny(), SyntheticFamily::BitNetPacked, 1).with_exact_ties();
    model.write_folder(dir.path()).unwrap();
    let st = SafeTensors::read_folder(dir.path());
    let norm = st.f32s("model.layers.0.input_layernorm.weight");
    for row in st.f32s("model.embed_tokens.weight").chunks_exact(256) {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / 256.0;
        assert_eq!(mean + 0.25, 1.0);
        let x: Vec<f32> = row.iter().zip(&norm).map(|(v, w)| v * w).collect();
        let (_, scale) = crate::reference::quantise_activations(&x);
        assert_eq!(scale, 64.0);
        let ties = x.iter().filter(|v| (**v * scale).fract().abs() == 0.5).count();
        assert!(ties > 60, "{ties} ties of 256");
    }
    let reference = ReferenceModel::from_folder(dir.path());
    let ids = Rng::new(3).token_ids(6, 320);
    assert_ne!(reference.logits(&ids), reference.logits_with(&ids, Fault::HalfAwayRounding));
}
