//! Compression of tensors that nobody uses, with transparent reload.
//!
//! A [`TensorMemory`](super::TensorMemory) has to keep its bytes at one address, so a tensor that somebody views cannot
//! be compressed behind their back. A [`TensorShelf`] therefore owns tensors by name and hands out views: what has no
//! view is compressed when memory is short and the [`CompressionPolicy`] says so, and decompressed into the pool by the
//! next [`TensorShelf::get`], which gives the same bytes. Data that does not shrink is left as it is, and remembered.

mod codec;
mod policy;
mod shelf;
#[cfg(test)]
mod tests;

pub use policy::CompressionPolicy;
pub use shelf::{CompressionReport, ShelfMetrics, TensorShelf};
