//! Tensors: shape, type and device over a buffer of the pool.
//!
//! Elements lie in row-major order. Sub-byte types are packed over the whole tensor as
//! [`BitNetDType`] states: two `i4` a byte, four ternary codes a byte.

mod bitnet_tensor;
mod metadata;

pub use bitnet_backend::BitNetDType;
pub use bitnet_tensor::BitNetTensor;
pub use metadata::TensorMetadata;
