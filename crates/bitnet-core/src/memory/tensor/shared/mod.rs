//! Memory that several processes of one machine share: whatever it holds is there once.
//!
//! [`SharedMemory::publish_or_attach`] goes by a name: the first process fills the memory, the others wait and map it,
//! and the last one that lets go removes the name. [`SharedMemory::sealed`] has no name: it is handed on as an open
//! file, and the system lets nobody write it any more. Both are read-only [`TensorMemory`]; with
//! [`TensorFile`](super::file::TensorFile) on top they share tensors.
//!
//! Implemented on Linux; elsewhere every call is a typed error.
//!
//! ```
//! # #[cfg(target_os = "linux")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use bitnet_core::device::get_cpu_device;
//! use bitnet_core::memory::HybridMemoryPool;
//! use bitnet_core::memory::tensor::file::{TensorFile, to_bytes};
//! use bitnet_core::memory::tensor::{BitNetTensor, SharedMemory};
//!
//! let pool = HybridMemoryPool::new()?;
//! let tensor = BitNetTensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &get_cpu_device(), &pool)?;
//! let image = to_bytes(&[("weights", &tensor)])?;
//! let name = format!("my-weights-v1-{}", std::process::id());
//! let shared = SharedMemory::publish_or_attach(&name, image.len(), |out| {
//!     out.copy_from_slice(&image);
//!     Ok(())
//! })?;
//! let weights = TensorFile::parse(Arc::new(shared), &name)?.tensor("weights")?;
//! assert_eq!(weights.as_slice::<f32>()?, [1.0, 2.0, 3.0]);
//! # Ok(())
//! # }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(all(test, target_os = "linux"))]
mod tests;

use std::fmt;

#[cfg(target_os = "linux")]
pub use linux::SharedMemory;
#[cfg(not(target_os = "linux"))]
pub use other::SharedMemory;

use super::TensorMemory;

impl TensorMemory for SharedMemory {
    fn kind(&self) -> &'static str {
        "shared memory"
    }

    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes)", self.as_slice().len())
    }
}
