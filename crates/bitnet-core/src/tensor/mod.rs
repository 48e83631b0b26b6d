//! Operations on tensors, with the meaning that NumPy and PyTorch give them: methods of [`BitNetTensor`].
//!
//! Two frames do the work. `walk` writes one element of a result for each index of its operands (`elementwise`,
//! `unary`, `activation`, `convert`), `reduce` makes one of many (`reductions`, `statistics`); both merge the
//! dimensions that one stride walks through and hand slices to kernels. An operand of another type, or one that does
//! not lie together, reaches a kernel through a small tile (`source`). `broadcast` says what two operands have in
//! common, `output` where results come from, `parallel` how threads share the work. `docs/tensors.md` states the rules;
//! a new operation is a kernel and a method that calls a frame.

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
mod parallel;
mod reduce;
mod reductions;
mod softmax;
mod sort;
mod source;
mod statistics;
mod ternary;
#[cfg(test)]
mod tests;
mod unary;
mod walk;

pub use activation::Activation;
pub(crate) use convert::{cast_slice_from_f64, copy};
pub(crate) use output::room;
pub(crate) use walk::Walk;

pub use crate::memory::tensor::{BitNetDType, BitNetTensor, Layout, TensorMetadata};

/// The page on tensors, whose example has to run.
#[cfg(doctest)]
#[doc = include_str!("../../../../docs/tensors.md")]
struct Page;
