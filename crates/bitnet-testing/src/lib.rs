//! The independent truth of BitNet Core's tests: seeded generators of models and data, a naive f64
//! reference of whole models with injectable faults, and the comparisons tests decide by.
//!
//! Everything here is written from the descriptions of the formats alone and uses no other crate, so
//! that a mistake elsewhere is not repeated. It is for tests and tools: functions panic on misuse.

pub mod compare;
pub mod floats;
pub mod gguf;
pub mod gguf_metadata;
pub mod golden;
pub mod held;
pub mod json;
pub mod model;
pub mod pack;
pub mod reference;
pub mod rng;
pub mod safetensors;
pub mod shapes;
pub mod temp;
pub mod tokenizer;

pub use golden::golden_dir;
pub use model::{Eos, ModelShape, SyntheticFamily, SyntheticModel};
pub use reference::{Fault, ReferenceModel};
