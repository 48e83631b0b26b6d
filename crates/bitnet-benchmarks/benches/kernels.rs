//! Ternary products of the selected tier, warm: `cargo bench -p bitnet-benchmarks --bench kernels`.
#![allow(missing_docs)]

use bitnet_benchmarks::kernels::{Case, SHAPES, TOKENS};
use bitnet_kernels::Kernels;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn kernels(c: &mut Criterion) {
    let kernels = Kernels::select().unwrap_or_else(|error| panic!("{error}"));
    let mut group = c.benchmark_group(format!("ternary-i8/{}", kernels.isa));
    for (rows, cols) in SHAPES {
        for tokens in TOKENS {
            let mut case = Case::new(rows, cols, tokens, 1);
            group.throughput(Throughput::Elements(case.operations() as u64));
            group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), tokens), |b| {
                b.iter(|| case.run(kernels));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
