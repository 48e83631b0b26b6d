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
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine};
use bitnet_core::memory::{HybridMemoryPool, TagScope};
use bitnet_quant::ggml::I2sLayout;

use crate::config::ModelConfig;
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::family::{self, Detection, Family};
use crate::names::Naming;
use crate::source::{Access, ModelFiles, WeightAccess};
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
    /// Where copies of files, and weights that are decoded, reordered or quantised, live; a pool of its own where none is
    /// named.
    pub pool: Option<HybridMemoryPool>,
}

/// A part of a model, in the order of reading.
pub(crate) enum Part {
    /// What stands outside the layers.
    Outside(Box<Outside>),
    /// A layer, by its index.
    Layer(usize, Box<Layer>),
}

/// What stands outside the layers.
pub(crate) struct Outside {
    pub(crate) embedding: LinearWeights,
    pub(crate) head: Head,
    pub(crate) final_norm: NormWeights,
}

/// What is known of a model beside its weights.
pub(crate) struct Outline {
    pub(crate) config: ModelConfig,
    pub(crate) family: Family,
    pub(crate) assumptions: Vec<String>,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// Loads a checkpoint.
///
/// # Errors
/// A [`LoadError`] of any kind but `Backend`; each names the file and the tensor or field.
pub fn load(files: &ModelFiles, options: &mut LoadOptions<'_>) -> Result<Model, LoadError> {
    let (mut outside, mut layers) = (None, Vec::new());
    let outline = stream(files, options, false, |_, _, part| -> Result<(), LoadError> {
        match part {
            Part::Outside(part) => outside = Some(part),
            // Layers are pushed as their tensors are found: their count in config.json reserves nothing.
            Part::Layer(_, layer) => layers.push(*layer),
        }
        Ok(())
    })?;
    let Some(outside) = outside else {
        let (path, kind) = (files.root(), LoadErrorKind::MissingTensor);
        return Err(LoadError::mismatch(kind, path, Item::File, "an embedding", "none"));
    };
    let Outside { embedding, head, final_norm } = *outside;
    let Outline { config, family, assumptions, tensors } = outline;
    trace::info!("loaded {} as {family}, {} layers", files.root().display(), layers.len());
    for assumption in &assumptions {
        trace::info!("assumed: {assumption}");
    }
    let activations = family.activations();
    Ok(Model { config, family, activations, assumptions, layers, embedding, head, final_norm, tensors })
}

/// Reads a checkpoint part by part, what stands outside the layers first, and hands each to `sink` with the
/// configuration and the family as far as it is known. With `consume`, the pages behind what a layer or its predecessors took are given back when
/// `sink` returns from that layer: memory then holds one layer at a time.
///
/// # Errors
/// As [`load`], and those of `sink`.
pub(crate) fn stream<E: From<LoadError>>(
    files: &ModelFiles,
    options: &mut LoadOptions<'_>,
    consume: bool,
    mut sink: impl FnMut(&ModelConfig, Family, Part) -> Result<(), E>,
) -> Result<Outline, E> {
    let _scope = TagScope::enter("weights");
    let config = ModelConfig::read(files)?;
    let pool = options.pool.clone().map_or_else(HybridMemoryPool::new, Ok).map_err(LoadError::from)?;
    let checkpoint = files.open_checkpoint_by(&Access::on(options.access, &pool))?;
    let detection = family::detect(&config, &checkpoint);
    let engine = ConversionEngine::new(ConversionConfig::default(), pool).map_err(LoadError::from)?;
    let mut reader = Reader::new(&config, &checkpoint, &detection, &engine, options);
    let embedding = reader.table(reader.naming().embedding())?;
    let head = head(&mut reader)?;
    let final_norm = reader.norm(reader.naming().final_norm(), config.hidden, config.rms_eps)?;
    sink(&config, detection.family, Part::Outside(Box::new(Outside { embedding, head, final_norm })))?;
    let mut ternary = false;
    for index in 0..config.layers {
        let layer = layer::read(&mut reader, index)?;
        ternary |= layer.projections().iter().any(|p| is_ternary(&p.weights));
        sink(&config, resolve(&detection, ternary), Part::Layer(index, Box::new(layer)))?;
        if consume {
            reader.release_read();
        }
    }
    reader.check_leftovers()?;
    let (tensors, notes) = reader.finish();
    let stats = engine.get_stats();
    trace::debug!("{} runs of floats converted in {:?}", stats.total_conversions, stats.time);
    let family = resolve(&detection, ternary);
    let mut assumptions = checkpoint.assumptions().to_vec();
    assumptions.extend(config.assumptions.iter().cloned());
    assumptions.extend(detection.assumptions);
    assumptions.extend(notes);
    Ok(Outline { config, family, assumptions, tensors })
}

fn is_ternary(weights: &LinearWeights) -> bool {
    matches!(weights.storage, WeightStorage::Ternary { .. })
}

/// Divides plain llamas by what the values of their matrices turned out to be.
fn resolve(detection: &Detection, ternary: bool) -> Family {
    match detection.family {
        Family::LlamaDense if ternary => Family::TriLm,
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
