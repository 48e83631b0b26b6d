//! Why a conversion failed.

use std::io;

use bitnet_core::backend::BitNetError;
use bitnet_core::tokenizer::TokenizerError;

use crate::error::LoadError;

/// Why a conversion failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The source could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The destination could not be written.
    #[error("{file}: cannot write: {source}")]
    Write {
        /// The file of the destination.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// The destination has no place for something that the source has.
    #[error("{target}: {what}")]
    Unsupported {
        /// The destination's format.
        target: &'static str,
        /// What it was to hold: expected and found.
        what: String,
    },
    /// A tensor cannot be stored in the type that it was to get.
    #[error("tensor {name}: {message}")]
    Tensor {
        /// The tensor.
        name: String,
        /// Expected and found.
        message: String,
    },
    /// The tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Memory for buffers was refused.
    #[error(transparent)]
    Memory(#[from] BitNetError),
}

impl ConvertError {
    /// Makes an error of writing.
    pub(super) fn write(file: &str) -> impl FnOnce(io::Error) -> ConvertError + '_ {
        move |source| ConvertError::Write { file: file.to_owned(), source }
    }

    /// Makes an error about a tensor.
    pub(super) fn tensor(name: &str, message: impl std::fmt::Display) -> Self {
        ConvertError::Tensor { name: name.to_owned(), message: message.to_string() }
    }
}
