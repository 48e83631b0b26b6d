//! Logits and text are the same bits for any threads, chunks, batch and tier.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use bitnet_core::backend::LogitsWanted;
use bitnet_core::cpu::TernaryLayout;
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::runner::Feed;
use bitnet_inference::{Engine, EngineBuilder, GenerateOptions, SamplingParams};
use bitnet_kernels::Isa;
use bitnet_testing::golden::{GOLDEN_MODELS, golden_dir};
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, rng::Rng, shapes, temp::TempDir};
use common::{all_logits, bits, load};

/// A small model with grouped heads and long positions, in float and int8 activations.
fn models() -> Vec<(String, TempDir)> {
    let float = ModelShape {
        activation: bitnet_testing::model::Activation::Silu,
        sub_norms: false,
        ..shapes::tiny()
    };
    let float = ModelShape { vocab: 300, layers: 2, max_positions: 512, ..float };
    let int8 = ModelShape { vocab: 300, layers: 2, max_positions: 512, ..shapes::tiny() };
    let make = |label: &str, shape, family| {
        let dir = TempDir::new(label);
        SyntheticModel::new(shape, family, 7).write_folder(dir.path()).unwrap();
        (label.to_string(), dir)
    };
    vec![make("int8", int8, SyntheticFamily::BitNetPacked), make("float", float, SyntheticFamily::TriLm)]
}

fn ids(count: usize) -> Vec<u32> {
    Rng::new(3).token_ids(count, 300)
}

#[test]
fn logits_do_not_depend_on_threads_chunks_tier_or_layout() {
    for (label, dir) in models() {
        let ids = ids(200);
        let expected = bits(&all_logits(&mut load(dir.path(), |b| b.threads(Some(1))), &ids));
        for threads in [2, 3] {
            let found = all_logits(&mut load(dir.path(), |b| b.threads(Some(threads))), &ids);
            assert!(bits(&found) == expected, "{label}: {threads} threads");
        }
        for chunk in [1, 7, 64, 200] {
            let found = all_logits(&mut load(dir.path(), |b| b.step_tokens(chunk)), &ids);
            assert!(bits(&found) == expected, "{label}: chunks of {chunk}");
        }
        for isa in Isa::available() {
            let found = all_logits(&mut load(dir.path(), |b| b.isa(isa)), &ids);
            assert!(bits(&found) == expected, "{label}: {isa}");
            let fifths = |b: EngineBuilder<'static>| b.isa(isa).layout(TernaryLayout::RowFifths);
            let found = all_logits(&mut load(dir.path(), fifths), &ids);
            assert!(bits(&found) == expected, "{label}: {isa}, row fifths");
        }
    }
}

#[test]
fn a_prompt_that_takes_several_passes_is_continued_alike() {
    for (label, dir) in models() {
        for temperature in [0.0, 0.9] {
            let sampling = SamplingParams { temperature, seed: 5, ..SamplingParams::default() };
            let options = GenerateOptions { sampling, max_tokens: Some(8), ..GenerateOptions::default() };
            let continued = |chunk: usize| {
                let mut engine = load(dir.path(), |b| b.step_tokens(chunk));
                engine.generate_ids(&ids(150), &options, |_| {}).unwrap().ids
            };
            assert_eq!(continued(64), continued(256), "{label} at temperature {temperature}");
        }
    }
}

#[test]
fn cached_decode_equals_full_prefix_recompute() {
    for (label, dir) in models() {
        for kv in [BitNetDType::F32, BitNetDType::F16] {
            let ids = ids(150);
            let mut engine = load(dir.path(), |b| b.kv(kv));
            let runner = engine.runner();
            let sequence = runner.start();
            runner.forward(&[Feed { sequence, tokens: &ids[..60], logits: LogitsWanted::None }]).unwrap();
            for at in 60..ids.len() {
                let tokens = &ids[at..=at];
                runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }]).unwrap();
                let cached = bits(runner.logits().unwrap());
                if at % 29 == 0 || at == 63 || at == 64 {
                    let whole = runner.start();
                    for chunk in ids[..=at].chunks(128) {
                        runner
                            .forward(&[Feed { sequence: whole, tokens: chunk, logits: LogitsWanted::Last }])
                            .unwrap();
                    }
                    assert!(bits(runner.logits().unwrap()) == cached, "{label} {kv}: position {at}");
                    runner.release(whole);
                }
            }
        }
    }
}

