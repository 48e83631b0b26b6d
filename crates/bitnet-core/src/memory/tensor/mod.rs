//! Tensors: shape, strides, type and device over memory that they may share.
//!
//! [`Layout`] says where elements lie, [`TensorMemory`] is what holds them (a buffer of the pool, a mapped file),
//! [`BitNetTensor`] is the two together. Sub-byte types are packed over the whole tensor as [`BitNetDType`] states,
//! two `i4` a byte, four ternary codes a byte or five in base 3 ([`base3`]), and are always row-major.

pub mod base3;
mod bitnet_tensor;
#[cfg(feature = "compression")]
mod compression;
mod creation;
mod display;
pub mod file;
mod handle;
mod interop;
mod layout;
mod layout_views;
#[cfg(feature = "mmap")]
mod mapped;
mod memory;
mod metadata;
pub(crate) mod packed;
mod random;
#[cfg(feature = "mmap")]
mod shared;
mod views;

pub use bitnet_backend::BitNetDType;
pub use bitnet_tensor::BitNetTensor;
#[cfg(feature = "compression")]
pub use compression::{CompressionPolicy, CompressionReport, ShelfMetrics, TensorShelf};
pub use handle::{TensorHandle, WeakTensorHandle};
#[cfg(feature = "candle")]
pub use interop::look_at_candle;
pub use interop::{
    DlDataType, DlDevice, DlManagedTensor, DlManagedTensorVersioned, DlTensor, DlpackTensor, DlpackVersion,
};
pub use layout::Layout;
#[cfg(feature = "mmap")]
pub use mapped::{MappedMemory, MappedTensors};
pub use memory::TensorMemory;
pub use metadata::TensorMetadata;
#[cfg(feature = "mmap")]
pub use shared::SharedMemory;
