//! Tensors of other libraries.
//!
//! | other | to it | from it |
//! |---|---|---|
//! | DLPack ([`DlpackTensor`]) | in place | in place |
//! | `ndarray` (feature `ndarray`) | a view in place | an array in place |
//! | candle (feature `candle`) | one copy | one copy, or a look in place |
//!
//! candle owns its storage as a `Vec` behind a lock: it cannot borrow memory of a pool or a file, and lends its own
//! only as long as the lock is held, which a tensor cannot do. Hence the copies, of which there is one each way.

#[cfg(feature = "candle")]
mod candle;
mod dlpack;
mod heap;
#[cfg(feature = "ndarray")]
mod ndarray;

#[cfg(feature = "candle")]
pub use candle::look_at_candle;
pub use dlpack::{
    DlDataType, DlDevice, DlManagedTensor, DlManagedTensorVersioned, DlTensor, DlpackTensor, DlpackVersion,
};
