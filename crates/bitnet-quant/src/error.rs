//! Why a matrix could not be quantised.

use bitnet_core::backend::BitNetDType;

/// Why a matrix could not be quantised or packed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// The element type is not one that the operation reads.
    #[error("element type: expected {expected}, found {found}")]
    DType {
        /// The types that would do.
        expected: &'static str,
        /// The type given.
        found: BitNetDType,
    },
    /// A matrix without elements, or one whose size does not fit the address space.
    #[error("shape: expected two positive sizes whose product fits the address space, found {rows} x {cols}")]
    Shape {
        /// Rows given.
        rows: usize,
        /// Columns given.
        cols: usize,
    },
    /// A matrix of another shape than that which it is set beside.
    #[error("shape: expected {} x {}, found {} x {}", expected[0], expected[1], found[0], found[1])]
    OtherShape {
        /// Rows and columns of the one.
        expected: [usize; 2],
        /// Rows and columns of the other.
        found: [usize; 2],
    },
    /// The bytes are not those of the shape.
    #[error("bytes: expected {expected} for {rows} x {cols} of {dtype}, found {found}")]
    ByteLength {
        /// Element type.
        dtype: BitNetDType,
        /// Rows of the shape.
        rows: usize,
        /// Columns of the shape.
        cols: usize,
        /// Bytes of that shape.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A weight is NaN or infinite.
    #[error("element [{row}, {col}]: expected a finite weight, found {value}")]
    NotFinite {
        /// Row of the element.
        row: usize,
        /// Column of the element.
        col: usize,
        /// The element.
        value: f32,
    },
    /// A weight is none of the three values that the matrix may hold.
    #[error("element [{row}, {col}]: expected -{magnitude}, 0 or {magnitude}, found {value}")]
    NotTernary {
        /// Row of the element.
        row: usize,
        /// Column of the element.
        col: usize,
        /// The magnitude of a non-zero value.
        magnitude: f32,
        /// The element.
        value: f32,
    },
    /// A scale of packed codes that codes cannot be worth.
    #[error("weight scale: expected one above 0 that is finite, as its reciprocal is, found {found}")]
    WeightScale {
        /// The scale.
        found: f32,
    },
    /// More columns than sums of products of 32 bits hold.
    #[error("columns: expected at most {most}, found {found}")]
    Columns {
        /// The most there can be.
        most: usize,
        /// Columns given.
        found: usize,
    },
    /// The weights are so large that the reciprocal of their mean magnitude is not invertible in f32.
    #[error("mean magnitude: expected one with an invertible reciprocal in f32, found {mean_abs}")]
    Scale {
        /// The mean magnitude.
        mean_abs: f32,
    },
    /// Groups of no weights.
    #[error("group size: expected at least 1, found 0")]
    Group,
    /// A weight is beyond the greatest finite value of the type.
    #[error("element [{row}, {col}]: expected one that fits 16 bits, found {value}")]
    Overflow {
        /// Row of the element.
        row: usize,
        /// Column of the element.
        col: usize,
        /// The element.
        value: f32,
    },
    /// A range that is none.
    #[error("range {min} to {max}: expected finite ends, the least value first")]
    Range {
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
    /// A range for a scheme whose codes have no range.
    #[error("range: expected an INT8 or INT4 scheme, found {scheme}")]
    Ranged {
        /// Name of the scheme.
        scheme: &'static str,
    },
    /// A percentile that is no share.
    #[error("percentile: expected a share from 0 to 1, found {found}")]
    Percentile {
        /// The percentile.
        found: f64,
    },
    /// Statistics of no token.
    #[error("activation statistics: expected at least one token, found none")]
    NoTokens,
    /// A row that is not there, or a destination of another width.
    #[error(
        "row {row} of {rows} x {cols}: expected one that is there and {cols} places, found {found} places"
    )]
    Row {
        /// The row.
        row: usize,
        /// Rows there are.
        rows: usize,
        /// Columns there are.
        cols: usize,
        /// Places given.
        found: usize,
    },
    /// Values of a layer are not as many as its shape says.
    #[error("{what}: expected {expected} values, found {found}")]
    Values {
        /// What they are.
        what: &'static str,
        /// How many there have to be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A layer that was made of packed codes has no master weights to train.
    #[error("the layer was made of packed codes and has no master weights")]
    NoMaster,
    /// Packing refused.
    #[error(transparent)]
    Pack(#[from] crate::packing::PackError),
    /// The forced instruction set is not there.
    #[error(transparent)]
    Isa(#[from] bitnet_kernels::IsaError),
}
