//! One decoded token of the tiny shape after 128 others: `cargo bench -p bitnet-benchmarks --bench decode`.
#![allow(missing_docs)]

mod steps;

use criterion::{Criterion, criterion_group, criterion_main};

fn decode(c: &mut Criterion) {
    steps::run(c, "decode", 128, 1, (128, 64));
}

criterion_group!(benches, decode);
criterion_main!(benches);
