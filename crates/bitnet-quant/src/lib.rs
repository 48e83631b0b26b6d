//! Quantisation: float matrices to ternary codes in a packed layout.
//!
//! [`absmean`] quantises master weights as BitNet b1.58 defines it; [`ternary`] recognises and packs matrices
//! whose values are ternary already. Both read the bytes of a file through a [`FloatMatrix`] and write
//! packed codes directly: no f32 copy of a matrix exists at any time. The results do not depend on the
//! number of threads. [`scheme`] has the other schemes (sign, INT8, INT4, 16-bit floats; by tensor, channel and group)
//! with observers and error metrics, [`bit_linear`] a layer that runs on packed codes and trains through them,
//! [`quality`] what quantisation does to each layer. [`packing`] stores ternary weights in few bits and [`SimdUnpacker`] gives them back; [`ggml`]
//! holds the codecs of GGUF files. With feature `candle`, `candle` has that layer as a module of candle. [`prelude`] names what a program usually needs.

pub mod absmean;
pub mod bit_linear;
#[cfg(feature = "candle")]
pub mod candle;
mod error;
pub mod ggml;
mod matrix;
mod pack;
pub mod packing;
pub mod prelude;
pub mod quality;
pub mod scheme;
pub mod ternary;
mod unpack;

pub use error::QuantError;
pub use matrix::FloatMatrix;
pub use unpack::{
    AlignedWeights, Alignment, SimdCapabilities, SimdUnpacker, UnpackError, simd_unpack_weights,
};
