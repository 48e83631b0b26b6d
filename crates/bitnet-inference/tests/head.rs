//! Narrow heads against the stored one, on the bundled model and its held-out text.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use bitnet_core::backend::LogitsWanted;
use bitnet_core::cpu::HeadPrecision;
use bitnet_inference::runner::Feed;
use common::{all_logits, bits, load};

/// Windows of 256 tokens: more than 10,000 places.
const WINDOWS: usize = 40;

/// Narrow heads, with what their mean divergence from the stored one may be.
const NARROW: [(HeadPrecision, f64); 2] = [(HeadPrecision::Int8, 1e-3), (HeadPrecision::Int6, 1e-3)];

fn held_out() -> Vec<u32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/eval/valid.u16");
    let bytes = std::fs::read(path).unwrap();
    bytes.as_chunks::<2>().0.iter().map(|&pair| u32::from(u16::from_le_bytes(pair))).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
    logits.iter().map(|&l| f64::from(l - max) - sum.ln()).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

#[test]
fn narrow_heads_stay_within_their_divergence() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let mut stored = load(&folder, |b| b.tokenizer(false));
    let vocab = stored.runner().vocab();
    let text = held_out();
    let windows = || text.chunks_exact(256).take(WINDOWS);
    let reference: Vec<_> = windows().map(|window| all_logits(&mut stored, window)).collect();
    for (head, most) in NARROW {
        let mut narrow = load(&folder, |b| b.tokenizer(false).head(head));
        let (mut divergence, mut agreed, mut tokens) = (0.0, 0, 0);
        for (window, a) in windows().zip(&reference) {
            let b = all_logits(&mut narrow, window);
            assert_ne!(bits(a), bits(&b), "the head was not narrowed");
            for (a, b) in a.chunks_exact(vocab).zip(b.chunks_exact(vocab)) {
                let (log_p, log_q) = (log_softmax(a), log_softmax(b));
                divergence += log_p.iter().zip(&log_q).map(|(&p, &q)| p.exp() * (p - q)).sum::<f64>();
                let (top_a, top_b) = (argmax(a), argmax(b));
                agreed += usize::from(top_a == top_b);
                // It was computed from the stored row.
                assert_eq!(a[top_a].to_bits(), b[top_a].to_bits(), "{head:?}");
                tokens += 1;
            }
        }
        let (mean, share) = (divergence / tokens as f64, agreed as f64 / tokens as f64);
        println!("{head:?}: mean KL {mean:.2e}, top-1 equal {:.3} %, {tokens} tokens", share * 100.0);
        assert!(mean <= most, "{head:?}: mean KL {mean}");
        // Stricter than the 99.5 % asked for: what may be the greatest logit is computed from the stored rows.
        assert_eq!(agreed, tokens, "{head:?}: the likeliest token changed");
    }
}

#[test]
fn greedy_texts_of_narrow_heads_are_those_of_the_stored_one() {
    const TEXTS: usize = 25;
    const TOKENS: usize = 400;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let text = held_out();
    let greedy = |head| -> Vec<Vec<u32>> {
        let mut engine = load(&folder, |b| b.tokenizer(false).head(head));
        let runner = engine.runner();
        let mut texts: Vec<Vec<u32>> = text.chunks_exact(100).take(TEXTS).map(|t| t[..5].to_vec()).collect();
        let sequences: Vec<_> = texts.iter().map(|_| runner.start()).collect();
        let mut fed = 0;
        for _ in 0..TOKENS {
            let feed = |(&sequence, text)| Feed { sequence, tokens: text, logits: LogitsWanted::Last };
            let feeds: Vec<_> =
                sequences.iter().zip(texts.iter().map(|text| &text[fed..])).map(feed).collect();
            runner.forward(&feeds).unwrap();
            fed = texts[0].len();
            let vocab = runner.vocab();
            for (text, logits) in texts.iter_mut().zip(runner.logits().unwrap().chunks_exact(vocab)) {
                text.push(argmax(logits) as u32);
            }
        }
        texts
    };
    let stored = greedy(HeadPrecision::Stored);
    for (head, _) in NARROW {
        assert!(greedy(head) == stored, "{head:?}");
    }
}

#[test]
fn narrow_heads_give_the_same_bits_for_any_threads_and_tier() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let ids = &held_out()[..40];
    for (head, _) in NARROW {
        let logits = |threads, isa| {
            let set = |b: bitnet_inference::EngineBuilder<'static>| {
                b.tokenizer(false).head(head).threads(Some(threads)).isa(isa)
            };
            bits(&all_logits(&mut load(&folder, set), ids))
        };
        let expected = logits(1, bitnet_kernels::Isa::Scalar);
        for isa in bitnet_kernels::Isa::available() {
            for threads in [1, 3] {
                assert!(logits(threads, isa) == expected, "{head:?}, {isa}, {threads} threads");
            }
        }
    }
}
