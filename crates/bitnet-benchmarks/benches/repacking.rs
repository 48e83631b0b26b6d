//! Wire layouts of GGUF files into row quarters: `cargo bench -p bitnet-benchmarks --bench repacking`.
//!
//! The matrices of one layer of the 2B-4T shape over and over, into memory that was written before; bytes are those of
//! the result. `RAYON_NUM_THREADS=1` for one thread.
#![allow(missing_docs)]

use std::time::Instant;

use bitnet_benchmarks::packing::{Effort, effort};
use bitnet_kernels::layout::row_quarters;
use bitnet_quant::ggml::{GgmlError, GgmlType, I2sLayout, TernaryRows, TernaryTensor};

const SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];

fn main() -> Result<(), GgmlError> {
    let Some(effort) = effort("repacking", std::env::args().skip(1)) else { return Ok(()) };
    let (rounds, copies) = if effort == Effort::Full { (9, 24) } else { (1, 1) };
    for ty in [GgmlType::I2_S, GgmlType::TQ2_0, GgmlType::TQ1_0] {
        for (rows, cols) in SHAPES {
            let len = row_quarters::packed_len(rows, cols).unwrap_or_default();
            let codes: Vec<u8> =
                (0..len).map(|at| [0x55, 0x24, 0x92, 0x49, 0x18, 0x86, 0x61][at % 7]).collect();
            let encoder = TernaryRows::new(ty, &codes, rows, cols, 0.5)?;
            let mut wire = vec![0; encoder.row_bytes() * rows];
            for (row, out) in wire.chunks_exact_mut(encoder.row_bytes()).enumerate() {
                encoder.encode_row(row, out);
            }
            wire.extend(encoder.tail());
            // Several of each, so that neither side stays in the caches.
            let sources = vec![wire; copies];
            let mut packed = vec![vec![1u8; len]; copies];
            let mut times = Vec::new();
            for _ in 0..rounds {
                let start = Instant::now();
                for (source, packed) in sources.iter().zip(&mut packed) {
                    TernaryTensor::new(ty, I2sLayout::X86, source, rows, cols)?
                        .pack_rows_into(|row| row, packed)?;
                }
                times.push(start.elapsed().as_secs_f64());
            }
            assert!(packed.iter().all(|packed| *packed == codes), "{ty} {rows} x {cols}");
            times.sort_by(f64::total_cmp);
            let rate = |time: f64| (len * copies) as f64 / time / 1e9;
            let (median, best, worst) = (times[rounds / 2], times[0], times[rounds - 1]);
            println!(
                "{ty:<6} {rows:>5} x {cols:<5} {:>6.2} GB/s ({:.2}-{:.2})",
                rate(median),
                rate(worst),
                rate(best)
            );
        }
    }
    Ok(())
}
