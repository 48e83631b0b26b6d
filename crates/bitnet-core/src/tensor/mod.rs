//! Operations on tensors, with the meaning that NumPy and PyTorch give them.

mod activation;
mod arithmetic;
mod broadcast;
mod cast;
mod convert;
mod elementwise;
mod math;
mod output;
mod source;
mod unary;
mod walk;

pub use activation::Activation;
pub(crate) use convert::{cast_slice_from_f64, copy};

pub use crate::memory::tensor::{BitNetDType, BitNetTensor, Layout, TensorMetadata};
