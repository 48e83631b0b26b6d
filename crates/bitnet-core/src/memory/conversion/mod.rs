//! Conversion of tensors that are too large to stand in memory twice.
//!
//! [`streaming`] is the core: units (rows, lines of packed codes) are computed on all cores into a buffer of
//! bounded size from the pool, and handed on in order, so that a file of any size is written through a few
//! megabytes.

pub mod streaming;

pub use streaming::Streaming;
