//! Quantisation of f32 weights: `cargo bench -p bitnet-benchmarks --bench quantization_performance`.
#![allow(missing_docs)]

use bitnet_benchmarks::BenchError;
use bitnet_benchmarks::packing::{absmean_quantisation, dequantisation, scheme};
use bitnet_benchmarks::rounds::{Effort, Figure, effort};
use bitnet_quant::prelude::*;

fn main() -> Result<(), BenchError> {
    let Some(effort) = effort("quantization_performance", std::env::args().skip(1)) else { return Ok(()) };
    let (rows, cols) = if effort == Effort::Full { (6912, 2560) } else { (64, 128) };
    println!("billions of weights a second; ternary: the share of reading the f32 weights twice,");
    println!("other schemes: the share of a memcpy that reads and writes as many bytes");
    let show = |figure: &Figure| {
        let (rate, ratio) = (figure.rate, figure.ratio);
        println!("{:<40} {:>7.3} ({:.3}-{:.3})  {:.2}", figure.name, rate.median, rate.min, rate.max, ratio);
    };
    show(&absmean_quantisation(rows, cols, effort)?);
    let symmetric = [Scheme::Int8(Symmetry::Symmetric), Scheme::Int4(Symmetry::Symmetric)];
    let asymmetric = [Scheme::Int8(Symmetry::Asymmetric), Scheme::Int4(Symmetry::Asymmetric)];
    let others = [Scheme::Ternary, Scheme::Sign, Scheme::Fp16, Scheme::Bf16];
    let channel = Granularity::PerChannel;
    for kind in symmetric.into_iter().chain(asymmetric).chain(others) {
        show(&scheme(&QuantOptions::new(kind, channel), rows, cols, effort)?);
        show(&dequantisation(&QuantOptions::new(kind, channel), rows, cols, effort)?);
    }
    for kind in symmetric {
        for granularity in [Granularity::PerTensor, Granularity::PerGroup(64)] {
            show(&scheme(&QuantOptions::new(kind, granularity), rows, cols, effort)?);
        }
    }
    Ok(())
}
