//! Why blocks could not be read or written.

use super::GgmlType;

/// Why blocks could not be read or written.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GgmlError {
    /// A number of elements that is no whole number of blocks.
    #[error("{ty}: expected a multiple of {block} elements, found {found}")]
    Elements {
        /// The type.
        ty: GgmlType,
        /// Elements of a block.
        block: usize,
        /// Elements given.
        found: usize,
    },
    /// The bytes are not those of the elements.
    #[error("{ty}: expected {expected} bytes for {elements} elements, found {found}")]
    Bytes {
        /// The type.
        ty: GgmlType,
        /// Elements asked for.
        elements: usize,
        /// Bytes that they take.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The type is not one that the operation works on.
    #[error("expected {expected}, found {ty}")]
    Type {
        /// The types that would do.
        expected: &'static str,
        /// The type given.
        ty: GgmlType,
    },
    /// Blocks of one tensor have different scales, so that it is no ternary matrix with one scale.
    #[error("row {row}, block {block}: expected the scale of the blocks before, {expected}, found {found}")]
    Scales {
        /// Row of the block.
        row: usize,
        /// Block in the row.
        block: usize,
        /// The scale of the blocks before.
        expected: f32,
        /// The scale of the block.
        found: f32,
    },
    /// A scale that is negative, infinite or NaN, or zero over codes that are not.
    #[error(
        "row {row}, block {block}: expected a finite scale, positive unless all codes are zero, found {found}"
    )]
    Scale {
        /// Row of the block.
        row: usize,
        /// Block in the row.
        block: usize,
        /// The scale of the block.
        found: f32,
    },
    /// A code that stands for no value.
    #[error("row {row}: expected codes 0, 1 and 2, found 3")]
    Code {
        /// A row that holds the code.
        row: usize,
    },
    /// The forced instruction set is not there.
    #[error(transparent)]
    Isa(bitnet_kernels::IsaError),
}
