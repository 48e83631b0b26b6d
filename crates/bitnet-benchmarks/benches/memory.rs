//! The memory suite: `cargo bench -p bitnet-benchmarks --bench memory --features memory-peers`.
//!
//! `-- space` measures space alone; `-- --test` looks only whether it runs.

use bitnet_benchmarks::memory::{Effort, space, table, times};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--test") {
        print!("{}", table(&times(Effort::Test)));
        return;
    }
    if !args.iter().any(|arg| arg == "space") {
        print!("{}", table(&times(Effort::Measure)));
    }
    let space = space();
    for (size, share) in &space.metadata {
        println!("bookkeeping, blocks of {size} B: {:.3} %", share * 100.0);
    }
    println!("resident above live after churn and compaction: {:.1} %", space.churn_overhead * 100.0);
    println!("purge: {:.1} GB/s", space.purge_rate / 1e9);
}
