//! What can go wrong between a prompt and its text.

use bitnet_core::device::Device;
use bitnet_core::error::BitNetError;
use bitnet_core::tokenizer::TokenizerError;
use bitnet_model::LoadError;

use crate::chat::ChatError;
use crate::sampler::SamplerError;
use crate::stop::StopError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BitNetError),
    /// The tokenizer could not be read or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template could not be read or rendered.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A sampling parameter is out of range, or the logits are not numbers.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A stop string is empty.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// Almost no memory is left, so no further sequence is taken on; those that run go on.
    #[error("memory pressure is critical: no new sequence is taken on beside the {running} that run")]
    MemoryPressure {
        /// Sequences there are.
        running: usize,
    },
    /// The device cannot run models in this build.
    #[error("no backend for device {device}: {reason}")]
    NoBackend {
        /// The device asked for.
        device: Device,
        /// What is missing.
        reason: String,
    },
    /// Text was given or asked for, and the model came without a tokenizer.
    #[error(
        "{model}: expected a tokenizer (tokenizer.json or tokenizer.model beside the weights, or in a GGUF file), found none (only token ids can be used)"
    )]
    NoTokenizer {
        /// The model.
        model: String,
    },
    /// The tokenizer has ids that the embedding lacks.
    #[error("{file}: expected token ids below the model's vocab_size {vocab}, found {found}")]
    TokenizerTooLarge {
        /// The tokenizer.
        file: String,
        /// Rows of the embedding.
        vocab: usize,
        /// Greatest id of the tokenizer.
        found: usize,
    },
    /// A prompt or a sequence would pass the context limit.
    #[error("context: expected at most {limit} tokens, found {found}")]
    ContextExceeded {
        /// The limit in tokens.
        limit: usize,
        /// Tokens needed.
        found: usize,
    },
    /// A context limit that the model cannot serve.
    #[error("context size: expected 1 to {limit} (max_position_embeddings), found {found}")]
    ContextSize {
        /// The model's limit.
        limit: usize,
        /// The limit asked for.
        found: usize,
    },
    /// There is nothing to continue.
    #[error("prompt: expected at least one token, found none")]
    EmptyPrompt,
    /// A sequence handle that was released or belongs to another engine.
    #[error("sequence {0}: expected a live sequence of this engine, found none")]
    UnknownSequence(u64),
}
