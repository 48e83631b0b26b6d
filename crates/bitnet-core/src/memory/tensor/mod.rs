//! Tensors: shape, strides, type and device over memory that they may share.
//!
//! [`Layout`] says where elements lie, [`TensorMemory`] is what holds them (a buffer of the pool, a mapped file),
//! [`BitNetTensor`] is the two together. Sub-byte types are packed over the whole tensor as [`BitNetDType`] states,
//! two `i4` a byte, four ternary codes a byte, and are always row-major.

mod bitnet_tensor;
mod creation;
mod display;
mod layout;
mod layout_views;
mod memory;
mod metadata;
mod random;
mod views;

pub use bitnet_backend::BitNetDType;
pub use bitnet_tensor::BitNetTensor;
pub use layout::Layout;
pub use memory::TensorMemory;
pub use metadata::TensorMetadata;
