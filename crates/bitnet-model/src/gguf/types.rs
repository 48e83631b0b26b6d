//! Element types of tensors, as ids on the wire.
//!
//! A type that cannot be decoded keeps its id: its tensor can be listed, and is refused only by who needs
//! its elements.

use std::fmt;

use bitnet_quant::ggml::{GgmlType, type_name};

/// The id of a tensor's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

impl TypeId {
    /// Returns the type, where it is one that can be decoded.
    pub fn known(self) -> Option<GgmlType> {
        GgmlType::from_id(self.0)
    }

    /// Returns the bytes of `rows` rows of `width` elements; `None` inside for a type that is not known.
    ///
    /// # Errors
    /// What the type asks of a shape, in words.
    pub(super) fn bytes(self, width: usize, rows: usize) -> Result<Option<usize>, String> {
        let Some(known) = self.known() else { return Ok(None) };
        let block = known.block_len();
        if !width.is_multiple_of(block) {
            return Err(format!("rows of a multiple of {block} elements"));
        }
        let size = width.checked_mul(rows).and_then(|_| known.tensor_bytes(rows, width));
        size.map(Some).ok_or_else(|| "a size that fits the address space".into())
    }
}

impl From<GgmlType> for TypeId {
    fn from(known: GgmlType) -> Self {
        TypeId(known.id())
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_name(self.0))
    }
}
