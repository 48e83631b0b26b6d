//! Types that a buffer may hold.

use bitnet_backend::BitNetDType;
use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// A plain number: any bit pattern is a value, and zero bytes are zero.
///
/// Sealed; every [`BitNetDType`] with whole-byte elements and no invalid bit patterns has one.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + std::fmt::Debug {
    /// The tensor type with these elements.
    const DTYPE: BitNetDType;
    /// The number one.
    const ONE: Self;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident, $one:expr;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: BitNetDType = BitNetDType::$dtype;
            const ONE: Self = $one;
        }
    )*};
}

elements! {
    f64 => F64, 1.0;
    f32 => F32, 1.0;
    f16 => F16, f16::ONE;
    bf16 => BF16, bf16::ONE;
    i64 => I64, 1;
    i32 => I32, 1;
    i16 => I16, 1;
    i8 => I8, 1;
    u64 => U64, 1;
    u32 => U32, 1;
    u16 => U16, 1;
    u8 => U8, 1;
}