#[test]
fn decoding_far_from_the_start_gives_the_same_bits_for_any_threads() {
    for (label, dir) in models() {
        let ids = ids(330);
        let mut engine = load(dir.path(), |b| b.threads(Some(1)));
        let vocab = engine.runner().vocab();
        let expected = bits(&all_logits(&mut engine, &ids));
        for threads in [1, 2, 3] {
            let mut engine = load(dir.path(), |b| b.threads(Some(threads)));
            let runner = engine.runner();
            // One sequence, then two at a time: enough blocks to be shared out one by one.
            let both = [runner.start(), runner.start()];
            for sequence in both {
                for tokens in ids[..320].chunks(100) {
                    runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::None }]).unwrap();
                }
            }
            let feed = |at: usize, index: usize| Feed {
                sequence: both[index],
                tokens: &ids[at..=at],
                logits: LogitsWanted::Last,
            };
            for at in 320..ids.len() {
                let expected = &expected[at * vocab..(at + 1) * vocab];
                if at < 325 {
                    for index in 0..2 {
                        runner.forward(&[feed(at, index)]).unwrap();
                        let found = bits(runner.logits().unwrap());
                        assert!(found == expected, "{label}: {threads} threads, position {at}");
                    }
                } else {
                    runner.forward(&[feed(at, 0), feed(at, 1)]).unwrap();
                    let found = bits(runner.logits().unwrap());
                    let twice = [expected, expected].concat();
                    assert!(found == twice, "{label}: {threads} threads, position {at}, two sequences");
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_depend_on_those_beside_it() {
    for (label, dir) in models() {
        let ids = ids(120);
        let (first, second) = ids.split_at(50);
        let mut engine = load(dir.path(), |b| b);
        let runner = engine.runner();
        let mut alone = Vec::new();
        for tokens in [first, second] {
            let sequence = runner.start();
            runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::Last }]).unwrap();
            alone.push(bits(runner.logits().unwrap()));
            runner.release(sequence);
        }
        // The second sequence starts behind tokens fed before, so that its positions differ from its rows.
        let (a, b) = (runner.start(), runner.start());
        runner.forward(&[Feed { sequence: b, tokens: &second[..13], logits: LogitsWanted::None }]).unwrap();
        let feeds = [
            Feed { sequence: a, tokens: first, logits: LogitsWanted::Last },
            Feed { sequence: b, tokens: &second[13..], logits: LogitsWanted::Last },
        ];
        runner.forward(&feeds).unwrap();
        assert!(bits(runner.logits().unwrap()) == alone.concat(), "{label}");
    }
}

#[test]
fn the_same_seed_gives_the_same_text_whatever_the_threads_or_the_batch() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let options = |seed| GenerateOptions {
        sampling: SamplingParams { seed, temperature: 1.0, ..SamplingParams::default() },
        max_tokens: Some(40),
        ..GenerateOptions::default()
    };
    let mut engine = Engine::builder().threads(Some(1)).load(&dir).unwrap();
    let prompts: Vec<Vec<u32>> =
        (0..5).map(|i| engine.encode(&"Before we proceed"[..3 + 3 * i], false).unwrap()).collect();
    let mut alone = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate() {
        alone.push(engine.generate_ids(prompt, &options(seed as u64), |_| {}).unwrap());
    }
    assert_ne!(alone[0].ids, alone[1].ids);
    let mut engine = Engine::builder().threads(Some(2)).step_tokens(9).load(&dir).unwrap();
    let requests: Vec<_> = prompts.iter().enumerate().map(|(i, p)| (p.clone(), options(i as u64))).collect();
    let together = engine.generate_batch(&requests).unwrap();
    for (alone, together) in alone.iter().zip(together) {
        assert_eq!(
            (&alone.ids, &alone.text, &alone.finish),
            (&together.ids, &together.text, &together.finish)
        );
    }
}

