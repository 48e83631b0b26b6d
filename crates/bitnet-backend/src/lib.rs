//! The contract between a model and the machine that runs it.
//!
//! This crate holds no implementation: it names devices ([`Device`]) and element types
//! ([`BitNetDType`]), the error root ([`BitNetError`]), what a loader hands to a backend
//! ([`LinearWeights`]), the model as data ([`Graph`]), one forward pass ([`Step`]) and the trait that
//! executes it ([`Backend`]). The CPU implementation is `bitnet_core::cpu`; a GPU crate depends on
//! this crate alone.

mod backend;
#[cfg(feature = "candle")]
mod candle;
mod device;
mod dtype;
mod error;
mod graph;
mod logits;
mod pool;
mod step;
mod weights;

pub use backend::{Backend, BackendInfo, MemoryPart, StepLimits};
pub use device::{Device, MlxDeviceType};
pub use dtype::{BitNetDType, DlpackType, NumericRange};
pub use error::{BitNetError, ErrorKind, Result, printable};
pub use graph::{
    Activation, AttentionShape, BufferId, BufferKind, BufferSpec, Graph, LinearId, Norm, Op, Touched,
    VectorId,
};
pub use logits::{UnusableLogits, greatest_logit};
pub use pool::{DeviceMemory, MemoryRegion};
pub use step::{BlockId, KV_BLOCK_TOKENS, LogitsWanted, Step};
pub use weights::{LinearWeights, TernaryWire, WeightBytes, WeightScale, WeightStorage};
