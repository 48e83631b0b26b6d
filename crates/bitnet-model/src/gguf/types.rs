//! Element types of tensors, as ids on the wire.
//!
//! A type that is not known here keeps its id: its tensor can be listed, and is refused only by who needs
//! its elements.

use std::fmt;

/// The id of a tensor's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// Id, name, elements of a block, bytes of a block.
type Row = (u32, &'static str, usize, usize);

/// The types whose size is known. I2_S is not among them: its scale stands once behind all elements.
const TYPES: [Row; 29] = [
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
];

impl TypeId {
    /// 32-bit floats.
    pub const F32: TypeId = TypeId(0);
    /// 16-bit floats.
    pub const F16: TypeId = TypeId(1);
    /// Upper halves of 32-bit floats.
    pub const BF16: TypeId = TypeId(30);
    /// Signed bytes.
    pub const I8: TypeId = TypeId(24);
    /// Ternary, 1.6875 bits, a scale a block.
    pub const TQ1_0: TypeId = TypeId(34);
    /// Ternary, 2.0625 bits, a scale a block.
    pub const TQ2_0: TypeId = TypeId(35);
    /// Ternary, 2 bits, one scale a tensor (bitnet.cpp).
    pub const I2_S: TypeId = TypeId(36);

    /// Returns the elements and bytes of a block; `None` for a type that is not known, and for I2_S.
    pub fn block(self) -> Option<(usize, usize)> {
        TYPES.iter().find(|row| row.0 == self.0).map(|row| (row.2, row.3))
    }

    /// Reports whether the size of a tensor of this type is known.
    pub fn is_known(self) -> bool {
        self == TypeId::I2_S || self.block().is_some()
    }

    /// Returns the bytes of `rows` rows of `width` elements.
    ///
    /// # Errors
    /// What the type asks of a shape, in words; `None` inside for a type that is not known.
    pub(super) fn bytes(self, width: usize, rows: usize) -> Result<Option<usize>, String> {
        const TOO_LARGE: &str = "a size that fits the address space";
        let elements = width.checked_mul(rows).ok_or(TOO_LARGE)?;
        if self == TypeId::I2_S {
            return match elements.is_multiple_of(4) {
                true => (elements / 4).checked_add(I2_S_TAIL).map(Some).ok_or_else(|| TOO_LARGE.into()),
                false => Err("a multiple of 4 elements".into()),
            };
        }
        let Some((block, bytes)) = self.block() else { return Ok(None) };
        if !width.is_multiple_of(block) {
            return Err(format!("rows of a multiple of {block} elements"));
        }
        let size = (elements / block).checked_mul(bytes);
        size.map(Some).ok_or_else(|| TOO_LARGE.into())
    }
}

/// Bytes behind the codes of an I2_S tensor: the scale in the first four.
const I2_S_TAIL: usize = 32;

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            TypeId::I2_S => f.write_str("i2_s"),
            TypeId(id) => match TYPES.iter().find(|row| row.0 == id) {
                Some(row) => f.write_str(row.1),
                None => write!(f, "ggml type {id}"),
            },
        }
    }
}
