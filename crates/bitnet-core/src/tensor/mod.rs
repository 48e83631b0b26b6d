//! Operations on tensors, with the meaning that NumPy and PyTorch give them.

mod activation;
mod arithmetic;
mod broadcast;
mod cast;
mod convert;
mod elementwise;
#[cfg(feature = "gemm")]
mod gemm;
mod index;
mod join;
mod math;
mod matmul;
mod output;
mod reduce;
mod reductions;
mod softmax;
mod sort;
mod source;
mod statistics;
mod ternary;
mod unary;
mod walk;

pub use activation::Activation;
pub(crate) use convert::{cast_slice_from_f64, copy};

pub use crate::memory::tensor::{BitNetDType, BitNetTensor, Layout, TensorMetadata};
