//! How other systems name the types: safetensors by a word, GGUF by a number, DLPack by three numbers.
//!
//! `None` stands for a type that the other system does not have. Packed types have no place in safetensors files;
//! who stores them writes their bytes and says so beside them.

use super::BitNetDType;

/// An element type of DLPack, with the meaning of its `DLDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DlpackType {
    /// Kind: 0 signed, 1 unsigned, 2 floating point, 4 bfloat, 6 bool.
    pub code: u8,
    /// Bits of one lane.
    pub bits: u8,
    /// Lanes of one element.
    pub lanes: u16,
}

const INT: u8 = 0;
const UINT: u8 = 1;
const FLOAT: u8 = 2;
const BFLOAT: u8 = 4;
const BOOL: u8 = 6;

impl BitNetDType {
    /// Returns the name in the header of a safetensors file.
    pub const fn safetensors_name(self) -> Option<&'static str> {
        Some(match self {
            BitNetDType::F64 => "F64",
            BitNetDType::F32 => "F32",
            BitNetDType::F16 => "F16",
            BitNetDType::BF16 => "BF16",
            BitNetDType::I64 => "I64",
            BitNetDType::I32 => "I32",
            BitNetDType::I16 => "I16",
            BitNetDType::I8 => "I8",
            BitNetDType::U64 => "U64",
            BitNetDType::U32 => "U32",
            BitNetDType::U16 => "U16",
            BitNetDType::U8 => "U8",
            BitNetDType::Bool => "BOOL",
            BitNetDType::I4 | BitNetDType::BitNet158 | BitNetDType::TernaryBase3 => return None,
        })
    }

    /// Returns the type that a safetensors header names, in its own spelling.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        BitNetDType::ALL.into_iter().find(|dtype| dtype.safetensors_name() == Some(name))
    }

    /// Returns the type id in a GGUF file; ternary and quantised types of GGUF are layouts of blocks with scales,
    /// which no element type is.
    pub const fn ggml_type(self) -> Option<u32> {
        Some(match self {
            BitNetDType::F32 => 0,
            BitNetDType::F16 => 1,
            BitNetDType::I8 => 24,
            BitNetDType::I16 => 25,
            BitNetDType::I32 => 26,
            BitNetDType::I64 => 27,
            BitNetDType::F64 => 28,
            BitNetDType::BF16 => 30,
            BitNetDType::I4
            | BitNetDType::U64
            | BitNetDType::U32
            | BitNetDType::U16
            | BitNetDType::U8
            | BitNetDType::Bool
            | BitNetDType::BitNet158
            | BitNetDType::TernaryBase3 => return None,
        })
    }

    /// Returns the type of a GGUF type id.
    pub fn from_ggml_type(id: u32) -> Option<Self> {
        BitNetDType::ALL.into_iter().find(|dtype| dtype.ggml_type() == Some(id))
    }

    /// Returns the type in DLPack; ternary types have none there.
    pub const fn dlpack(self) -> Option<DlpackType> {
        let (code, bits) = match self {
            BitNetDType::F64 => (FLOAT, 64),
            BitNetDType::F32 => (FLOAT, 32),
            BitNetDType::F16 => (FLOAT, 16),
            BitNetDType::BF16 => (BFLOAT, 16),
            BitNetDType::I64 => (INT, 64),
            BitNetDType::I32 => (INT, 32),
            BitNetDType::I16 => (INT, 16),
            BitNetDType::I8 => (INT, 8),
            BitNetDType::I4 => (INT, 4),
            BitNetDType::U64 => (UINT, 64),
            BitNetDType::U32 => (UINT, 32),
            BitNetDType::U16 => (UINT, 16),
            BitNetDType::U8 => (UINT, 8),
            BitNetDType::Bool => (BOOL, 8),
            BitNetDType::BitNet158 | BitNetDType::TernaryBase3 => return None,
        };
        Some(DlpackType { code, bits, lanes: 1 })
    }

    /// Returns the type of a DLPack type.
    pub fn from_dlpack(ty: DlpackType) -> Option<Self> {
        BitNetDType::ALL.into_iter().find(|dtype| dtype.dlpack() == Some(ty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_where_there_is_one() {
        for dtype in BitNetDType::ALL {
            if let Some(name) = dtype.safetensors_name() {
                assert_eq!(BitNetDType::from_safetensors_name(name), Some(dtype));
            }
            if let Some(id) = dtype.ggml_type() {
                assert_eq!(BitNetDType::from_ggml_type(id), Some(dtype));
            }
            if let Some(ty) = dtype.dlpack() {
                assert_eq!(BitNetDType::from_dlpack(ty), Some(dtype));
                assert_eq!(f64::from(ty.bits), dtype.bits_per_element(), "{dtype}");
            }
            assert_eq!(dtype.safetensors_name().is_none(), dtype.is_packed(), "{dtype}");
        }
    }

    #[test]
    fn what_others_have_and_we_do_not_is_none() {
        // Q4_0, I2_S, and ids that GGUF gave up.
        for id in [2, 36, 4, 31, u32::MAX] {
            assert_eq!(BitNetDType::from_ggml_type(id), None);
        }
        assert_eq!(BitNetDType::from_safetensors_name("F8_E4M3"), None);
        assert_eq!(BitNetDType::from_safetensors_name("f32"), None);
        assert_eq!(BitNetDType::from_dlpack(DlpackType { code: FLOAT, bits: 32, lanes: 2 }), None);
        assert_eq!(BitNetDType::from_dlpack(DlpackType { code: 3, bits: 64, lanes: 1 }), None);
    }
}
