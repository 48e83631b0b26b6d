//! Systems on which memory is not shared between processes yet.

use std::convert::Infallible;

use bitnet_backend::{BitNetError, ErrorKind, Result};

/// Memory that processes share; no value of it exists on this system.
pub struct SharedMemory {
    never: Infallible,
}

impl SharedMemory {
    /// Always fails.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn publish_or_attach(
        _name: &str,
        _len: usize,
        _fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<Self> {
        Err(unsupported())
    }

    /// Always fails.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn sealed(_len: usize, _fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Self> {
        Err(unsupported())
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self.never {}
    }
}

fn unsupported() -> BitNetError {
    BitNetError::new(ErrorKind::Unsupported {
        backend: "cpu",
        operation: "memory shared between processes".into(),
        reason: format!("implemented on linux, this is {}; map a file instead", std::env::consts::OS),
    })
}
