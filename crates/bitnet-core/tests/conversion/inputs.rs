//! Tensors that the tests convert, and their elements as numbers.

use std::sync::Arc;

use bitnet_core::backend::Device;
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, Layout};
use bitnet_core::memory::{Element, HybridMemoryPool};
use half::{bf16, f16};

pub fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

pub fn engine(config: ConversionConfig) -> ConversionEngine {
    ConversionEngine::new(config, pool()).unwrap()
}

pub fn tensor<T: Element>(values: &[T]) -> BitNetTensor {
    BitNetTensor::from_slice(values, &[values.len()], &Device::Cpu, &pool()).unwrap()
}

/// A bell-shaped sequence with a standard deviation of 1, of prime period in each of its terms.
pub fn bell(n: usize) -> Vec<f32> {
    let uniform = |i: usize, period: usize| ((i * 7919 + 13) % period) as f32 / period as f32 - 0.5;
    let value = |i: usize| {
        [251, 1009, 4093, 9973, 8191, 127].map(|p| uniform(i / (p % 7 + 1) + i, p)).iter().sum::<f32>()
    };
    (0..n).map(|i| value(i) * std::f32::consts::SQRT_2).collect()
}

/// The same elements, transposed twice: a `[cols, rows]` view of memory that holds `[rows, cols]`.
pub fn transposed(of: &BitNetTensor, rows: usize, cols: usize) -> BitNetTensor {
    let layout = Layout::strided(vec![cols, rows], vec![1, cols as isize], 0);
    let metadata = of.metadata().relaid(layout);
    BitNetTensor::from_memory(metadata, Arc::clone(of.memory())).unwrap()
}

/// A tensor of `dtype` from its bytes.
pub fn of_bytes(dtype: BitNetDType, len: usize, bytes: &[u8]) -> BitNetTensor {
    let mut out = BitNetTensor::zeros(&[len], dtype, &Device::Cpu, &pool()).unwrap();
    out.as_mut_bytes().unwrap().copy_from_slice(bytes);
    out
}

/// An exact number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Float(f64),
    Integer(i128),
}

impl Number {
    pub fn float(self) -> f64 {
        match self {
            Number::Float(x) => x,
            Number::Integer(x) => x as f64,
        }
    }
}

/// The elements of a tensor, by the definition of its type.
pub fn numbers(tensor: &BitNetTensor) -> Vec<Number> {
    use Number::{Float, Integer};
    let (dtype, bytes) = (tensor.dtype(), tensor.as_bytes().unwrap());
    fn of<const W: usize>(bytes: &[u8], number: impl Fn([u8; W]) -> Number) -> Vec<Number> {
        bytes.as_chunks::<W>().0.iter().map(|&bytes| number(bytes)).collect()
    }
    let packed = |per_byte: usize, code: fn(u8, usize) -> i128| {
        (0..tensor.element_count()).map(|i| Integer(code(bytes[i / per_byte], i % per_byte))).collect()
    };
    match dtype {
        BitNetDType::F64 => of(bytes, |b| Float(f64::from_ne_bytes(b))),
        BitNetDType::F32 => of(bytes, |b| Float(f32::from_ne_bytes(b).into())),
        BitNetDType::F16 => of(bytes, |b| Float(f16::from_ne_bytes(b).into())),
        BitNetDType::BF16 => of(bytes, |b| Float(bf16::from_ne_bytes(b).into())),
        BitNetDType::I64 => of(bytes, |b| Integer(i64::from_ne_bytes(b).into())),
        BitNetDType::I32 => of(bytes, |b| Integer(i32::from_ne_bytes(b).into())),
        BitNetDType::I16 => of(bytes, |b| Integer(i16::from_ne_bytes(b).into())),
        BitNetDType::I8 => of(bytes, |b| Integer(i8::from_ne_bytes(b).into())),
        BitNetDType::U64 => of(bytes, |b| Integer(u64::from_ne_bytes(b).into())),
        BitNetDType::U32 => of(bytes, |b| Integer(u32::from_ne_bytes(b).into())),
        BitNetDType::U16 => of(bytes, |b| Integer(u16::from_ne_bytes(b).into())),
        BitNetDType::U8 | BitNetDType::Bool => of(bytes, |b: [u8; 1]| Integer(b[0].into())),
        BitNetDType::I4 => packed(2, |byte, at| i128::from((byte << (4 - 4 * at)) as i8 >> 4)),
        BitNetDType::BitNet158 => packed(4, |byte, at| i128::from(byte >> (2 * at) & 3) - 1),
        BitNetDType::TernaryBase3 => packed(5, |byte, at| i128::from(byte / 3u8.pow(at as u32) % 3) - 1),
        other => panic!("{other}"),
    }
}

