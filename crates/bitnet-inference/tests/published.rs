//! A layer of every published shape: written by the generator, loaded, told apart, and run.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use bitnet_inference::model::Family;
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, shapes, temp::TempDir};
use common::{all_logits, engine};

fn expected(family: SyntheticFamily) -> Family {
    match family {
        SyntheticFamily::BitNetPacked => Family::BitNetB158Packed,
        SyntheticFamily::BitNetMaster => Family::BitNetB158Master,
        SyntheticFamily::LlamaBitLinear => Family::LlamaBitLinear,
        SyntheticFamily::OneBitLlm => Family::OneBitLlm,
        SyntheticFamily::TriLm => Family::TriLm,
    }
}

/// Writes one layer of a shape in two shards, with a small vocabulary, and runs two tokens through it.
fn check(name: &str) {
    let (shape, family) = shapes::by_name(name).unwrap();
    let dir = TempDir::new(name);
    let shape = ModelShape { vocab: 64, layers: 1, ..shape };
    SyntheticModel::new(shape, family, 5).with_shards(2).write_folder(dir.path()).unwrap();
    let mut engine = engine(dir.path());
    assert_eq!(engine.family(), expected(family), "{name}");
    let logits = all_logits(&mut engine, &[3, 60]);
    let size = (logits.iter().map(|v| v * v).sum::<f32>() / logits.len() as f32).sqrt();
    assert!(logits.len() == 128 && (0.5..20.0).contains(&size), "{name}: logits of size {size}");
}

fn check_all(prefix: &str, count: usize) {
    let names: Vec<_> = shapes::NAMES.into_iter().filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(names.len(), count, "{names:?}");
    names.into_iter().for_each(check);
}

#[test]
fn bitnet_and_one_bit_llm() {
    ["2b-4t", "large", "xl", "3b"].into_iter().for_each(check);
}

#[test]
fn llama3() {
    check("llama3-8b");
}

#[test]
fn falcon3() {
    check_all("falcon3-", 4);
}

#[test]
fn falcon_e() {
    check_all("falcon-e-", 2);
}

#[test]
fn trilm() {
    check_all("trilm-", 9);
}
