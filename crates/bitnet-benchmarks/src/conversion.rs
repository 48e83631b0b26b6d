//! Conversion of large tensors beside a copy of the same bytes.
//!
//! A conversion moves the bytes that each of its passes reads and those that it writes; finding a scale is a pass. The
//! yardstick copies half as many bytes from one place to another, which moves as many, on as many threads. The two
//! alternate, so that a ratio is of the same moments.

use std::hint::black_box;

use bitnet_core::backend::{BitNetDType, Device};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine, ConversionStrategy};
use bitnet_core::memory::tensor::BitNetTensor;

use crate::BenchError;
use crate::rounds::{Effort, Figure, beside};

/// Elements of a tensor far past any cache.
pub const LARGE: usize = 32 << 20;
/// Elements of a tensor that stays in a second-level cache with its result.
pub const CACHED: usize = 64 << 10;

/// One conversion that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Type of the source.
    pub from: BitNetDType,
    /// Type of the result.
    pub to: BitNetDType,
    /// Strategy.
    pub strategy: ConversionStrategy,
    /// Times that the source is read.
    pub passes: usize,
}

use BitNetDType::{BF16, BitNet158, F16, F32, I4, I8, TernaryBase3};
use ConversionStrategy::{Direct, QuantizationAware, Scaled, StochasticRounding};

const fn case(from: BitNetDType, to: BitNetDType, strategy: ConversionStrategy, passes: usize) -> Case {
    Case { from, to, strategy, passes }
}

/// What the suite measures.
pub const CASES: [Case; 18] = [
    case(F32, F16, Direct, 1),
    case(F32, BF16, Direct, 1),
    case(F16, F32, Direct, 1),
    case(BF16, F32, Direct, 1),
    case(F16, BF16, Direct, 1),
    case(BF16, F16, Direct, 1),
    case(F32, I8, Direct, 1),
    case(F32, I8, Scaled, 2),
    case(F32, I4, Scaled, 2),
    case(F32, BitNet158, Scaled, 2),
    case(F32, TernaryBase3, Scaled, 2),
    case(F16, I8, Scaled, 2),
    case(BF16, BitNet158, Scaled, 2),
    case(I8, F32, Direct, 1),
    case(BitNet158, F32, Direct, 1),
    // Computation, not memory, bounds these.
    case(F32, I8, QuantizationAware, 5),
    case(F32, BF16, StochasticRounding, 1),
    case(F32, I8, StochasticRounding, 2),
];

/// Values of a normal-like spread, or codes.
fn source(dtype: BitNetDType, len: usize, pool: &HybridMemoryPool) -> Result<BitNetTensor, BenchError> {
    let value = |i: usize| ((i.wrapping_mul(7919) % 65_521) as f32 / 65_521.0 - 0.5) * 0.1;
    let values: Vec<f32> = (0..len).map(value).collect();
    let wide = BitNetTensor::from_slice(&values, &[len], &Device::Cpu, pool)?;
    let strategy = if dtype.is_float() { Direct } else { Scaled };
    let config = ConversionConfig { preserve_metadata: false, ..ConversionConfig::default() };
    Ok(ConversionEngine::new(config.with_strategy(strategy), pool.clone())?.convert(&wide, dtype)?)
}

/// Copies on one thread, or on all.
fn copy(parallel: bool, from: &[u8], to: &mut [u8]) {
    #[cfg(feature = "parallel")]
    if parallel {
        use rayon::prelude::*;
        let size = from.len().div_ceil(rayon::current_num_threads()).max(1);
        from.par_chunks(size).zip(to.par_chunks_mut(size)).for_each(|(from, to)| to.copy_from_slice(from));
        return;
    }
    let _ = parallel;
    to.copy_from_slice(from);
}

/// Measures one conversion of `len` elements; rates are billions of elements a second.
///
/// # Errors
/// No memory for the tensors.
pub fn conversion(case: Case, len: usize, parallel: bool, effort: Effort) -> Result<Figure, BenchError> {
    let Case { from, to, strategy, passes } = case;
    let pool = HybridMemoryPool::new()?;
    let tensor = source(from, len, &pool)?;
    let config = ConversionConfig { parallel, ..ConversionConfig::default() }.with_strategy(strategy);
    let engine = ConversionEngine::new(config, pool)?;
    let bytes = |dtype: BitNetDType| dtype.size_bytes(len).unwrap_or_default();
    let moved = (passes * bytes(from) + bytes(to)) / 2;
    let (original, mut copied) = (vec![1u8; moved], vec![2u8; moved]);
    let name = format!("{from} to {to}, {strategy}");
    let work = || {
        black_box(engine.convert(&tensor, to)?);
        Ok(())
    };
    beside(name, len, effort, work, || copy(parallel, black_box(&original), black_box(&mut copied)))
}
