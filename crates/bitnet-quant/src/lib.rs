//! Quantisation: float matrices to ternary codes in a packed layout.
//!
//! [`absmean`] quantises master weights as BitNet b1.58 defines it; [`ternary`] recognises and packs matrices
//! whose values are ternary already. Both read the bytes of a file through a [`FloatMatrix`] and write
//! packed codes directly: no f32 copy of a matrix exists at any time. The results do not depend on the
//! number of threads. [`packing`] is the layout of the packed codes; [`ggml`] holds the codecs of GGUF files.

pub mod absmean;
mod error;
pub mod ggml;
mod matrix;
mod pack;
pub mod ternary;

pub use error::QuantError;
pub use matrix::FloatMatrix;

/// The layouts of packed codes.
pub mod packing {
    pub use bitnet_kernels::layout::row_quarters;
}
