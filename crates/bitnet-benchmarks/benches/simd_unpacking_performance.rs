//! Unpacking by every tier: `cargo bench -p bitnet-benchmarks --bench simd_unpacking_performance`.
#![allow(missing_docs)]

use bitnet_benchmarks::BenchError;
use bitnet_benchmarks::packing::{CACHED, cold, naive_two_bit, unpacking, weights};
use bitnet_benchmarks::rounds::{Effort, Figure, effort};
use bitnet_kernels::{Isa, Kernels};
use bitnet_quant::prelude::*;

use TernaryPackingStrategy as S;

fn main() -> Result<(), BenchError> {
    let Some(effort) = effort("simd_unpacking_performance", std::env::args().skip(1)) else { return Ok(()) };
    let best = Kernels::select()?.isa;
    println!("one thread, half of the weights zero; GB/s of i8 output, and the share of");
    println!("memcpy (cache) or of a probe that moves the same bytes the same way (memory)");
    let all = weights(cold(effort), 0.5);
    let cached = &all[..CACHED.min(all.len())];
    let show = |figure: &Figure| {
        let (rate, ratio) = (figure.rate, figure.ratio);
        println!("{:<40} {:>7.2} ({:.2}-{:.2})  {:.2}", figure.name, rate.median, rate.min, rate.max, ratio);
    };
    show(&naive_two_bit(cached, effort)?);
    for strategy in [S::BitPacked2Bit, S::Base3Packed, S::ByteAligned, S::CompressedSparse, S::EntropyCoded] {
        for isa in Isa::available() {
            show(&unpacking(strategy, isa, cached, effort)?);
        }
    }
    // Past the caches the tier matters little; the best one stands for all.
    for strategy in [S::BitPacked2Bit, S::Base3Packed, S::ByteAligned, S::CompressedSparse, S::EntropyCoded] {
        show(&unpacking(strategy, best, &all, effort)?);
        if effort == Effort::Full && best > Isa::Avx2 && Isa::Avx2.missing().is_none() {
            show(&unpacking(strategy, Isa::Avx2, &all, effort)?);
        }
    }
    Ok(())
}
