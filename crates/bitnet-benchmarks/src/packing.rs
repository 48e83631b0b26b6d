//! Packing and quantisation, on one thread: what a core packs, unpacks and quantises in a second.
//!
//! Unpacking is set beside moving the same bytes in the same way: outputs that stay in the caches beside a `memcpy`
//! of as many bytes, outputs past the caches beside a probe that reads the packed bytes and writes the output past
//! the caches, in the same pieces. The two alternate, so that a ratio is of the same moments.

use std::hint::black_box;

use bitnet_core::backend::BitNetDType;
use bitnet_kernels::probe::ReadMethod;
use bitnet_kernels::{Isa, Kernels, Pieces};
use bitnet_quant::packing::CHUNK;
use bitnet_quant::prelude::*;

use crate::BenchError;
use crate::rounds::{Effort, Figure, beside};

/// Values that stay in a second-level cache with what they are unpacked from.
pub const CACHED: usize = 16 * CHUNK;
/// Values far past any cache.
pub const COLD: usize = 8192 * CHUNK;
/// Values between two writes of the probe.
const PIECE: usize = CHUNK;

/// Returns the values of a case past the caches.
pub fn cold(effort: Effort) -> usize {
    match effort {
        Effort::Full => COLD,
        Effort::Smoke => 4 * CHUNK,
    }
}

/// Independent ternary weights with a share of zeros and even signs.
pub fn weights(len: usize, zeros: f64) -> Vec<i8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let limit = (zeros * f64::from(u32::MAX)) as u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 20
    };
    (0..len)
        .map(|_| {
            let bits = next();
            if bits & 0xffff_ffff < limit { 0 } else { 1 - 2 * (bits >> 40 & 1) as i8 }
        })
        .collect()
}

fn pack(strategy: TernaryPackingStrategy, weights: &[i8]) -> Result<TernaryPackedWeights, BenchError> {
    Ok(TernaryPackerFactory::create_packer(strategy).pack(weights, &TernaryPackingConfig::default())?)
}

/// Reads packed bytes and gives the same values again and again.
struct Moved<'a> {
    packed: std::slice::Chunks<'a, u8>,
    piece: &'a [i8],
}

impl Pieces for Moved<'_> {
    fn next(&mut self) -> Option<&[i8]> {
        black_box(ReadMethod::Plain.read(self.packed.next()?));
        Some(self.piece)
    }
}

/// Measures unpacking of a strategy by a tier; past the caches where there are [`COLD`] weights.
///
/// # Errors
/// The tier is missing.
pub fn unpacking(
    strategy: TernaryPackingStrategy,
    isa: Isa,
    weights: &[i8],
    effort: Effort,
) -> Result<Figure, BenchError> {
    let kernels = Kernels::for_isa(isa)?;
    let cold = weights.len() > CACHED;
    let packed = pack(strategy, weights)?;
    let unpacker = SimdUnpacker::with_isa(isa)?.with_streaming_from(if cold { 1 } else { usize::MAX });
    let mut out = vec![0i8; weights.len()];
    let mut other = vec![0i8; weights.len()];
    let piece = vec![1i8; PIECE];
    let bytes_of_piece = packed.data().len().div_ceil(weights.len().div_ceil(PIECE).max(1)).max(1);
    let name = format!("{strategy} {isa} {}", if cold { "memory" } else { "cache" });
    beside(
        name,
        weights.len(),
        effort,
        || {
            unpacker.unpack_into(&packed, &mut out)?;
            black_box(&out);
            Ok(())
        },
        || {
            if cold {
                (kernels.flat.stream)(
                    &mut Moved { packed: packed.data().chunks(bytes_of_piece), piece: &piece },
                    &mut other,
                );
            } else {
                other.copy_from_slice(black_box(weights));
            }
            black_box(&other);
        },
    )
}

/// Measures the plainest unpacking of two bits: a weight at a time, codes in the order of the weights.
///
/// # Errors
/// None.
pub fn naive_two_bit(weights: &[i8], effort: Effort) -> Result<Figure, BenchError> {
    let code = |weights: &[i8]| weights.iter().rev().fold(0u8, |byte, &w| byte << 2 | (w + 1) as u8);
    let packed: Vec<u8> = weights.chunks(4).map(code).collect();
    let (mut out, mut other) = (vec![0i8; weights.len()], vec![0i8; weights.len()]);
    beside(
        "2-bit, a weight at a time".into(),
        weights.len(),
        effort,
        || {
            for (i, out) in out.iter_mut().enumerate() {
                *out = (black_box(packed[i / 4]) >> (2 * (i % 4)) & 3) as i8 - 1;
            }
            black_box(&out);
            Ok(())
        },
        || other.copy_from_slice(black_box(weights)),
    )
}

