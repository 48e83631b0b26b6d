//! The memory that tensors share.

use std::fmt;

use bitnet_backend::{BitNetError, ErrorKind, Result};

use crate::memory::{HybridMemoryPool, PoolBuffer};

/// Bytes that one or more tensors view; the tensors count references to it and the last one drops it.
///
/// [`bytes`](Self::bytes) has to return the same bytes at the same address as long as nothing else is called.
pub trait TensorMemory: fmt::Debug + Send + Sync {
    /// Says in a word or two what this is, for messages: `pool`, `mapped file`.
    fn kind(&self) -> &'static str;

    /// Returns the bytes.
    fn bytes(&self) -> &[u8];

    /// Returns the bytes for writing.
    ///
    /// # Errors
    /// `Unsupported` when this memory is read-only.
    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        Err(read_only(self.kind()))
    }

    /// Keeps the first `len` bytes and gives the rest of the memory back.
    ///
    /// # Errors
    /// `Unsupported` where memory cannot be given back in part; it is as it was then.
    fn shrink(&mut self, len: usize) -> Result<()> {
        Err(BitNetError::new(ErrorKind::Unsupported {
            backend: "cpu",
            operation: format!("shrinking a {} to {len} bytes", self.kind()),
            reason: "the memory is given back as a whole".into(),
        }))
    }

    /// Returns the pool to which the bytes belong, if one.
    fn pool(&self) -> Option<&HybridMemoryPool> {
        None
    }
}

/// The error of writing to memory of such a kind.
pub(super) fn read_only(kind: &str) -> BitNetError {
    BitNetError::new(ErrorKind::Unsupported {
        backend: "cpu",
        operation: format!("writing to a tensor in a {kind}"),
        reason: "the memory is read-only; copy the tensor to a pool first".into(),
    })
}

impl TensorMemory for PoolBuffer<u8> {
    fn kind(&self) -> &'static str {
        "pool"
    }

    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        Ok(self)
    }

    fn shrink(&mut self, len: usize) -> Result<()> {
        self.shrink_to(len)
    }

    fn pool(&self) -> Option<&HybridMemoryPool> {
        Some(PoolBuffer::pool(self))
    }
}
