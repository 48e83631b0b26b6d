//! `tokenizer.json` against recorded ids and texts, special tokens in text, and streaming.
#![cfg(feature = "tokenizers")]
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_core::tokenizer::{EncodeOptions, Piece, Tokenizer};
use serde_json::Value;

const PAIRS: &[u8] = include_bytes!("data/tokenizer/tokenizer.json");
const STRINGS: &[u8] = include_bytes!("data/tokenizer/tokenizer_string_merges.json");
const CASES: &[u8] = include_bytes!("data/tokenizer/cases.json");

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WHOLE: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn twins() -> [Tokenizer; 2] {
    [PAIRS, STRINGS].map(|bytes| Tokenizer::from_bytes(bytes, "tokenizer.json").unwrap())
}

fn cases() -> Vec<Value> {
    let cases: Value = serde_json::from_slice(CASES).unwrap();
    cases["bpe"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut stream = tokenizer.stream(skip_special);
    let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

#[test]
fn recorded_cases_hold_for_both_spellings_of_merges() {
    let cases = cases();
    assert_eq!(cases.len(), 20);
    for tokenizer in twins() {
        for case in &cases {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, WHOLE).unwrap(), ids(&case["ids_with_bos"]), "{text:?}");
            assert_eq!(tokenizer.encode(text, PARSED).unwrap(), ids(&case["ids"]), "{text:?}");
            let with_bos = ids(&case["ids_with_bos"]);
            let skipped = case["decoded_skip_special"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&with_bos, true).unwrap(), skipped);
            assert_eq!(streamed(&tokenizer, &with_bos, true), skipped);
            let kept = case["decoded_keep_special"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&ids(&case["ids"]), false).unwrap(), kept);
            assert_eq!(streamed(&tokenizer, &ids(&case["ids"]), false), kept);
        }
    }
}

#[test]
fn vocabulary_questions_are_answered() {
    let [tokenizer, _] = twins();
    assert_eq!(tokenizer.vocab_size(), 320);
    assert_eq!(tokenizer.token_to_id("<|eot_id|>"), Some(319));
    assert_eq!(tokenizer.id_to_token(319).as_deref(), Some("<|eot_id|>"));
    assert_eq!((tokenizer.token_to_id("nothing"), tokenizer.id_to_token(320)), (None, None));
    assert!(tokenizer.is_special(315) && !tokenizer.is_special(314) && !tokenizer.is_special(320));
    let special: Vec<u32> = tokenizer.special_tokens().into_iter().map(|(id, _)| id).collect();
    assert_eq!(special, [315, 316, 317, 318, 319]);
    assert_eq!(tokenizer.prefix_ids(), [315]);
    assert_eq!(tokenizer.decode(&[320, 39, u32::MAX, 72], false).unwrap(), "Hi");
}

#[test]
fn text_cannot_smuggle_special_tokens() {
    for tokenizer in twins() {
        let text = "a<|eot_id|> <|begin_of_text|>b<|eot_id|>";
        let parsed = tokenizer.encode(text, PARSED).unwrap();
        assert_eq!(parsed.iter().filter(|&&id| id >= 315).collect::<Vec<_>>(), [&319, &315, &319]);
        let plain = tokenizer.encode(text, PLAIN).unwrap();
        assert!(plain.iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
        let bos_only = EncodeOptions { add_special: true, parse_special: false };
        let with_bos = tokenizer.encode(text, bos_only).unwrap();
        assert_eq!(with_bos[0], 315);
        assert_eq!(with_bos[1..], plain);
    }
}

#[test]
fn threads_with_different_options_do_not_disturb_each_other() {
    let [tokenizer, _] = twins();
    let text = "x<|eot_id|>y";
    let expected = [tokenizer.encode(text, PLAIN).unwrap(), tokenizer.encode(text, PARSED).unwrap()];
    assert_ne!(expected[0], expected[1]);
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (tokenizer, expected, failed) = (tokenizer.clone(), &expected, &failed);
            scope.spawn(move || {
                for round in 0..300 {
                    let which = (thread + round / 3) % 2;
                    if tokenizer.encode(text, [PLAIN, PARSED][which]).unwrap() != expected[which] {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(!failed.into_inner());
}

#[test]
fn text_is_cut_at_its_special_tokens() {
    let [tokenizer, _] = twins();
    assert_eq!(
        tokenizer.split_special("<|begin_of_text|>User: ä<|eot_id|><|eot_id|>b"),
        [
            Piece::Special(315),
            Piece::Text("User: ä"),
            Piece::Special(319),
            Piece::Special(319),
            Piece::Text("b")
        ]
    );
    assert_eq!(tokenizer.split_special("plain"), [Piece::Text("plain")]);
    assert_eq!(tokenizer.split_special(""), []);
}

#[test]
fn the_stream_never_shows_half_a_character() {
    let [tokenizer, _] = twins();
    let text = "naïve — 😀👍🏽 中文字符 العربية";
    let ids = tokenizer.encode(text, PLAIN).unwrap();
    let mut stream = tokenizer.stream(false);
    let mut shown = String::new();
    for id in ids {
        if let Some(new) = stream.push(id) {
            assert!(!new.is_empty() && !new.contains('\u{fffd}'), "{new:?}");
            shown.push_str(&new);
            assert!(text.starts_with(&shown));
        }
    }
    assert_eq!(shown, text);
    assert_eq!(stream.finish(), "");
}

#[test]
fn the_stream_equals_the_whole_decode_on_any_ids() {
    let [tokenizer, _] = twins();
    let mut state = 12345u32;
    for round in 0..200 {
        let ids: Vec<u32> = (0..round % 41)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Mostly single bytes, so that ill-formed UTF-8 of every kind occurs.
                (state >> 16) % if round % 2 == 0 { 330 } else { 256 }
            })
            .collect();
        for skip in [false, true] {
            assert_eq!(streamed(&tokenizer, &ids, skip), tokenizer.decode(&ids, skip).unwrap(), "{ids:?}");
        }
    }
}

#[test]
fn special_tokens_of_a_loaded_tokenizer_take_the_next_id() {
    let [mut tokenizer, _] = twins();
    let untouched = tokenizer.clone();
    tokenizer.add_special_tokens(&[("<|tool|>", 320), ("<|eot_id|>", 319)]).unwrap();
    assert_eq!(tokenizer.encode("a<|tool|>", PARSED).unwrap(), [64, 320]);
    assert_eq!((tokenizer.vocab_size(), untouched.vocab_size()), (321, 320));
    assert_eq!(untouched.token_to_id("<|tool|>"), None);
    for (token, id, reason) in
        [("<|x|>", 400, "next free id"), ("<|x|>", 3, "belongs to"), ("<|eot_id|>", 7, "has id 319")]
    {
        let error = tokenizer.add_special_tokens(&[(token, id)]).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(token), "{error}");
    }
    assert_eq!(tokenizer.token_to_id("<|x|>"), None);
}
