//! The error root.

pub use bitnet_backend::{BitNetError, ErrorKind, Result, printable};
