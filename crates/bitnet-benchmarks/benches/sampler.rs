//! What the choice of a token costs at the vocabulary of Llama 3: `cargo bench -p bitnet-benchmarks --bench sampler`.
//!
//! `peaked` is a row as trained models give them: a bell of unlikely tokens below some tens of likely ones. `flat` is
//! the bell alone, whose nucleus holds a good part of the vocabulary.
#![allow(missing_docs)]

use bitnet_inference::SamplingParams;
use bitnet_inference::sampler::Sampler;
use criterion::{Criterion, criterion_group, criterion_main};

const VOCAB: usize = 128_256;

/// Sums of uniform numbers, with a standard deviation of 2.
fn flat() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..VOCAB).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 2.0).collect()
}

fn peaked() -> Vec<f32> {
    let mut row = flat();
    for rank in 0..50 {
        row[(rank * 2_503 + 11) % VOCAB] = 19.0 - 1.6 * (1.0 + rank as f32).ln();
    }
    row
}

fn choose(c: &mut Criterion) {
    let off = SamplingParams { top_p: 1.0, ..SamplingParams::default() };
    let modes = [
        ("greedy", SamplingParams::greedy()),
        ("temperature", off),
        ("top-k 40", SamplingParams { top_k: 40, ..off }),
        ("top-p 0.95", SamplingParams::default()),
        ("top-k 40, top-p 0.95", SamplingParams { top_k: 40, ..SamplingParams::default() }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..off }),
        ("top-p 0.95, penalty", SamplingParams { repeat_penalty: 1.1, ..SamplingParams::default() }),
    ];
    let history: Vec<u32> = (0..200).map(|i| i * 611).collect();
    for (label, row) in [("peaked", peaked()), ("flat", flat())] {
        let mut group = c.benchmark_group(format!("sampler/{label}"));
        group.sample_size(10).warm_up_time(std::time::Duration::from_millis(200));
        group.measurement_time(std::time::Duration::from_millis(1500));
        for (mode, params) in modes {
            let mut sampler = Sampler::new(params, VOCAB).unwrap_or_else(|error| panic!("{error}"));
            let mut step = 0;
            group.bench_function(mode, |b| {
                b.iter(|| {
                    step += 1;
                    sampler.sample(&row, &history, step).unwrap_or_else(|error| panic!("{error}"))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, choose);
criterion_main!(benches);
