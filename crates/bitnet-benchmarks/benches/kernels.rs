//! Products of the selected tier on one thread: `cargo bench -p bitnet-benchmarks --bench kernels`.
//!
//! Criterion times warm ternary products and heads; billions of operations and of bytes of weights a second, cold ones
//! too, and their share of the machine's limits are printed after them.
#![allow(missing_docs)]

use bitnet_benchmarks::BenchError;
use bitnet_benchmarks::kernels::{Case, Pages, Plan, Product, TOKENS, measure};
use bitnet_benchmarks::rounds::{Effort, effort};
use bitnet_benchmarks::shape::SHAPES;
use bitnet_kernels::Kernels;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows of a head of which criterion times products.
const HEAD_ROWS: usize = 1024;

fn kernels(c: &mut Criterion) {
    let kernels = Kernels::select().unwrap_or_else(|error| panic!("{error}"));
    let effort = effort("kernels", std::env::args().skip(1));
    // As a test: that it works, on little data.
    let shape = SHAPES[if effort == Some(Effort::Smoke) { 3 } else { 0 }];
    for product in Product::ALL {
        let mut group = c.benchmark_group(format!("{}/{}", product.name(), kernels.isa));
        let head = [(HEAD_ROWS, shape.hidden)];
        let (shapes, tokens) =
            if product.is_ternary() { (&shape.products()[..], &TOKENS[..]) } else { (&head[..], &[1][..]) };
        for &(rows, cols) in shapes {
            for &tokens in tokens {
                let case = or_panic(Case::new(product, (rows, cols), tokens, 1, Pages::Huge));
                let mut outputs = case.outputs(1);
                group.throughput(Throughput::Elements(case.operations() as u64));
                group.bench_function(BenchmarkId::new(format!("{rows}x{cols}"), tokens), |b| {
                    b.iter_custom(|count| case.run(kernels, &mut outputs, count as usize).span);
                });
            }
        }
        group.finish();
    }
    let Some(effort) = effort else { return };
    let plan = Plan { shape, products: &Product::ALL, pages: Pages::Huge, threads: &[1], effort };
    or_panic(measure(kernels, &plan, |figure| println!("{figure}  {:.2} of the limit", figure.share)));
}

fn or_panic<T>(result: Result<T, BenchError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

criterion_group!(benches, kernels);
criterion_main!(benches);
