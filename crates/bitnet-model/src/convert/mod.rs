//! Conversion of checkpoints: any that can be read, to any format that is written.
//!
//! ```text
//! stream(source) --embedding, head, norm; then layer by layer--> Writer of the target --rows--> file
//! ```
//!
//! The source is read once, in the order in which it is written. Matrices that are packed already are mapped, master
//! weights are quantised one layer at a time, rows are encoded into a buffer of bounded size
//! ([`Streaming`](bitnet_core::memory::conversion::Streaming)), and the pages of the source are given back layer by
//! layer: memory holds the largest tensor and one layer, whatever the size of the model. The bytes written depend on
//! the source and the options alone.
//!
//! Ternary values are never changed. Scales are kept as they are (hf-packed, hf-master, bitnet, I2_S) or rounded to
//! f16 (TQ1_0, TQ2_0, F16). What a target cannot hold is refused by name, or stated as a note.
//!
//! To add a target: a variant of [`Target`], a writer beside `hf.rs`, `gguf.rs` and `own.rs`.

mod encode;
mod error;
mod gguf;
mod hf;
mod hf_config;
mod names;
mod own;
mod safetensors_file;
mod tokenizer;
mod vocabulary_files;

use std::fmt;
use std::io::{self, Seek, Write};

use bitnet_core::backend::{BitNetDType, WeightScale, WeightStorage};
use bitnet_quant::ggml::GgmlType;

use crate::config::{ModelConfig, QuantisationMode};
use crate::family::Family;
use crate::source::ModelFiles;
use crate::weights::{Layer, LoadOptions, Outside, Part, stream};
pub use error::ConvertError;

/// A format that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A folder: U8 codes in row quarters with scales (`transformers`, offline).
    HfPacked,
    /// A folder: ternary values as floats with scales (`transformers`, offline, unpacked); what is not ternary as
    /// it is.
    HfMaster,
    /// GGUF with matrices of this type: I2_S, TQ1_0, TQ2_0 or F16.
    Gguf(GgmlType),
    /// Our own file, run in place.
    Bitnet,
}

impl Target {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::HfPacked => "hf-packed",
            Target::HfMaster => "hf-master",
            Target::Gguf(GgmlType::I2_S) => "gguf-i2_s",
            Target::Gguf(GgmlType::TQ1_0) => "gguf-tq1_0",
            Target::Gguf(GgmlType::TQ2_0) => "gguf-tq2_0",
            Target::Gguf(_) => "gguf-f16",
            Target::Bitnet => "bitnet",
        }
    }

    /// Reports whether the result is a folder.
    pub fn is_folder(self) -> bool {
        matches!(self, Target::HfPacked | Target::HfMaster)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How to convert.
pub struct ConvertOptions<'a> {
    /// The format to write.
    pub target: Target,
    /// The type of embedding and head in a GGUF file: F32, F16, BF16, Q8_0 or Q6_K. Other targets keep them as
    /// stored.
    pub embedding: GgmlType,
    /// The name of the rule that cuts text into words, for tokenizers in which it is not recognised.
    pub pre: Option<String>,
    /// The type of KV cache, F16 or F32, that a file of ours records for every use; by default what the source
    /// records, or else that of each use.
    pub kv: Option<BitNetDType>,
    /// Refuse a source that is quantised already.
    pub masters_only: bool,
    /// How to load the source.
    pub load: LoadOptions<'a>,
}

impl ConvertOptions<'_> {
    /// Converts to `target` with every default.
    pub fn new(target: Target) -> Self {
        ConvertOptions {
            target,
            embedding: GgmlType::F16,
            pre: None,
            kv: None,
            masters_only: false,
            load: LoadOptions::default(),
        }
    }
}

/// A file of the destination.
pub trait OutputFile: Write + Seek {}

impl<T: Write + Seek> OutputFile for T {}

/// Where a conversion writes to: makes a file, by its name within a folder; by an empty name where the result is one
/// file. What was made is to become visible only when the conversion has returned without an error.
pub trait Output {
    /// Makes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&mut self, name: &str) -> io::Result<Box<dyn OutputFile + '_>>;
}

