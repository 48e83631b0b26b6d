//! Element types of tensors: sizes, names, value ranges (`range`), and the codes of other systems (`codes`).
//!
//! To add a type: a variant, a place in [`BitNetDType::ALL`], and what the compiler then asks for in this folder.

use std::fmt;
use std::str::FromStr;

use crate::{BitNetError, ErrorKind};

mod codes;
mod range;

pub use codes::DlpackType;
pub use range::NumericRange;

/// The type of one tensor element.
///
/// Sizes are exact: elements lie in blocks of [`block`](Self::block), one element of one or more bytes for most types,
/// several elements in one byte for packed ones, so [`size_bytes`](Self::size_bytes) takes the element count. No
/// element of a base-3 tensor has a whole number of bits. Packed elements follow one another over the whole tensor, the
/// first in the lowest bits or digit; what the last byte has beyond the tensor are zeros (as values, not as bits).
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
    /// Ternary {-1, 0, +1}, five a byte as a base-3 number with the digits value + 1, the first element the lowest
    /// digit. Bytes above 242 do not occur.
    TernaryBase3,
}

impl BitNetDType {
    /// Every type, in declaration order.
    pub const ALL: [BitNetDType; 16] = [
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
        BitNetDType::TernaryBase3,
    ];

    /// Returns the smallest run of elements that fills whole bytes: the elements, and the bytes.
    pub const fn block(self) -> (usize, usize) {
        match self {
            BitNetDType::F64 | BitNetDType::I64 | BitNetDType::U64 => (1, 8),
            BitNetDType::F32 | BitNetDType::I32 | BitNetDType::U32 => (1, 4),
            BitNetDType::F16 | BitNetDType::BF16 | BitNetDType::I16 | BitNetDType::U16 => (1, 2),
            BitNetDType::I8 | BitNetDType::U8 | BitNetDType::Bool => (1, 1),
            BitNetDType::I4 => (2, 1),
            BitNetDType::BitNet158 => (4, 1),
            BitNetDType::TernaryBase3 => (5, 1),
        }
    }

    /// Reports whether several elements share a byte.
    pub const fn is_packed(self) -> bool {
        self.block().0 > 1
    }

    /// Returns the bytes of one element; `None` for packed types, whose elements have none of their own.
    pub const fn element_bytes(self) -> Option<usize> {
        match self.block() {
            (1, bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the storage of one element in bits: 1.6 for base 3. For reports; sizes come from
    /// [`size_bytes`](Self::size_bytes).
    pub const fn bits_per_element(self) -> f64 {
        let (elements, bytes) = self.block();
        (8 * bytes) as f64 / elements as f64
    }

    /// Returns the bytes that `elements` elements occupy, rounded up to a whole byte, or `None` when that does not
    /// fit a `usize`.
    pub const fn size_bytes(self, elements: usize) -> Option<usize> {
        let (per_block, bytes) = self.block();
        elements.div_ceil(per_block).checked_mul(bytes)
    }

    /// Returns the byte at which element `index` begins; `None` when it begins inside one, or beyond a `usize`.
    pub const fn byte_offset(self, index: usize) -> Option<usize> {
        let (per_block, bytes) = self.block();
        if index.is_multiple_of(per_block) { (index / per_block).checked_mul(bytes) } else { None }
    }

    /// Returns the alignment in bytes of a tensor that is viewed as a slice of its elements.
    pub const fn align(self) -> usize {
        self.block().1
    }

    /// Returns the lower-case name, as files and the command line spell it.
    pub const fn name(self) -> &'static str {
        self.names()[0]
    }

    /// Returns every spelling that is parsed, in lower case; the first one is the [`name`](Self::name).
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            BitNetDType::F64 => &["f64", "float64", "double"],
            BitNetDType::F32 => &["f32", "float32", "float", "single"],
            BitNetDType::F16 => &["f16", "float16", "half", "fp16"],
            BitNetDType::BF16 => &["bf16", "bfloat16"],
            BitNetDType::I64 => &["i64", "int64", "long"],
            BitNetDType::I32 => &["i32", "int32", "int"],
            BitNetDType::I16 => &["i16", "int16", "short"],
            BitNetDType::I8 => &["i8", "int8"],
            BitNetDType::I4 => &["i4", "int4"],
            BitNetDType::U64 => &["u64", "uint64"],
            BitNetDType::U32 => &["u32", "uint32"],
            BitNetDType::U16 => &["u16", "uint16"],
            BitNetDType::U8 => &["u8", "uint8", "byte"],
            BitNetDType::Bool => &["bool", "boolean"],
            BitNetDType::BitNet158 => &["bitnet158", "bitnet1.58", "b1.58", "ternary"],
            BitNetDType::TernaryBase3 => &["ternary-base3", "ternary_base3", "base3"],
        }
    }

