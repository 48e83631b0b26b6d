//! The foundation of BitNet Core: devices, memory, tensors, tokenizers and the CPU backend.

pub mod cpu;
pub mod device;
pub mod error;
pub mod files;
pub mod memory;
pub mod tensor;
pub mod tokenizer;

pub use bitnet_backend as backend;
