//! Layers of published sizes: the generator writes them and the reference computes them.

#![allow(missing_docs)]

use bitnet_testing::compare::{Tolerance, check_logits};
use bitnet_testing::reference::{Fault, ReferenceModel};
use bitnet_testing::rng::Rng;
use bitnet_testing::shapes::by_name;
use bitnet_testing::temp::TempDir;
use bitnet_testing::{ModelShape, SyntheticModel};

fn one_layer(name: &str) -> ReferenceModel {
    let (shape, family) = by_name(name).expect("a known shape");
    let dir = TempDir::new(name);
    let model = SyntheticModel::new(ModelShape { layers: 1, vocab: 512, ..shape }, family, 1);
    model.write_folder(dir.path()).expect("a written folder");
    ReferenceModel::from_folder(dir.path())
}

#[test]
fn one_layer_of_each_published_shape() {
    let ids = Rng::new(1).token_ids(9, 512);
    for name in ["2b-4t", "large", "xl", "3b", "falcon3-1b", "falcon-e-1b", "trilm-99m"] {
        let model = one_layer(name);
        let logits = model.logits(&ids);
        let size = (logits.iter().map(|v| v * v).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((1.0..10.0).contains(&size), "{name}: logits of size {size}");
        let shifted = model.logits_with(&ids, Fault::PositionsShifted);
        assert!(check_logits(&shifted, &logits, 512, Tolerance::default()).is_err(), "{name}");
        // Causality: the last rows alone are rows of the whole, and a prefix is a prefix.
        assert_eq!(model.logits_at(&ids, &[7, 8], Fault::None), logits[7 * 512..]);
        assert_eq!(model.logits(&ids[..5]), logits[..5 * 512], "{name}");
    }
}