/// Odd values of a type, enough for several blocks, in an order of prime period.
pub fn odd_values(dtype: BitNetDType, len: usize) -> BitNetTensor {
    let at = |i: usize, n: usize| i % 251 * 7919 % 251 % n;
    let doubles: Vec<f64> = {
        let mut out = vec![
            0.0,
            -0.0,
            0.5,
            -0.5,
            1.5,
            2.5,
            -2.5,
            126.5,
            127.5,
            128.5,
            -128.5,
            65_504.0,
            65_519.999_999,
            65_520.0,
            65_535.5,
            1e9,
            -1e9,
            4_294_967_295.4,
            9.3e18,
            -9.3e18,
            1.9e19,
            1e39,
            1e300,
            -1e300,
            1e-300,
            5.9e-8,
            2.98e-8,
            2.980_232_238_769_531_3e-8,
            6.1e-5,
            1.2e-38,
            1e-40,
            1e-46,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            1.0 / 3.0,
            0.1,
            7.5,
            -8.5,
            3.7e4,
        ];
        // Ties of the narrow formats, and the numbers just beside them.
        for tie in
            [1.0 + 2f64.powi(-11), 1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-24), 1.0 + 3.0 * 2f64.powi(-11)]
        {
            out.extend([tie, f64::from_bits(tie.to_bits() + 1), f64::from_bits(tie.to_bits() - 1), -tie]);
        }
        out
    };
    let integers: Vec<i128> = {
        let mut out = vec![0, 1, -1, 2, 7, -8, 8, 127, 128, -128, -129, 255, 256, 257, 2049, 65_519, 65_520];
        for power in [16u32, 24, 31, 32, 53, 63] {
            let power = 1i128 << power;
            out.extend([
                power - 1,
                power,
                power + 1,
                -power,
                1 - power,
                power / 2 + power / 512,
                power + power / 256 + 1,
            ]);
        }
        out.extend([u64::MAX.into(), (1i128 << 63) + (1 << 55), (1i128 << 63) + (1 << 55) + 1]);
        out
    };
    let double = |i: usize| doubles[at(i, doubles.len())];
    let integer = |i: usize| integers[at(i, integers.len())];
    macro_rules! all {
        ($make:expr) => {
            (0..len).flat_map(|i| $make(i).to_ne_bytes()).collect::<Vec<u8>>()
        };
    }
    let bytes = match dtype {
        BitNetDType::F64 => all!(double),
        BitNetDType::F32 => all!(|i| double(i) as f32),
        BitNetDType::F16 => all!(|i: usize| (i as u16).wrapping_mul(7919)),
        BitNetDType::BF16 => all!(|i: usize| (i as u16).wrapping_mul(40_503)),
        BitNetDType::I64 => all!(|i| integer(i) as i64),
        BitNetDType::U64 => all!(|i| integer(i) as u64),
        BitNetDType::I32 => all!(|i| integer(i) as i32),
        BitNetDType::U32 => all!(|i| integer(i) as u32),
        BitNetDType::I16 => all!(|i| integer(i) as i16),
        BitNetDType::U16 => all!(|i| integer(i) as u16),
        BitNetDType::I8 | BitNetDType::U8 => all!(|i: usize| (i % 256) as u8),
        BitNetDType::Bool => all!(|i: usize| (i % 3 % 2) as u8),
        BitNetDType::I4 => all!(|i: usize| (i % 251) as u8),
        BitNetDType::BitNet158 => all!(|i: usize| [0, 1, 4, 16, 64, 0b10_01_00_10][i % 6] as u8),
        _ => all!(|i: usize| (i * 7919 % 243) as u8),
    };
    let size = dtype.size_bytes(len).unwrap();
    let mut bytes = bytes[..size].to_vec();
    clear_tail(dtype, len, &mut bytes);
    of_bytes(dtype, len, &bytes)
}

/// Makes zeros of what the last byte has beyond the tensor.
fn clear_tail(dtype: BitNetDType, len: usize, bytes: &mut [u8]) {
    let Some(last) = bytes.last_mut() else { return };
    let used = len % dtype.block().0;
    if used == 0 {
        return;
    }
    *last = match dtype {
        BitNetDType::I4 => *last & 15,
        BitNetDType::BitNet158 => {
            let mask = (1u8 << (2 * used)) - 1;
            *last & mask | 0b01_01_01_01 & !mask
        }
        BitNetDType::TernaryBase3 => {
            let place = 3u8.pow(used as u32);
            *last % place + (121 / place) * place
        }
        _ => *last,
    };
}
