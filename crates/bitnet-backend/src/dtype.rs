//! Element types of tensors.

use std::fmt;
use std::str::FromStr;

use crate::{BitNetError, ErrorKind};

/// The type of one tensor element.
///
/// Sizes are exact in bits: a packed ternary tensor has no whole-byte element, so
/// [`size_bytes`](Self::size_bytes) takes the element count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BitNetDType {
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Signed 4-bit integer, two a byte, low nibble first.
    I4,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// Ternary {-1, 0, +1}, four a byte as two-bit codes (value + 1).
    BitNet158,
}

impl BitNetDType {
    /// Every type, in declaration order.
    pub const ALL: [BitNetDType; 15] = [
        BitNetDType::F64,
        BitNetDType::F32,
        BitNetDType::F16,
        BitNetDType::BF16,
        BitNetDType::I64,
        BitNetDType::I32,
        BitNetDType::I16,
        BitNetDType::I8,
        BitNetDType::I4,
        BitNetDType::U64,
        BitNetDType::U32,
        BitNetDType::U16,
        BitNetDType::U8,
        BitNetDType::Bool,
        BitNetDType::BitNet158,
    ];

    /// Returns the storage size of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            BitNetDType::F64 | BitNetDType::I64 | BitNetDType::U64 => 64,
            BitNetDType::F32 | BitNetDType::I32 | BitNetDType::U32 => 32,
            BitNetDType::F16 | BitNetDType::BF16 | BitNetDType::I16 | BitNetDType::U16 => 16,
            BitNetDType::I8 | BitNetDType::U8 | BitNetDType::Bool => 8,
            BitNetDType::I4 => 4,
            BitNetDType::BitNet158 => 2,
        }
    }

    /// Returns the bytes that `elements` packed elements occupy, rounded up to a whole byte, or `None`
    /// when that does not fit a `usize`.
    pub const fn size_bytes(self, elements: usize) -> Option<usize> {
        // Whole bytes first, so that only sizes that truly do not fit overflow.
        let per_eight = self.bits();
        match (elements / 8).checked_mul(per_eight) {
            Some(whole) => whole.checked_add((elements % 8 * per_eight).div_ceil(8)),
            None => None,
        }
    }

    /// Returns the lower-case name, as files and the command line spell it.
    pub const fn name(self) -> &'static str {
        match self {
            BitNetDType::F64 => "f64",
            BitNetDType::F32 => "f32",
            BitNetDType::F16 => "f16",
            BitNetDType::BF16 => "bf16",
            BitNetDType::I64 => "i64",
            BitNetDType::I32 => "i32",
            BitNetDType::I16 => "i16",
            BitNetDType::I8 => "i8",
            BitNetDType::I4 => "i4",
            BitNetDType::U64 => "u64",
            BitNetDType::U32 => "u32",
            BitNetDType::U16 => "u16",
            BitNetDType::U8 => "u8",
            BitNetDType::Bool => "bool",
            BitNetDType::BitNet158 => "bitnet158",
        }
    }

    /// Reports whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, BitNetDType::F64 | BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16)
    }
}

impl fmt::Display for BitNetDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BitNetDType {
    type Err = BitNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        BitNetDType::ALL.into_iter().find(|dtype| dtype.name() == lower).ok_or_else(|| {
            BitNetError::new(ErrorKind::Mismatch {
                what: "data type".into(),
                expected: BitNetDType::ALL.map(BitNetDType::name).join(", "),
                found: format!("{text:?}"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in BitNetDType::ALL {
            assert_eq!(dtype.name().to_uppercase().parse::<BitNetDType>().unwrap(), dtype);
        }
        assert!("f8".parse::<BitNetDType>().is_err());
    }

    #[test]
    fn sizes_are_exact_in_bits() {
        assert_eq!(BitNetDType::BitNet158.size_bytes(5), Some(2));
        assert_eq!(BitNetDType::I4.size_bytes(3), Some(2));
        assert_eq!(BitNetDType::F32.size_bytes(3), Some(12));
        assert_eq!(BitNetDType::F32.size_bytes(usize::MAX), None);
        assert_eq!(BitNetDType::BitNet158.size_bytes(usize::MAX), Some(usize::MAX / 4 + 1));
    }
}
