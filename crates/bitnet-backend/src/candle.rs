//! Devices and element types of candle.
//!
//! candle has neither all of our types nor all of our devices, nor we all of its types: what has no counterpart is a
//! typed error, never the next best.

use candle_core::{DType, DeviceLocation};

use crate::{BitNetDType, BitNetError, Device};

impl From<&candle_core::Device> for Device {
    fn from(device: &candle_core::Device) -> Self {
        match device.location() {
            DeviceLocation::Cpu => Device::Cpu,
            DeviceLocation::Cuda { gpu_id } => Device::Cuda(gpu_id),
            DeviceLocation::Metal { gpu_id } => Device::Metal(gpu_id),
        }
    }
}

impl TryFrom<DType> for BitNetDType {
    type Error = BitNetError;

    fn try_from(dtype: DType) -> Result<Self, BitNetError> {
        Ok(match dtype {
            DType::U8 => BitNetDType::U8,
            DType::U32 => BitNetDType::U32,
            DType::I16 => BitNetDType::I16,
            DType::I32 => BitNetDType::I32,
            DType::I64 => BitNetDType::I64,
            DType::BF16 => BitNetDType::BF16,
            DType::F16 => BitNetDType::F16,
            DType::F32 => BitNetDType::F32,
            DType::F64 => BitNetDType::F64,
            // Floats of 8 bits and fewer, and what later versions add.
            _ => {
                let expected = "u8, u32, i16, i32, i64, bf16, f16, f32 or f64";
                return Err(BitNetError::mismatch("candle's data type", expected, dtype.as_str()));
            }
        })
    }
}

impl TryFrom<BitNetDType> for DType {
    type Error = BitNetError;

    fn try_from(dtype: BitNetDType) -> Result<Self, BitNetError> {
        Ok(match dtype {
            BitNetDType::U8 => DType::U8,
            BitNetDType::U32 => DType::U32,
            BitNetDType::I16 => DType::I16,
            BitNetDType::I32 => DType::I32,
            BitNetDType::I64 => DType::I64,
            BitNetDType::BF16 => DType::BF16,
            BitNetDType::F16 => DType::F16,
            BitNetDType::F32 => DType::F32,
            BitNetDType::F64 => DType::F64,
            BitNetDType::I8
            | BitNetDType::I4
            | BitNetDType::U64
            | BitNetDType::U16
            | BitNetDType::Bool
            | BitNetDType::BitNet158
            | BitNetDType::TernaryBase3 => {
                let expected = "one that candle has: u8, u32, i16, i32, i64, bf16, f16, f32 or f64";
                return Err(BitNetError::mismatch("data type", expected, dtype));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_both_have_round_trip_and_others_are_refused() {
        let mut shared = 0;
        for dtype in BitNetDType::ALL {
            if let Ok(theirs) = DType::try_from(dtype) {
                assert_eq!(BitNetDType::try_from(theirs).unwrap(), dtype);
                assert_eq!(Some(theirs.size_in_bytes()), dtype.element_bytes());
                shared += 1;
            }
        }
        assert_eq!(shared, 9);
        let error = DType::try_from(BitNetDType::BitNet158).unwrap_err().to_string();
        assert!(error.ends_with("found bitnet158"), "{error}");
        assert!(BitNetDType::try_from(DType::F8E4M3).unwrap_err().to_string().ends_with("found f8e4m3"));
    }

    #[test]
    fn the_cpu_of_candle_is_ours() {
        assert_eq!(Device::from(&candle_core::Device::Cpu), Device::Cpu);
    }
}
