//! Checkpoints: from files to a model as a graph.
//!
//! A [`ModelSource`] names a checkpoint, [`ModelFiles`] opens it, [`weights::load`] reads and checks all of it
//! into a [`Model`], and [`Model::build`] hands the matrices to a backend and returns the graph of the
//! decoder. Nothing here computes activations, and nothing is assumed silently: what a file leaves open,
//! and which answer was taken, stands in [`Model::assumptions`].
//!
//! Files are hostile until proven otherwise: every length is checked against the bytes that are there, every
//! configuration number against a range and against the tensors, and each refusal is one line that names the
//! file, the tensor or field, what was expected and what was found ([`LoadError`]).
//!
//! The way back is [`convert`], which writes any of these formats from any other.
//!
//! To add an architecture: a variant of [`Family`] and how it is told apart (`family.rs`), its tensor names and
//! shapes (`weights/`), and its order of operations (`graph.rs`).

pub mod bitnet_file;
pub mod checkpoint;
mod checksum;
pub mod config;
pub mod convert;
pub mod error;
pub mod family;
pub mod gguf;
mod graph;
mod mapping;
mod names;
pub mod source;
mod trace;
pub mod weights;

pub use bitnet_file::{BitnetFile, KvUse, Precision};
pub use bitnet_quant::ggml::{self, I2sLayout};
pub use checkpoint::{Checkpoint, StoredDType, Tensor};
pub use config::{LinearClass, ModelConfig, QuantisationConfig, QuantisationMode};
pub use error::{LoadError, LoadErrorKind};
pub use family::{ActivationMode, Family};
pub use gguf::Gguf;
pub use source::{ModelFiles, ModelSource, WeightAccess};
pub use weights::{
    Head, Layer, LoadOptions, LoadProgress, Model, NormWeights, Projection, StoredAs, TensorInfo, load,
};