    /// Reports whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, BitNetDType::F64 | BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16)
    }

    /// Reports whether elements are -1, 0 and +1 only.
    pub const fn is_ternary(self) -> bool {
        matches!(self, BitNetDType::BitNet158 | BitNetDType::TernaryBase3)
    }
}

impl fmt::Display for BitNetDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BitNetDType {
    type Err = BitNetError;

    /// Parses any of the [`names`](BitNetDType::names), in any case, with or without `torch.` in front.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let name = lower.strip_prefix("torch.").unwrap_or(&lower);
        BitNetDType::ALL.into_iter().find(|dtype| dtype.names().contains(&name)).ok_or_else(|| {
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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_spelling_names_one_type() {
        let mut seen = HashSet::new();
        for dtype in BitNetDType::ALL {
            assert_eq!(dtype.to_string(), dtype.names()[0]);
            for name in dtype.names() {
                assert!(seen.insert(name), "{name} stands twice");
                assert_eq!(name.parse::<BitNetDType>().unwrap(), dtype);
                assert_eq!(name.to_uppercase().parse::<BitNetDType>().unwrap(), dtype);
            }
        }
        assert_eq!("torch.bfloat16".parse::<BitNetDType>().unwrap(), BitNetDType::BF16);
        let message = "f8".parse::<BitNetDType>().unwrap_err().to_string();
        assert!(
            message.starts_with("data type: expected f64, f32,") && message.ends_with("\"f8\""),
            "{message}"
        );
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(BitNetDType::BitNet158.size_bytes(5), Some(2));
        assert_eq!(BitNetDType::I4.size_bytes(3), Some(2));
        assert_eq!(BitNetDType::F32.size_bytes(3), Some(12));
        assert_eq!(BitNetDType::F32.size_bytes(usize::MAX), None);
        assert_eq!(BitNetDType::BitNet158.size_bytes(usize::MAX), Some(usize::MAX / 4 + 1));
        let base3 = [0, 1, 5, 6, 10, 160, 161].map(|n| BitNetDType::TernaryBase3.size_bytes(n).unwrap());
        assert_eq!(base3, [0, 1, 1, 2, 2, 32, 33]);
        assert_eq!(BitNetDType::TernaryBase3.size_bytes(usize::MAX), Some(usize::MAX / 5));
        assert_eq!(BitNetDType::TernaryBase3.bits_per_element(), 1.6);
        assert_eq!(BitNetDType::BF16.bits_per_element(), 16.0);
    }

    #[test]
    fn elements_begin_at_whole_bytes_or_inside_one() {
        assert_eq!(BitNetDType::F16.byte_offset(7), Some(14));
        assert_eq!(BitNetDType::I4.byte_offset(6), Some(3));
        assert_eq!(BitNetDType::I4.byte_offset(5), None);
        assert_eq!(BitNetDType::TernaryBase3.byte_offset(10), Some(2));
        assert_eq!(BitNetDType::TernaryBase3.byte_offset(8), None);
        assert_eq!(BitNetDType::F64.byte_offset(usize::MAX / 4), None);
        for dtype in BitNetDType::ALL {
            assert_eq!(dtype.element_bytes().is_none(), dtype.is_packed(), "{dtype}");
            let (elements, bytes) = dtype.block();
            assert_eq!(dtype.size_bytes(3 * elements), Some(3 * bytes));
        }
    }
}
