//! A prompt of 128 tokens of the tiny shape: `cargo bench -p bitnet-benchmarks --bench prefill`.
#![allow(missing_docs)]

mod steps;

use criterion::{Criterion, criterion_group, criterion_main};

fn prefill(c: &mut Criterion) {
    steps::run(c, "prefill", 0, 128, (128, 0));
}

criterion_group!(benches, prefill);
criterion_main!(benches);
