//! Reads a checkpoint into a [`Model`]: every tensor checked against the configuration, every matrix in the form
//! that a backend takes.
//!
//! Packed matrices, embedding and head stay slices of the mapped files. Masters are quantised one after the
//! other. A tensor that is there and was not used is refused, unless it is known to be harmless: it would mean
//! that the model computes something else than is computed here.

mod gguf;
mod layer;
mod linear;
mod model;
mod reader;
mod rows;
mod scan;

use bitnet_core::backend::{LinearWeights, WeightStorage};
use bitnet_quant::ggml::I2sLayout;

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::family::{self, Detection, Family};
use crate::names::Naming;
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
    /// The order of elements in I2_S tensors, which no file states.
    pub i2s_layout: I2sLayout,
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
    let embedding = reader.table(reader.naming().embedding())?;
    for index in 0..config.layers {
        layers.push(layer::read(&mut reader, index)?);
    }
    let final_norm = reader.norm(reader.naming().final_norm(), config.hidden, config.rms_eps)?;
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
    let name = reader.naming().head();
    let stored = reader.has(name);
    match (reader.config.tied, stored) {
        (Some(false), _) | (None, true) => Ok(Head::Separate(reader.table(name)?)),
        (Some(true), false) => Ok(Head::Tied),
        (Some(true), true) => {
            reader.ignore(name, "unused: the head is tied to the embedding");
            reader.note(match reader.naming() {
                Naming::HuggingFace => format!("tie_word_embeddings is true: the stored {name} is not used"),
                Naming::Gguf => {
                    let architecture = &reader.config.architecture;
                    format!("the head of {architecture} is the embedding: the stored {name} is not used")
                }
            });
            Ok(Head::Tied)
        }
        // The absence of the tensor is how a GGUF file says it.
        (None, false) if reader.naming() == Naming::Gguf => Ok(Head::Tied),
        (None, false) => {
            reader
                .note("tie_word_embeddings is absent and no lm_head.weight stored: the head is tied".into());
            Ok(Head::Tied)
        }
    }
}