/// What a conversion did.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertReport {
    /// What the source turned out to be.
    pub family: Family,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of the weight file written.
    pub bytes: u64,
    /// What was assumed about the source.
    pub assumptions: Vec<String>,
    /// What a reader should know of the result: fallbacks, and what was left out.
    pub notes: Vec<String>,
}

/// What a writer knows before the first tensor: everything but the weights of later layers.
struct Start<'a> {
    config: &'a ModelConfig,
    family: Family,
    outside: &'a Outside,
    first: &'a Layer,
    files: &'a ModelFiles,
    target: Target,
    embedding: GgmlType,
    pre: Option<&'a str>,
    kv: Option<BitNetDType>,
}

/// A target in the making.
trait Writer {
    /// Writes a layer.
    fn layer(&mut self, index: usize, layer: &Layer) -> Result<(), ConvertError>;
    /// Completes the files.
    fn finish(self: Box<Self>) -> Result<Finished, ConvertError>;
}

/// What a writer did.
struct Finished {
    tensors: usize,
    bytes: u64,
    notes: Vec<String>,
}

/// Converts a checkpoint.
///
/// # Errors
/// A source that cannot be loaded, or that the target has no place for; a destination that cannot be written.
pub fn convert(
    files: &ModelFiles,
    options: &mut ConvertOptions<'_>,
    output: &mut dyn Output,
) -> Result<ConvertReport, ConvertError> {
    let ConvertOptions { target, embedding, ref pre, kv, masters_only, ref mut load } = *options;
    let mut output = Some(output);
    let mut outside = None;
    let mut writer: Option<Box<dyn Writer + '_>> = None;
    let outline = stream(files, load, true, |config, family, part| match part {
        Part::Outside(part) => {
            outside = Some(part);
            Ok(())
        }
        Part::Layer(index, layer) => {
            if let (Some(outside), Some(output)) = (outside.take(), output.take()) {
                let first = &layer;
                let pre = pre.as_deref();
                let outside = &outside;
                let start = Start { config, family, outside, first, files, target, embedding, pre, kv };
                if masters_only {
                    check_master(&start)?;
                }
                writer = Some(match target {
                    Target::Gguf(ty) => gguf::start(&start, ty, output)?,
                    Target::Bitnet => own::start(&start, output)?,
                    Target::HfPacked | Target::HfMaster => hf::start(&start, output)?,
                });
            }
            match &mut writer {
                Some(writer) => writer.layer(index, &layer),
                None => Ok(()),
            }
        }
    })?;
    let Some(writer) = writer else {
        return Err(ConvertError::Unsupported { target: target.name(), what: no_layers() });
    };
    let Finished { tensors, bytes, notes } = writer.finish()?;
    Ok(ConvertReport { family: outline.family, tensors, bytes, assumptions: outline.assumptions, notes })
}

fn no_layers() -> String {
    "expected a model with at least one layer, found none".into()
}

/// Refuses what was quantised before, and what never was to be.
fn check_master(start: &Start<'_>) -> Result<(), ConvertError> {
    let projections = start.first.projections();
    let ternary = projections.iter().any(|p| encode::is_ternary(&p.weights)) && start.family != Family::TriLm;
    let offline = start.config.quantisation.as_ref().and_then(|q| q.mode) == Some(QuantisationMode::Offline);
    // Quantising a master gives a scale that multiplies.
    let divides = projections
        .iter()
        .any(|p| matches!(p.weights.storage, WeightStorage::Ternary { scale: WeightScale::Divide(_), .. }));
    let stored = start.files.gguf().is_some() && start.family != Family::BitNetB158Master;
    let what = match (ternary, offline || divides || stored || start.family == Family::BitNetB158Packed) {
        (true, false) => return Ok(()),
        (true, true) => "expected master weights, found a model that is quantised already: use `convert`",
        (false, _) => "expected master weights of a ternary model, found weights of a plain llama",
    };
    Err(ConvertError::Unsupported { target: start.target.name(), what: what.into() })
}
