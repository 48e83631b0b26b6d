//! What a loader hands to a backend: matrices as the file stores them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::{BitNetDType, BitNetError, Result};

/// A shared, immutable run of bytes: a slice of a mapped file, of the binary, or of memory.
#[derive(Clone)]
pub struct WeightBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl WeightBytes {
    /// Takes the whole of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*owner).as_ref().len();
        WeightBytes { owner, range }
    }

    /// Takes `range` of `owner`; `None` when it lies outside.
    pub fn slice_of(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        (*owner).as_ref().get(range.clone())?;
        Some(WeightBytes { owner, range })
    }
}

impl From<Vec<u8>> for WeightBytes {
    fn from(bytes: Vec<u8>) -> Self {
        WeightBytes::new(Arc::new(bytes))
    }
}

impl std::ops::Deref for WeightBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for WeightBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightBytes({} bytes)", self.range.len())
    }
}

/// How the scale of a ternary matrix enters its product.
///
/// The two published conventions are reciprocal and the value does not reveal which one it is
/// (`transformers/integrations/bitnet.py`, `AutoBitLinear` and `BitLinear`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WeightScale {
    /// `y = acc / s_x * scale`: the scale is mean |W|.
    Multiply(f32),
    /// `y = acc / (s_x * scale)`: the scale is 1 / mean |W|.
    Divide(f32),
}

impl WeightScale {
    /// Returns the stored number.
    pub fn value(self) -> f32 {
        match self {
            WeightScale::Multiply(scale) | WeightScale::Divide(scale) => scale,
        }
    }
}

/// How ternary codes lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TernaryWire {
    /// Two-bit codes (value + 1), `[ceil(rows / 4), cols]` bytes; byte `(r, c)` holds rows `r`,
    /// `r + R`, `r + 2R`, `r + 3R` of column `c`, low bits first (Hugging Face `bitnet`). Code 3 does not occur in a row
    /// that is there: who makes the weights looks, as the loader does, since a backend would read them all again. Where
    /// it occurs, products of the rows of its byte are wrong, on each instruction set in its own way, and nothing else.
    RowQuarters,
}

impl TernaryWire {
    /// Returns the bytes of a matrix of this shape, or `None` when they do not fit.
    pub fn stored_len(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            TernaryWire::RowQuarters => rows.div_ceil(4).checked_mul(cols),
        }
    }
}

/// The elements of a matrix.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WeightStorage {
    /// Ternary codes with one scale a tensor.
    Ternary {
        /// Arrangement of the codes.
        wire: TernaryWire,
        /// The packed codes.
        bytes: WeightBytes,
        /// The scale and its sense.
        scale: WeightScale,
    },
    /// Row-major little-endian floats.
    Dense {
        /// `F32`, `F16` or `BF16`.
        dtype: BitNetDType,
        /// The elements.
        bytes: WeightBytes,
    },
}

/// A matrix `[rows, cols]` = `[out_features, in_features]`, with an optional bias `[rows]`.
#[derive(Debug, Clone)]
pub struct LinearWeights {
    /// Name in the checkpoint, for errors and reports.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The elements.
    pub storage: WeightStorage,
    /// Added to the product.
    pub bias: Option<Vec<f32>>,
}

impl LinearWeights {
    /// Returns the bytes of the stored elements.
    pub fn stored_bytes(&self) -> usize {
        match &self.storage {
            WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } => bytes.len(),
        }
    }

    /// Checks that byte and bias lengths are those of the shape.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) naming this matrix.
    pub fn validate(&self) -> Result<()> {
        let expected = match &self.storage {
            WeightStorage::Ternary { wire, .. } => wire.stored_len(self.rows, self.cols),
            WeightStorage::Dense { dtype, .. } => {
                self.rows.checked_mul(self.cols).and_then(|n| dtype.size_bytes(n))
            }
        };
        if self.rows == 0 || self.cols == 0 || expected != Some(self.stored_bytes()) {
            return Err(BitNetError::mismatch(
                format!("{}: stored bytes", self.name),
                format_args!("those of {} x {}", self.rows, self.cols),
                self.stored_bytes(),
            ));
        }
        match &self.bias {
            Some(bias) if bias.len() != self.rows => {
                Err(BitNetError::mismatch(format!("{}: bias length", self.name), self.rows, bias.len()))
            }
            _ => Ok(()),
        }
    }
}
