//! Conversion beside a copy of the same bytes: `cargo bench -p bitnet-benchmarks --bench conversion`.
#![allow(missing_docs)]

use bitnet_benchmarks::BenchError;
use bitnet_benchmarks::conversion::{CACHED, CASES, LARGE, conversion};
use bitnet_benchmarks::rounds::{Effort, effort};
use bitnet_kernels::Kernels;

fn main() -> Result<(), BenchError> {
    let Some(effort) = effort("conversion", std::env::args().skip(1)) else { return Ok(()) };
    let isa = Kernels::select()?.isa;
    let large = if effort == Effort::Full { LARGE } else { CACHED };
    println!("{isa}; billions of elements a second, and the share of a copy of the same bytes");
    for (threads, parallel) in [("one thread", false), ("all cores", true)] {
        for (size, len) in [("large", large), ("cached", CACHED)] {
            if parallel && size == "cached" {
                continue;
            }
            for case in CASES {
                let figure = conversion(case, len, parallel, effort)?;
                println!(
                    "{threads:<10} {size:<6} {:<42} {:>6.2} ({:.2}-{:.2})  {:.2}",
                    figure.name, figure.rate.median, figure.rate.min, figure.rate.max, figure.ratio
                );
            }
        }
    }
    Ok(())
}
