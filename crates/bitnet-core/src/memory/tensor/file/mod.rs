//! Tensors as safetensors files and images: written from any layout, read into a pool, or used where they lie.
//!
//! ```text
//! u64 little-endian n | n bytes of JSON {name: {dtype, shape, data_offsets}}, padded | the tensors, without gaps
//! ```
//!
//! Elements are row-major and little-endian, whatever the machine; views are written as the contiguous tensors that
//! they stand for. The header is padded so that data begins at a multiple of 64 bytes, and tensors are laid out by
//! falling alignment, so every tensor of a file written here can be used in place.
//!
//! Packed types, which the format does not have, are stored as `U8` of their bytes, with an entry
//! `bitnet.packed.NAME` = `TYPE [SHAPE]` in the metadata; other readers see the bytes. The scale of a quantised
//! tensor is the entry `bitnet.scale.NAME`, a decimal number that reads as the same `f32`.
//!
//! [`save`] writes a file whole or not at all, [`TensorWriter`] does so piece by piece, [`to_bytes`] makes an image in
//! memory. [`load`] gives every tensor a block of its own; [`TensorFile`] finds tensors in any [`TensorMemory`]: a
//! mapped file, memory shared between processes, a buffer.
//!
//! [`TensorMemory`]: super::TensorMemory

mod header;
mod order;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use order::each_element_once;
#[cfg(feature = "candle")]
pub(super) use order::in_row_order;
pub(in crate::memory) use order::{exchange, is_native};
#[cfg(feature = "mmap")]
pub(super) use read::open;
pub use read::{TensorFile, load};
pub use write::{TensorSpec, TensorWriter, save, to_bytes};