/// Measures packing by a strategy beside reading the weights.
///
/// # Errors
/// None for ternary weights.
pub fn packing(
    strategy: TernaryPackingStrategy,
    weights: &[i8],
    effort: Effort,
) -> Result<Figure, BenchError> {
    let bytes: Vec<u8> = weights.iter().map(|&weight| weight as u8).collect();
    beside(
        strategy.to_string(),
        weights.len(),
        effort,
        || {
            black_box(pack(strategy, weights)?);
            Ok(())
        },
        || {
            black_box(ReadMethod::Plain.read(&bytes));
        },
    )
}

/// Measures absmean quantisation of f32 weights into packed codes, beside reading the weights twice: both passes.
///
/// # Errors
/// None for finite weights.
pub fn absmean_quantisation(rows: usize, cols: usize, effort: Effort) -> Result<Figure, BenchError> {
    let bytes = float_bytes(rows * cols);
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, rows, cols)?;
    beside(
        format!("ternary {rows} x {cols} from f32"),
        rows * cols,
        effort,
        || {
            black_box(absmean::quantize(&matrix)?);
            Ok(())
        },
        || {
            black_box(ReadMethod::Plain.read(&bytes));
            black_box(ReadMethod::Plain.read(&bytes));
        },
    )
}

/// Measures a scheme beside a copy that reads and writes as many bytes: the weights once and the codes once.
///
/// # Errors
/// None for finite weights.
pub fn scheme(
    options: &QuantOptions,
    rows: usize,
    cols: usize,
    effort: Effort,
) -> Result<Figure, BenchError> {
    let bytes = float_bytes(rows * cols);
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, rows, cols)?;
    let mut copy = vec![0u8; moved(options.scheme, rows * cols)];
    beside(
        format!("{} {:?}", options.scheme.name(), options.granularity),
        rows * cols,
        effort,
        || {
            black_box(bitnet_quant::scheme::quantize(&matrix, options)?);
            Ok(())
        },
        || {
            let len = copy.len();
            copy.copy_from_slice(black_box(&bytes[..len]));
            black_box(&copy);
        },
    )
}

/// Measures the way back, into memory that is there, beside the same copy.
///
/// # Errors
/// None for finite weights.
pub fn dequantisation(
    options: &QuantOptions,
    rows: usize,
    cols: usize,
    effort: Effort,
) -> Result<Figure, BenchError> {
    let bytes = float_bytes(rows * cols);
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, rows, cols)?;
    let quantized = bitnet_quant::scheme::quantize(&matrix, options)?;
    let mut out = vec![0f32; rows * cols];
    let mut copy = vec![0u8; moved(options.scheme, rows * cols)];
    beside(
        format!("{} {:?}, back", options.scheme.name(), options.granularity),
        rows * cols,
        effort,
        || {
            quantized.dequantize_into(&mut out)?;
            black_box(&out);
            Ok(())
        },
        || {
            let len = copy.len();
            copy.copy_from_slice(black_box(&bytes[..len]));
            black_box(&copy);
        },
    )
}

/// Bytes of a copy that reads and writes as many as weights in f32 and their codes take together.
fn moved(scheme: Scheme, weights: usize) -> usize {
    weights * (32 + scheme.bits()) / 16
}

fn float_bytes(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| ((i * 7919 % 251) as f32 * 0.01 - 1.25).to_le_bytes()).collect()
}

impl From<PackError> for BenchError {
    fn from(error: PackError) -> Self {
        BenchError::Quant(error.into())
    }
}

impl From<UnpackError> for BenchError {
    fn from(error: UnpackError) -> Self {
        BenchError::Unpack(error)
    }
}

impl From<QuantError> for BenchError {
    fn from(error: QuantError) -> Self {
        BenchError::Quant(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_their_share_of_zeros() {
        let weights = weights(100_000, 0.7);
        let count = |value| weights.iter().filter(|&&weight| weight == value).count() as f64 / 1e5;
        assert!((count(0) - 0.7).abs() < 0.01 && (count(1) - count(-1)).abs() < 0.01);
    }

    #[test]
    fn every_measurement_gives_a_rate_and_a_ratio() {
        let weights = weights(3 * CHUNK + 5, 0.5);
        let mut figures = vec![naive_two_bit(&weights, Effort::Smoke).unwrap()];
        for strategy in TernaryPackingStrategy::ALL {
            figures.push(packing(strategy, &weights, Effort::Smoke).unwrap());
            figures.push(unpacking(strategy, Isa::Scalar, &weights, Effort::Smoke).unwrap());
        }
        figures.push(absmean_quantisation(8, 64, Effort::Smoke).unwrap());
        let options = QuantOptions::new(Scheme::Int8(Symmetry::Symmetric), Granularity::PerChannel);
        figures.push(scheme(&options, 8, 64, Effort::Smoke).unwrap());
        figures.push(dequantisation(&options, 8, 64, Effort::Smoke).unwrap());
        assert!(figures.iter().all(|figure| figure.rate.median > 0.0 && figure.ratio > 0.0), "{figures:?}");
    }
}
