//! An int8 head against the stored one, on the bundled model and its held-out text.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use bitnet_core::cpu::HeadPrecision;
use common::{all_logits, bits, load};

/// Windows of 256 tokens.
const WINDOWS: usize = 16;

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
fn an_int8_head_stays_within_its_divergence() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let mut stored = load(&folder, |b| b.tokenizer(false));
    let mut narrow = load(&folder, |b| b.tokenizer(false).head(HeadPrecision::Int8));
    let vocab = stored.runner().vocab();
    let (mut divergence, mut agreed, mut tokens) = (0.0, 0, 0);
    for window in held_out().chunks_exact(256).take(WINDOWS) {
        let (a, b) = (all_logits(&mut stored, window), all_logits(&mut narrow, window));
        assert_ne!(bits(&a), bits(&b), "the head was not narrowed");
        for (a, b) in a.chunks_exact(vocab).zip(b.chunks_exact(vocab)) {
            let (log_p, log_q) = (log_softmax(a), log_softmax(b));
            divergence += log_p.iter().zip(&log_q).map(|(&p, &q)| p.exp() * (p - q)).sum::<f64>();
            agreed += usize::from(argmax(a) == argmax(b));
            tokens += 1;
        }
    }
    let (mean, share) = (divergence / tokens as f64, agreed as f64 / tokens as f64);
    println!("mean KL {mean:.2e}, top-1 equal {:.3} %, {tokens} tokens", share * 100.0);
    assert!(mean <= 1e-3, "mean KL {mean}");
    // Stricter than the 99.5 % asked for: what may be the greatest logit is computed from the stored rows.
    assert_eq!(agreed, tokens, "the likeliest token changed");
}

#[test]
fn an_int8_head_gives_the_same_bits_for_any_threads_and_tier() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model-fairytales/model");
    let ids = &held_out()[..40];
    let logits = |threads, isa| {
        let set = |b: bitnet_inference::EngineBuilder<'static>| {
            b.tokenizer(false).head(HeadPrecision::Int8).threads(Some(threads)).isa(isa)
        };
        bits(&all_logits(&mut load(&folder, set), ids))
    };
    let expected = logits(1, bitnet_kernels::Isa::Scalar);
    for isa in bitnet_kernels::Isa::available() {
        for threads in [1, 3] {
            assert!(logits(threads, isa) == expected, "{isa}, {threads} threads");
        }
    }
}
