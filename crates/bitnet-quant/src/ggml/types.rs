//! The tensor types of GGUF files: ids, names, and how many bytes so many elements take.

use std::fmt;

use super::GgmlError;

/// A tensor type that this version can decode.
///
/// Files hold the id; an id that is not among these stays a number until somebody needs the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names of the file format")]
pub enum GgmlType {
    /// Binary32.
    F32,
    /// Binary16.
    F16,
    /// 4 bits, one scale for 32.
    Q4_0,
    /// 4 bits, scale and minimum for 32.
    Q4_1,
    /// 5 bits, one scale for 32.
    Q5_0,
    /// 5 bits, scale and minimum for 32.
    Q5_1,
    /// 8 bits, one scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for 16.
    Q2_K,
    /// 3 bits, 6-bit scales for 16.
    Q3_K,
    /// 4 bits, 6-bit scales and minima for 32.
    Q4_K,
    /// 5 bits, 6-bit scales and minima for 32.
    Q5_K,
    /// 6 bits, 8-bit scales for 16.
    Q6_K,
    /// Signed bytes.
    I8,
    /// Signed 32-bit integers.
    I32,
    /// The upper half of binary32.
    BF16,
    /// Ternary, five digits a byte, one scale for 256.
    TQ1_0,
    /// Ternary, two bits, one scale for 256.
    TQ2_0,
    /// Ternary, two bits, one scale behind the whole tensor. The order of elements is not in the file
    /// ([`I2sLayout`]).
    I2_S,
}

use GgmlType::*;

/// Id, name, elements a block, bytes a block.
const TABLE: [(GgmlType, u32, &str, usize, usize); 18] = [
    (F32, 0, "F32", 1, 4),
    (F16, 1, "F16", 1, 2),
    (Q4_0, 2, "Q4_0", 32, 18),
    (Q4_1, 3, "Q4_1", 32, 20),
    (Q5_0, 6, "Q5_0", 32, 22),
    (Q5_1, 7, "Q5_1", 32, 24),
    (Q8_0, 8, "Q8_0", 32, 34),
    (Q2_K, 10, "Q2_K", 256, 84),
    (Q3_K, 11, "Q3_K", 256, 110),
    (Q4_K, 12, "Q4_K", 256, 144),
    (Q5_K, 13, "Q5_K", 256, 176),
    (Q6_K, 14, "Q6_K", 256, 210),
    (I8, 24, "I8", 1, 1),
    (I32, 26, "I32", 1, 4),
    (BF16, 30, "BF16", 1, 2),
    (TQ1_0, 34, "TQ1_0", 256, 54),
    (TQ2_0, 35, "TQ2_0", 256, 66),
    // 64 elements divide the rows of both published orders; the x86 order asks for 128 when it is decoded.
    (I2_S, 36, "I2_S", 64, 16),
];

/// Ids that other programs write and this version names but does not decode.
const OTHER_NAMES: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (25, "I16"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (37, "I8_S"),
    (38, "TL1"),
    (39, "MXFP4 or TL2"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (134, "IQ1_BN"),
    (135, "IQ2_BN"),
];

/// Bytes behind the codes of an I2_S tensor: the scale as f32, then padding.
pub const I2_S_TAIL: usize = 32;

/// The order of elements within an I2_S tensor, which depends on the machine that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sLayout {
    /// Groups of 128 elements in 32 bytes: the order of the published files.
    #[default]
    X86,
    /// Groups of 64 elements in 16 bytes.
    Arm,
}

impl I2sLayout {
    /// Returns the bytes of a group; a group holds four times as many elements.
    pub fn group_bytes(self) -> usize {
        match self {
            I2sLayout::X86 => 32,
            I2sLayout::Arm => 16,
        }
    }
}

/// Returns the name of a type id, known or not.
pub fn type_name(id: u32) -> String {
    let other = || OTHER_NAMES.iter().find(|entry| entry.0 == id).map(|entry| entry.1);
    match GgmlType::from_id(id).map(GgmlType::name).or_else(other) {
        Some(name) => name.to_owned(),
        None => format!("type {id}"),
    }
}

impl GgmlType {
    /// Every type, in the order of ids.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|entry| entry.0)
    }

    /// Finds a type by its id.
    pub fn from_id(id: u32) -> Option<Self> {
        TABLE.iter().find(|entry| entry.1 == id).map(|entry| entry.0)
    }

    fn entry(self) -> &'static (GgmlType, u32, &'static str, usize, usize) {
        // The order of variants is that of the table, as the test below says.
        &TABLE[self as usize]
    }

    /// Returns the id in files.
    pub fn id(self) -> u32 {
        self.entry().1
    }

    /// Returns the name, as `llama.cpp` spells it.
    pub fn name(self) -> &'static str {
        self.entry().2
    }

    /// Returns the elements of a block: rows are whole numbers of blocks.
    pub fn block_len(self) -> usize {
        self.entry().3
    }

    /// Returns the bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.entry().4
    }

    /// Reports whether the type holds ternary codes.
    pub fn is_ternary(self) -> bool {
        matches!(self, TQ1_0 | TQ2_0 | I2_S)
    }

    /// Returns the bytes behind the rows of a tensor.
    pub fn tail_bytes(self) -> usize {
        if self == I2_S { I2_S_TAIL } else { 0 }
    }

    /// Returns the bytes of a row of `cols` elements; `None` for a row that is no whole number of blocks, or
    /// whose size does not fit.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len()).then_some(())?;
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Returns the bytes of a tensor of `rows` rows, its tail included; `None` as in
    /// [`row_bytes`](Self::row_bytes).
    pub fn tensor_bytes(self, rows: usize, cols: usize) -> Option<usize> {
        self.row_bytes(cols)?.checked_mul(rows)?.checked_add(self.tail_bytes())
    }

    /// Checks that `bytes` and `elements` are the same whole number of blocks.
    pub(super) fn check(self, bytes: usize, elements: usize) -> Result<(), GgmlError> {
        let expected = self.row_bytes(elements).ok_or(GgmlError::Elements {
            ty: self,
            block: self.block_len(),
            found: elements,
        })?;
        match bytes == expected {
            true => Ok(()),
            false => Err(GgmlError::Bytes { ty: self, elements, expected, found: bytes }),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_variants() {
        for (index, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.0 as usize, index);
            assert_eq!(GgmlType::from_id(entry.1), Some(entry.0));
            assert_eq!(type_name(entry.1), entry.2);
        }
        assert_eq!((type_name(135), type_name(9999)), ("IQ2_BN".into(), "type 9999".into()));
        assert_eq!(GgmlType::from_id(4), None);
    }

    #[test]
    fn sizes_are_exact_or_refused() {
        assert_eq!(TQ1_0.tensor_bytes(3, 512), Some(3 * 2 * 54));
        assert_eq!(I2_S.tensor_bytes(4, 512), Some(544));
        assert_eq!(TQ2_0.row_bytes(255), None);
        assert_eq!(Q8_0.tensor_bytes(usize::MAX / 8, 32), None);
        assert_eq!(I2_S.tensor_bytes(usize::MAX / 16, 64), None);
        assert_eq!(F32.row_bytes(usize::MAX), None);
    }
}
