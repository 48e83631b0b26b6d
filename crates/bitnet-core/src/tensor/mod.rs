//! Operations on tensors, with the meaning that NumPy and PyTorch give them.

mod cast;
mod convert;
mod output;
mod source;
mod walk;

pub(crate) use convert::{cast_slice_from_f64, copy};

pub use crate::memory::tensor::{BitNetDType, BitNetTensor, Layout, TensorMetadata};
