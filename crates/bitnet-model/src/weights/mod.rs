//! Reads a checkpoint into a [`Model`]: every tensor checked against the configuration, every matrix in the form
//! that a backend takes.
//!
//! Packed matrices, embedding and head stay slices of the mapped files. Masters are quantised one after the
//! other. A tensor that is there and was not used is refused, unless it is known to be harmless: it would mean
//! that the model computes something else than is computed here.

mod layer;
mod linear;
mod model;
mod reader;
mod scan;

use bitnet_core::backend::{LinearWeights, WeightStorage};

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::family::{self, Detection, Family};
use crate::source::{ModelFiles, WeightAccess};
use crate::trace;
pub use model::{Head, Layer, Model, NormWeights, Projection, StoredAs, TensorInfo};
use reader::Reader;

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Tensors read.
    pub tensors_done: usize,
    /// Tensors of the checkpoint.
    pub tensors_total: usize,
    /// Bytes of the tensors read.
    pub bytes_done: u64,
    /// Bytes of all tensors.
    pub bytes_total: u64,
}

/// How to load.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Called after each tensor.
    pub progress: Option<&'a mut dyn FnMut(LoadProgress)>,
    /// How weight files are brought into memory.
    pub access: WeightAccess,
}

/// Loads a checkpoint.
///
/// # Errors
/// A [`LoadError`] of any kind but `Backend`; each names the file and the tensor or field.
pub fn load(files: &ModelFiles, options: &mut LoadOptions<'_>) -> Result<Model, LoadError> {
    let config = ModelConfig::read(files)?;
    let checkpoint = files.open_checkpoint(options.access)?;
    let detection = family::detect(&config, &checkpoint);
    let mut reader = Reader::new(&config, &checkpoint, &detection, options);
    // Layers are pushed as their tensors are found: their count in config.json reserves nothing.
    let mut layers = Vec::new();
    let embedding = reader.table("model.embed_tokens.weight")?;
    for index in 0..config.layers {
        layers.push(layer::read(&mut reader, index)?);
    }
    let final_norm = reader.norm("model.norm.weight", config.hidden, config.rms_eps)?;
    let head = head(&mut reader)?;
    reader.check_leftovers()?;
    let (tensors, notes) = reader.finish();
    let family = resolve(&detection, &layers);
    let mut assumptions = checkpoint.assumptions().to_vec();
    assumptions.extend(config.assumptions.iter().cloned());
    assumptions.extend(detection.assumptions);
    assumptions.extend(notes);
    trace::info!("loaded {} as {family}, {} layers", files.root().display(), layers.len());
    for assumption in &assumptions {
        trace::info!("assumed: {assumption}");
    }
    let activations = family.activations();
    Ok(Model { config, family, activations, assumptions, layers, embedding, head, final_norm, tensors })
}

/// Divides plain llamas by what the values of their matrices turned out to be.
fn resolve(detection: &Detection, layers: &[Layer]) -> Family {
    let ternary = |weights: &LinearWeights| matches!(weights.storage, WeightStorage::Ternary { .. });
    let any = || layers.iter().flat_map(Layer::projections).any(|p| ternary(&p.weights));
    match detection.family {
        Family::LlamaDense if any() => Family::TriLm,
        family => family,
    }
}

fn head(reader: &mut Reader<'_, '_>) -> Result<Head, LoadError> {
    const NAME: &str = "lm_head.weight";
    let stored = reader.has(NAME);
    match (reader.config.tied, stored) {
        (Some(false), _) | (None, true) => Ok(Head::Separate(reader.table(NAME)?)),
        (Some(true), false) => Ok(Head::Tied),
        (Some(true), true) => {
            reader.ignore(NAME, "unused: the head is tied to the embedding");
            reader.note("tie_word_embeddings is true: the stored lm_head.weight is not used".into());
            Ok(Head::Tied)
        }
        (None, false) => {
            reader
                .note("tie_word_embeddings is absent and no lm_head.weight stored: the head is tied".into());
            Ok(Head::Tied)
        }
    }
}
