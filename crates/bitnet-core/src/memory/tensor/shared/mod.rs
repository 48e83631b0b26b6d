//! Memory that several processes of one machine share: whatever it holds is there once.
//!
//! [`SharedMemory::publish_or_attach`] goes by a name: the first process fills the memory, the others wait and map it,
//! and the last one that lets go removes the name. [`SharedMemory::sealed`] has no name: it is handed on as an open
//! file, and the system lets nobody write it any more. Both are read-only [`TensorMemory`]; with
//! [`TensorFile`](super::file::TensorFile) on top they share tensors.
//!
//! Implemented on Linux; elsewhere every call is a typed error.

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