#[test]
fn empty_sequences_change_nothing_beside_them() {
    for (label, dir) in models() {
        let ids = ids(270);
        let mut engine = load(dir.path(), |b| b.threads(Some(1)));
        let vocab = engine.runner().vocab();
        let expected = bits(&all_logits(&mut engine, &ids));
        for threads in [1, 2, 3] {
            let mut engine = load(dir.path(), |b| b.threads(Some(threads)));
            let runner = engine.runner();
            let [first, second, empty] = [(); 3].map(|()| runner.start());
            // Far enough that the blocks of a sequence with one token are computed apart.
            for sequence in [first, second] {
                for tokens in ids[..255].chunks(100) {
                    runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::None }]).unwrap();
                }
            }
            let feed = |sequence, tokens| Feed { sequence, tokens, logits: LogitsWanted::All };
            let none = feed(empty, &[]);
            // As many tokens as sequences, one alone, and one of each sequence that has any.
            let passes = [
                (255..257, vec![feed(first, &ids[255..257]), none]),
                (257..260, vec![none, none, feed(first, &ids[257..260])]),
                (260..261, vec![none, feed(first, &ids[260..261])]),
                (255..256, vec![feed(second, &ids[255..256]), none]),
            ];
            for (range, mut feeds) in passes {
                // A sequence is named once in a step.
                feeds.iter_mut().filter(|feed| feed.tokens.is_empty()).for_each(|feed| {
                    feed.sequence = runner.start();
                });
                runner.forward(&feeds).unwrap();
                let expected = &expected[range.start * vocab..range.end * vocab];
                assert!(bits(runner.logits().unwrap()) == expected, "{label}: {threads} threads, {range:?}");
            }
            runner.forward(&[feed(first, &ids[261..262]), none, feed(second, &ids[256..257])]).unwrap();
            let both = [261, 256].map(|at| &expected[at * vocab..(at + 1) * vocab]).concat();
            assert!(bits(runner.logits().unwrap()) == both, "{label}: {threads} threads, two beside none");
        }
    }
}

#[test]
fn a_released_sequence_stays_unknown() {
    let dir = golden_dir("bitnet_packed");
    let (mut engine, mut other) = (load(&dir, |b| b), load(&dir, |b| b));
    let stale = engine.runner().start();
    engine.runner().release(stale);
    let fresh = engine.runner().start();
    let feed = |sequence| [Feed { sequence, tokens: &[1, 2, 3], logits: LogitsWanted::Last }];
    engine.runner().forward(&feed(fresh)).unwrap();
    assert!(engine.runner().truncate(stale, 0).is_err());
    assert!(engine.runner().forward(&feed(stale)).is_err());
    assert!(other.runner().forward(&feed(fresh)).is_err(), "a sequence of another engine");
    assert_eq!(engine.runner().len(fresh).unwrap(), 3);
}

/// A hash of bits (FNV-1a).
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn logits_are_these_bits_on_every_machine() {
    // Recorded once on x86-64; any processor, operating system and library version has to give the same.
    let recorded = [
        ("bitnet_packed", BitNetDType::F16, PACKED_F16),
        ("llama_rmsnorm_bitlinear", BitNetDType::F32, LLAMA_F32),
    ];
    for (name, kv, expected) in recorded {
        let ids: Vec<u32> = (1..100).map(|i| i * 7919 % 320).collect();
        let found = hash(&all_logits(&mut load(&golden_dir(name), |b| b.kv(kv)), &ids));
        assert_eq!(found, expected, "{name} {kv}: {found:#018x}");
    }
}

const PACKED_F16: u64 = 0x374b_48e7_6041_19c8;
const LLAMA_F32: u64 = 0x7660_b2b2_d893_e932;

#[test]
fn released_blocks_are_used_again_without_a_trace() {
    for name in GOLDEN_MODELS {
        let mut engine = load(&golden_dir(name), |b| b);
        let ids: Vec<u32> = (1..90).collect();
        let before = bits(&all_logits(&mut engine, &ids));
        let kv =
            |engine: &Engine| engine.memory().iter().find(|part| part.part == "kv").map(|part| part.bytes);
        let held = kv(&engine);
        all_logits(&mut engine, &ids.iter().rev().copied().collect::<Vec<_>>());
        assert!(bits(&all_logits(&mut engine, &ids)) == before, "{name}");
        assert_eq!(kv(&engine), held, "{name}: the cache grew");
    }
}
