//! The engine of BitNet Core: from a checkpoint and a prompt to streamed text.
//!
//! ```no_run
//! use bitnet_inference::{Engine, GenerateOptions};
//!
//! let mut engine = Engine::load("path/to/model")?;
//! let options = GenerateOptions { max_tokens: Some(64), ..Default::default() };
//! engine.generate("Once upon a time", &options, |text| print!("{text}"))?;
//! for token in engine.tokens("The old king", &options)? {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), bitnet_inference::EngineError>(())
//! ```
//!
//! [`Engine`] is the front door; beneath it stand [`runner`] (sequences, KV blocks, passes),
//! [`generate`] (many sequences at once), [`sampler`], [`stop`] and [`chat`]. The same seed gives the same
//! text for any number of threads, any batch and any instruction set.

pub mod chat;
mod engine;
mod error;
pub mod generate;
mod kv;
pub mod runner;
pub mod sampler;
pub mod score;
pub mod stop;
mod text;
mod tokens;

pub use bitnet_model as model;
pub use engine::{Engine, EngineBuilder};
pub use error::EngineError;
pub use generate::{FinishReason, GenerateOptions};
pub use kv::{Kv, KvChoice};
pub use sampler::SamplingParams;
pub use text::ModelText;
pub use tokens::{Generation, Piece, Tokens};
