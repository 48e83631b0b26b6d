//! Why weights could not be packed, or bytes not be read.

use super::TernaryPackingStrategy;

/// Why weights could not be packed, or packed bytes not be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A weight is none of -1, 0, +1.
    #[error("weight {index}: expected -1, 0 or 1, found {value}")]
    NotTernary {
        /// Index of the weight.
        index: usize,
        /// The weight.
        value: i8,
    },
    /// A block size that the packing does not know.
    #[error("hybrid block: expected one of {expected:?} values, found {found}")]
    Block {
        /// Sizes there are.
        expected: &'static [usize],
        /// Size asked for.
        found: usize,
    },
    /// The destination has not the length of what is unpacked.
    #[error("destination: expected {expected} values, found {found}")]
    Destination {
        /// Values to unpack.
        expected: usize,
        /// Values that the destination holds.
        found: usize,
    },
    /// A range that ends past the last weight.
    #[error("range {start}..{end}: expected one within {len} weights")]
    Range {
        /// First weight.
        start: usize,
        /// One past the last weight.
        end: usize,
        /// Weights there are.
        len: usize,
    },
    /// The memory for the weights is not to be had.
    #[error("memory for {values} weights is not available")]
    Memory {
        /// Weights.
        values: usize,
    },
    /// The bytes do not begin as packed weights do.
    #[error("packed weights, offset {offset}: expected {expected}, found {found}")]
    Header {
        /// Offset of the field.
        offset: usize,
        /// What may stand there.
        expected: &'static str,
        /// What does.
        found: u64,
    },
    /// There are fewer or more bytes than the header says.
    #[error("packed weights: expected {expected} bytes, found {found}")]
    Length {
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// Bytes that the packing cannot read.
    #[error("packed weights ({strategy}), offset {offset}: expected {expected}")]
    Corrupt {
        /// The packing.
        strategy: TernaryPackingStrategy,
        /// Offset within the packed bytes.
        offset: usize,
        /// What may stand there.
        expected: &'static str,
    },
    /// The forced instruction set is not there.
    #[error(transparent)]
    Isa(#[from] bitnet_kernels::IsaError),
}
