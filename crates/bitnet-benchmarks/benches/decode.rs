//! One decoded token of the tiny shape: `cargo bench -p bitnet-benchmarks --bench decode`.
#![allow(missing_docs)]

use bitnet_benchmarks::shape::Shape;
use bitnet_benchmarks::speed::{Settings, runner};
use bitnet_benchmarks::synthetic;
use bitnet_core::backend::{BitNetDType, LogitsWanted};
use bitnet_core::cpu::{HeadPrecision, TernaryLayout};
use bitnet_inference::runner::Feed;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const TOKENS: usize = 1;

fn decode(c: &mut Criterion) {
    let shape = Shape::by_name("tiny").unwrap_or_else(|| panic!("a shape of this name"));
    let model = synthetic::model(&shape, shape.layers, 1);
    let mut group = c.benchmark_group("decode/tiny");
    group.throughput(Throughput::Elements(TOKENS as u64));
    for threads in [1, 2] {
        for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
            let (kv, layout) = (BitNetDType::F16, TernaryLayout::RowQuarters);
            let settings = Settings { threads, kv, head, layout, isa: None };
            let mut runner = runner(&model, settings, 2 * TOKENS).unwrap_or_else(|error| panic!("{error}"));
            let sequence = runner.start();
            group.bench_function(format!("{head:?}/{threads}"), |b| {
                b.iter(|| {
                    let tokens = &[7; TOKENS];
                    runner
                        .truncate(sequence, 0)
                        .and_then(|()| {
                            runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }])
                        })
                        .unwrap_or_else(|error| panic!("{error}"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
