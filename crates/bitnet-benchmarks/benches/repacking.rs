//! What loading makes of weights: `cargo bench -p bitnet-benchmarks --bench repacking`.
//!
//! Ternary types of GGUF files into row quarters, row quarters into row fifths, bf16 rows into narrow ones. The matrices
//! of one layer of the 2B-4T shape over and over, into memory that was written before; bytes are those of row quarters,
//! or of the bf16 rows. On one thread where nothing else is said; `RAYON_NUM_THREADS=1` for one thread everywhere.
#![allow(missing_docs)]

use bitnet_benchmarks::rounds::{Effort, alternate, effort, seconds};
use bitnet_benchmarks::shape::SHAPES;
use bitnet_benchmarks::statistics::Summary;
use bitnet_kernels::layout::{int6_rows, row_fifths, row_quarters};
use bitnet_kernels::{DenseRow, Kernels};
use bitnet_quant::ggml::{GgmlError, GgmlType, I2sLayout, TernaryRows, TernaryTensor};
use half::bf16;

/// Each matrix is there several times, so that neither side stays in the caches.
const COPIES: usize = 24;

/// Measures work on `bytes` bytes and prints its rate.
fn show<E>(
    name: &str,
    (rows, cols): (usize, usize),
    bytes: usize,
    effort: Effort,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let mut timed = || {
        let mut result = Ok(());
        let time = seconds(|| result = work());
        result.map(|()| bytes as f64 / time / 1e9)
    };
    let rate = Summary::of(&alternate(effort.rounds(), &mut [&mut timed])?[0]);
    println!("{name:<20} {rows:>5} x {cols:<5} {:>6.2} GB/s ({:.2}-{:.2})", rate.median, rate.min, rate.max);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Some(effort) = effort("repacking", std::env::args().skip(1)) else { return Ok(()) };
    let copies = if effort == Effort::Full { COPIES } else { 1 };
    for ty in [GgmlType::I2_S, GgmlType::TQ2_0, GgmlType::TQ1_0] {
        for shape in SHAPES[0].products() {
            quarters(ty, shape, copies, effort)?;
        }
    }
    for shape in SHAPES[0].products() {
        fifths(shape, copies, effort);
    }
    narrow((6912, 2560), copies, effort)
}

fn codes(len: usize) -> Vec<u8> {
    (0..len).map(|at| [0x55, 0x24, 0x92, 0x49, 0x18, 0x86, 0x61][at % 7]).collect()
}

/// A type of GGUF files into row quarters, on all threads.
fn quarters(ty: GgmlType, shape: (usize, usize), copies: usize, effort: Effort) -> Result<(), GgmlError> {
    let (rows, cols) = shape;
    let codes = codes(row_quarters::packed_len(rows, cols).unwrap_or_default());
    let encoder = TernaryRows::new(ty, &codes, rows, cols, 0.5)?;
    let mut wire = vec![0; encoder.row_bytes() * rows];
    for (row, out) in wire.chunks_exact_mut(encoder.row_bytes()).enumerate() {
        encoder.encode_row(row, out);
    }
    wire.extend(encoder.tail());
    let sources = vec![wire; copies];
    let mut packed = vec![vec![1u8; codes.len()]; copies];
    show(&format!("{ty}, all threads"), shape, codes.len() * copies, effort, || {
        sources.iter().zip(&mut packed).try_for_each(|(source, packed)| {
            TernaryTensor::new(ty, I2sLayout::X86, source, rows, cols)?.pack_rows_into(|row| row, packed)
        })
    })?;
    assert!(packed.iter().all(|packed| *packed == codes), "{ty} {rows} x {cols}");
    Ok(())
}

/// Row quarters into row fifths.
fn fifths(shape: (usize, usize), copies: usize, effort: Effort) {
    let (rows, cols) = shape;
    let codes = codes(row_quarters::packed_len(rows, cols).unwrap_or_default());
    let mut packed = vec![vec![1u8; row_fifths::packed_len(rows, cols).unwrap_or_default()]; copies];
    let sources = vec![codes; copies];
    let bytes = sources[0].len() * copies;
    let Ok(()) = show::<std::convert::Infallible>("fifths", shape, bytes, effort, || {
        let pairs = sources.iter().zip(&mut packed);
        pairs.for_each(|(source, packed)| row_fifths::repack(source, rows, cols, 0, packed));
        Ok(())
    });
    let unpacked = |packed: &[u8], unpack: fn(&[u8], usize, usize, &mut [i8])| {
        let mut values = vec![0; rows * cols];
        unpack(packed, rows, cols, &mut values);
        values
    };
    assert_eq!(unpacked(&packed[0], row_fifths::unpack), unpacked(&sources[0], row_quarters::unpack));
}

/// Rows of bf16 into narrow ones, as a head is made when it is loaded.
fn narrow(shape: (usize, usize), copies: usize, effort: Effort) -> Result<(), Box<dyn std::error::Error>> {
    let kernels = Kernels::select()?;
    let (rows, cols) = shape;
    let weights: Vec<bf16> =
        (0..rows * cols).map(|i| bf16::from_f32((i * 7919 % 65_521) as f32 / 65_521.0 - 0.5)).collect();
    let sources = vec![weights; copies];
    let (mut wide, mut loose) = (vec![0.0; cols], vec![0i8; cols]);
    for (name, most) in [("i8", i8::MAX), ("i6", int6_rows::MAX_CODE as i8)] {
        let row_bytes = if name == "i8" { cols } else { int6_rows::row_bytes(cols) };
        let mut packed = vec![vec![1u8; rows * row_bytes]; copies];
        let bytes = rows * cols * 2 * copies;
        let Ok(()) = show::<std::convert::Infallible>(name, shape, bytes, effort, || {
            for (source, packed) in sources.iter().zip(&mut packed) {
                for (row, out) in source.chunks_exact(cols).zip(packed.chunks_exact_mut(row_bytes)) {
                    (kernels.widen)(DenseRow::BF16(row), &mut wide);
                    if name == "i8" {
                        (kernels.quantize_row)(&wide, most, bytemuck::cast_slice_mut(out));
                    } else {
                        (kernels.quantize_row)(&wide, most, &mut loose);
                        int6_rows::pack_row(&loose, out);
                    }
                }
            }
            Ok(())
        });
        assert!(packed.iter().all(|copy| *copy == packed[0]), "{name}");
    }
    Ok(())
}
