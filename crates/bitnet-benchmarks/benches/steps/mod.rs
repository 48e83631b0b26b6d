//! What the suites `decode` and `prefill` share.

use bitnet_benchmarks::rounds::{Effort, effort};
use bitnet_benchmarks::shape::Shape;
use bitnet_benchmarks::speed::{Repeated, Settings, measure};
use bitnet_benchmarks::{BenchError, synthetic};
use bitnet_core::backend::BitNetDType;
use bitnet_core::cpu::{HeadPrecision, TernaryLayout};
use criterion::{Criterion, Throughput};

/// Rounds of the figures, after one that is not counted.
const ROUNDS: usize = 3;

/// Times a step of `tokens` tokens after `context` others of the tiny shape, then prints rates and shares of the
/// machine's limits, for a prompt and tokens to decode.
pub fn run(c: &mut Criterion, suite: &str, context: usize, tokens: usize, counts: (usize, usize)) {
    let shape = Shape::by_name("tiny").unwrap_or_else(|| panic!("a shape of this name"));
    let model = synthetic::model(&shape, shape.layers, 1);
    let mut all = Vec::new();
    for threads in [1, 2] {
        for head in [HeadPrecision::Stored, HeadPrecision::Int8, HeadPrecision::Int6] {
            let (kv, layout) = (BitNetDType::F16, TernaryLayout::RowQuarters);
            all.push(Settings { threads, kv, head, layout, isa: None });
        }
    }
    let mut group = c.benchmark_group(format!("{suite}/tiny"));
    group.throughput(Throughput::Elements(tokens as u64));
    for &settings in &all {
        let mut repeated = or_panic(Repeated::new(&model, settings, context, tokens));
        group.bench_function(format!("{:?}/{}", settings.head, settings.threads), |b| {
            b.iter(|| or_panic(repeated.step()));
        });
    }
    group.finish();
    let Some(effort) = effort(suite, std::env::args().skip(1)) else { return };
    for settings in if effort == Effort::Full { &all[..] } else { &all[..1] } {
        let rounds = if effort == Effort::Full { ROUNDS } else { 1 };
        let speed = or_panic(measure(&model, *settings, counts, rounds));
        let (prompt, decode) = counts;
        print!("{:?}/{}", settings.head, settings.threads);
        if decode == 0 {
            println!(
                "  prompt {prompt}: {:.0} tokens/s  {:.1} GOPS  {:.1} GB/s of weights  {:.2} of the compute probe",
                speed.prompt.median, speed.prompt_gops, speed.prompt_gb_per_s, speed.prompt_share
            );
        } else {
            println!(
                "  decode {decode} after {prompt}: {:.0} tokens/s  {:.1} GOPS  {:.1} GB/s  {:.2} of the roofline",
                speed.decode.median, speed.decode_gops, speed.decode_gb_per_s, speed.share
            );
        }
    }
}

fn or_panic<T>(result: Result<T, BenchError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}
