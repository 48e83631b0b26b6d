//! Sizes, packing and unpacking of every strategy: `cargo bench -p bitnet-benchmarks --bench packing_performance`.
#![allow(missing_docs)]

use bitnet_benchmarks::BenchError;
use bitnet_benchmarks::packing::{CACHED, packing, unpacking, weights};
use bitnet_benchmarks::rounds::{Effort, effort};
use bitnet_kernels::Kernels;
use bitnet_quant::prelude::*;

fn main() -> Result<(), BenchError> {
    let Some(effort) = effort("packing_performance", std::env::args().skip(1)) else { return Ok(()) };
    let isa = Kernels::select()?.isa;
    let shares: &[f64] = if effort == Effort::Full { &[1.0 / 3.0, 0.5, 0.7, 0.9, 0.97] } else { &[0.5] };
    println!("one thread, {isa}; billions of weights a second");
    println!("zeros  strategy       bits   entropy  over it   x i8   x f16   pack   unpack");
    for &zeros in shares {
        let all = weights(if effort == Effort::Full { 4_000_000 } else { CACHED }, zeros);
        for strategy in TernaryPackingStrategy::ALL {
            let packer = TernaryPackerFactory::create_packer(strategy);
            let report = packer.pack(&all, &TernaryPackingConfig::default())?.report();
            let pack = packing(strategy, &all[..CACHED], effort)?;
            let unpack = unpacking(strategy, isa, &all[..CACHED], effort)?;
            println!(
                "{:>5.1} % {:<14} {:.3} {:>7.3} {:>9.4} {:>7.2} {:>7.2} {:>6.2} {:>7.2}",
                100.0 * report.zero_fraction,
                strategy.name(),
                report.bits_per_weight,
                report.entropy_bits,
                report.bits_per_weight / report.entropy_bits,
                report.ratio_i8,
                report.ratio_f16,
                pack.rate.median,
                unpack.rate.median,
            );
        }
        let chosen = TernaryPackerFactory::auto_select_strategy(&all, &TernaryPackingConfig::default());
        println!("        selected: {chosen}");
    }
    Ok(())
}
