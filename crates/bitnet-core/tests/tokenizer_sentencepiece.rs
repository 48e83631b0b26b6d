//! Sentencepiece vocabularies: recorded cases, a naive reference, special tokens, streaming, files that lie.
#![allow(clippy::unwrap_used)]

use bitnet_core::tokenizer::{EncodeOptions, Piece, Tokenizer, TokenizerError, Vocabulary};
use proptest::prelude::*;
use serde_json::Value;

const MODEL: &[u8] = include_bytes!("data/tokenizer/tokenizer.model");
const CASES: &[u8] = include_bytes!("data/tokenizer/cases.json");

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WITH_BOS: EncodeOptions = EncodeOptions { add_special: true, parse_special: false };

fn vocabulary() -> Vocabulary {
    Vocabulary::from_sentencepiece(MODEL, "tokenizer.model").unwrap()
}

fn build(vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_vocabulary(vocabulary, "m.gguf")
}

fn golden() -> Tokenizer {
    Tokenizer::from_sentencepiece(MODEL, "tokenizer.model").unwrap()
}

/// A small vocabulary: `<unk>`, `<s>`, `</s>`, the bytes, then normal tokens with falling scores, then others.
fn small(model: &str, normal: &[&str], others: &[(&str, i32)]) -> Vocabulary {
    let mut vocabulary = Vocabulary {
        model: model.to_string(),
        tokens: ["<unk>", "<s>", "</s>"].map(String::from).to_vec(),
        token_types: Some(vec![2, 3, 3]),
        scores: Some(vec![0.0; 3]),
        ..Vocabulary::default()
    };
    let bytes = (0..=255_u8).map(|byte| (format!("<0x{byte:02X}>"), 6, 0.0));
    let normal = normal.iter().enumerate().map(|(rank, token)| ((*token).to_string(), 1, -(rank as f32)));
    let others = others.iter().map(|&(token, kind)| (token.to_string(), kind, 0.0));
    for (token, kind, score) in bytes.chain(normal).chain(others) {
        vocabulary.tokens.push(token);
        vocabulary.token_types.as_mut().unwrap().push(kind);
        vocabulary.scores.as_mut().unwrap().push(score);
    }
    vocabulary
}

fn spelled(tokenizer: &Tokenizer, text: &str, options: EncodeOptions) -> Vec<String> {
    let ids = tokenizer.encode(text, options).unwrap();
    ids.into_iter().map(|id| tokenizer.id_to_token(id).unwrap()).collect()
}

fn streamed(tokenizer: &Tokenizer, context: &[u32], ids: &[u32], skip: bool) -> String {
    let mut stream = tokenizer.stream(skip).after(context);
    let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

fn failure(vocabulary: Vocabulary) -> String {
    let text = build(vocabulary).unwrap_err().to_string();
    assert!(text.starts_with("m.gguf: ") && !text.contains('\n'), "{text}");
    text
}

#[test]
fn recorded_cases_hold_for_the_model_file_and_for_its_gguf_form() {
    let cases: Value = serde_json::from_slice(CASES).unwrap();
    let cases = cases["spm"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let gguf = build(Vocabulary { model: "llama".into(), ..vocabulary() }).unwrap();
    for tokenizer in [golden(), gguf] {
        assert_eq!((tokenizer.vocab_size(), tokenizer.prefix_ids()), (400, &[1][..]));
        for case in cases {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, PLAIN).unwrap(), ids(&case["ids"]), "{text:?}");
            let with_bos = ids(&case["ids_with_bos"]);
            assert_eq!(tokenizer.encode(text, WITH_BOS).unwrap(), with_bos, "{text:?}");
            let decoded = case["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&with_bos, true).unwrap(), decoded);
            assert_eq!(streamed(&tokenizer, &[], &with_bos, true), decoded);
        }
    }
}

#[test]
fn text_cannot_smuggle_special_tokens() {
    // The merges of the last tokens would spell the control tokens, the unknown one and a byte.
    let parts = ["s", "<", ">", "<s", "/", "u", "n", "k", "un", "unk", "<unk", "0x41>", "▁"];
    for model in ["llama", "sentencepiece"] {
        let tokenizer = build(small(model, &parts, &[])).unwrap();
        let text = "<s><unk><0x41></s>";
        let plain = tokenizer.encode(text, WITH_BOS).unwrap();
        assert_eq!(plain[0], 1);
        assert!(plain[1..].iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
        assert!(!plain.contains(&tokenizer.token_to_id("<0x41>").unwrap()));
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
        let parsed = spelled(&tokenizer, "<s>s</s>", PARSED);
        assert_eq!(parsed, ["<s>", "▁", "s", "</s>"]);
        assert_eq!(
            tokenizer.split_special("<s>s</s>"),
            [Piece::Special(1), Piece::Text("s"), Piece::Special(2)]
        );
        let special: Vec<u32> = tokenizer.special_tokens().into_iter().map(|(id, _)| id).collect();
        assert_eq!(special, [0, 1, 2]);
    }
}

#[test]
fn user_defined_tokens_are_cut_out_first() {
    let parts = ["▁", "a", "b", "ab", "▁a", "▁b", "x"];
    let own = [("ab x", 4), ("ab", 0), ("▁▁", 4)];
    let gguf = build(small("llama", &parts, &own[..1])).unwrap();
    // As llama.cpp: matched in the raw text, and what follows begins anew.
    assert_eq!(spelled(&gguf, "aab xb", PLAIN), ["▁a", "ab x", "▁b"]);
    assert_eq!(gguf.decode(&gguf.encode("aab xb", PLAIN).unwrap(), true).unwrap(), "aab x b");
    // As sentencepiece: matched after spaces are spelled, and what follows goes on.
    let file = build(small("sentencepiece", &parts, &own[2..])).unwrap();
    assert_eq!(spelled(&file, "a  b", PLAIN), ["▁a", "▁▁", "b"]);
    assert_eq!(file.decode(&file.encode("a  b", PLAIN).unwrap(), true).unwrap(), "a  b");
}

#[test]
fn a_space_goes_before_a_text_unless_the_file_says_no() {
    let parts = ["▁", "a", "▁a"];
    let mut vocabulary = small("llama", &parts, &[]);
    let with = build(vocabulary.clone()).unwrap();
    assert_eq!(spelled(&with, "a a", PLAIN), ["▁a", "▁a"]);
    assert!(with.encode("", PLAIN).unwrap().is_empty());
    assert_eq!(with.encode("", WITH_BOS).unwrap(), [1]);
    vocabulary.add_space_prefix = Some(false);
    vocabulary.add_bos = Some(false);
    vocabulary.add_eos = Some(true);
    let without = build(vocabulary).unwrap();
    assert_eq!(spelled(&without, "a a", WITH_BOS), ["a", "▁a", "</s>"]);
    assert_eq!(without.decode(&without.encode(" a", PLAIN).unwrap(), true).unwrap(), " a");
}

#[test]
fn a_continuation_keeps_its_first_space() {
    let tokenizer = golden();
    let ids = tokenizer.encode("hear me", PLAIN).unwrap();
    assert_eq!(streamed(&tokenizer, &[], &ids, true), "hear me");
    assert_eq!(streamed(&tokenizer, &[1], &ids, true), "hear me");
    assert_eq!(streamed(&tokenizer, &[1, 343], &ids, true), " hear me");
}

#[test]
fn scores_decide_and_equal_ones_merge_from_the_left() {
    let tokenizer = build(small("llama", &["▁", "a", "aa", "b", "ab"], &[])).unwrap();
    assert_eq!(spelled(&tokenizer, "aaab", PLAIN), ["▁", "aa", "ab"]);
    let mut equal = small("llama", &["▁", "a", "b", "ab", "ba"], &[]);
    equal.scores.as_mut().unwrap().iter_mut().for_each(|score| *score = -0.0);
    equal.scores.as_mut().unwrap()[262] = 0.0;
    let tokenizer = build(equal).unwrap();
    assert_eq!(spelled(&tokenizer, "abab", PLAIN), ["▁", "ab", "ab"]);
    assert_eq!(spelled(&tokenizer, "baba", PLAIN), ["▁", "ba", "ba"]);
}

#[test]
fn unused_tokens_fall_apart_into_what_made_them() {
    let parts = ["▁", "a", "b", "c", "ab"];
    let tokenizer = build(small("sentencepiece", &parts, &[("abc", 5)])).unwrap();
    assert_eq!(spelled(&tokenizer, "abc", PLAIN), ["▁", "ab", "c"]);
}

#[test]
fn characters_without_tokens_become_bytes_or_unknown() {
    let mut vocabulary = small("llama", &["▁", "a"], &[]);
    let tokenizer = build(vocabulary.clone()).unwrap();
    assert_eq!(spelled(&tokenizer, "é", PLAIN), ["▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.decode(&[3 + 0xc3], false).unwrap(), "\u{fffd}");
    for kind in vocabulary.token_types.as_mut().unwrap().iter_mut().filter(|kind| **kind == 6) {
        *kind = 1;
    }
    let unknown = build(vocabulary.clone()).unwrap();
    assert_eq!(spelled(&unknown, "aéxa é é", PLAIN), ["▁", "a", "<unk>", "a", "▁", "<unk>", "▁", "<unk>"]);
    vocabulary.token_types.as_mut().unwrap()[0] = 1;
    vocabulary.tokens[0] = "none".to_string();
    let error = build(vocabulary).unwrap().encode("aé", PLAIN).unwrap_err();
    assert_eq!(error, TokenizerError::UnknownCharacter { character: 'é', byte: 0xc3 });
}

#[test]
fn special_tokens_take_the_next_id() {
    let mut tokenizer = golden();
    let untouched = tokenizer.clone();
    tokenizer.add_special_tokens(&[("<pad>", 400), ("</line>", 401), ("<s>", 1)]).unwrap();
    assert_eq!((tokenizer.vocab_size(), untouched.vocab_size()), (402, 400));
    assert_eq!(tokenizer.encode("</line><pad>", PARSED).unwrap(), [401, 400]);
    assert!(tokenizer.encode("<pad>", PLAIN).unwrap().iter().all(|&id| id < 400));
    for (token, id, reason) in
        [("<x>", 500, "next free id"), ("<x>", 3, "belongs to"), ("<s>", 7, "has id 1")]
    {
        let error = tokenizer.add_special_tokens(&[(token, id)]).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut vocabulary = vocabulary();
    let line = |id, control| (id, "</line>".to_string(), control);
    vocabulary
        .add_tokens(vec![line(401, false), (400, "<pad>".into(), true), (1, "<s>".into(), true)])
        .unwrap();
    assert_eq!(vocabulary.add_tokens(vec![line(401, true)]), Ok(()));
    assert!(vocabulary.add_tokens(vec![line(9, true)]).unwrap_err().to_string().contains("belongs to"));
    let tokenizer = Tokenizer::from_vocabulary(vocabulary, "m").unwrap();
    assert_eq!((tokenizer.is_special(400), tokenizer.is_special(401)), (true, false));
    assert!(tokenizer.encode("a</line>", PLAIN).unwrap().ends_with(&[401]));
}

#[test]
fn vocabularies_that_lie_are_refused_by_key() {
    let sound = || small("llama", &["▁", "a"], &[]);
    type Change = fn(&mut Vocabulary);
    let lies: [(&str, Change); 13] = [
        ("tokens: expected at least one", |v| v.tokens.clear()),
        ("scores: expected a list, found nothing", |v| v.scores = None),
        ("scores: expected one entry for each of 261", |v| v.scores = Some(vec![0.0])),
        ("token_type: expected one entry for each of 261", |v| v.token_types.as_mut().unwrap().push(1)),
        ("token_type[5]: expected a type from 0 to 6, found -1", |v| v.token_types.as_mut().unwrap()[5] = -1),
        ("scores[4]: expected a number, found NaN", |v| v.scores.as_mut().unwrap()[4] = f32::NAN),
        ("bos_token_id: expected the id of one of 261", |v| v.bos = Some(261)),
        ("padding_token_id: expected the id", |v| v.padding = Some(u32::MAX)),
        ("tokens[260]: expected a token of its own", |v| v.tokens[260] = "▁".into()),
        ("tokens[5]: expected a byte token", |v| v.tokens[5] = "<0xG0>".into()),
        ("bos_token_id: expected the id of the token that add_bos_token", |v| {
            v.tokens[1] = "x".into();
            v.add_bos = Some(true);
        }),
        ("model: \"bert\" is not supported", |v| v.model = "bert".into()),
        ("model: \"rwkv\" is not supported", |v| v.model = "rwkv".into()),
    ];
    build(sound()).unwrap();
    for (expected, change) in lies {
        let mut vocabulary = sound();
        change(&mut vocabulary);
        let text = failure(vocabulary);
        assert!(text.contains(&format!("tokenizer.ggml.{expected}")), "{text}");
    }
}

#[test]
fn types_are_guessed_where_the_file_has_none() {
    let mut vocabulary = Vocabulary { model: "llama".into(), token_types: None, ..vocabulary() };
    vocabulary.eos = Some(2);
    let tokenizer = build(vocabulary).unwrap();
    assert_eq!(tokenizer.special_tokens().len(), 3);
    assert_eq!(tokenizer.encode("é", PLAIN).unwrap(), golden().encode("é", PLAIN).unwrap());
}

#[test]
fn truncated_and_altered_model_files_are_refused_or_read() {
    let mut refused = 0;
    for end in 0..MODEL.len() {
        match Tokenizer::from_sentencepiece(&MODEL[..end], "t.model") {
            Ok(_) => {}
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.starts_with("t.model: ") && !text.contains('\n'), "{text}");
            }
        }
    }
    assert!(refused > MODEL.len() / 2);
    let mut state = 7_u32;
    for _ in 0..3000 {
        let mut bytes = MODEL.to_vec();
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = (state >> 3) as u8;
        }
        if let Ok(tokenizer) = Tokenizer::from_sentencepiece(&bytes, "t.model") {
            let _ = tokenizer.encode("some text, é", PLAIN);
        }
    }
}

#[test]
fn model_files_of_other_kinds_are_refused_by_name() {
    let field = |number: u8, kind: u8| number << 3 | kind;
    let message = |number: u8, body: &[u8]| [&[field(number, 2), body.len() as u8], body].concat();
    let piece = message(1, &[&message(1, b"a")[..], &[field(3, 0), 1]].concat());
    let bpe = message(2, &[field(3, 0), 2]);
    let kept = [field(4, 0), 0];
    let with = |trainer: &[u8], normalizer: &[u8]| [&piece, trainer, &message(3, normalizer)[..]].concat();
    Tokenizer::from_sentencepiece(&with(&bpe, &kept), "t").unwrap();
    let rewritten = message(5, &message(2, b"table"));
    let cases = [
        (with(&message(2, &[field(3, 0), 3]), &kept), "trainer_spec.model_type: \"word\""),
        (with(&message(2, &[field(3, 0), 4]), &kept), "\"char\""),
        (with(&message(2, &[field(3, 0), 2, 0xc0, 1, 1]), &kept), "treat_whitespace_as_suffix"),
        ([with(&bpe, &kept), rewritten].concat(), "denormalizer_spec"),
        (with(&bpe, &[&kept[..], &[field(5, 0), 0]].concat()), "escape_whitespaces"),
    ];
    for (bytes, expected) in cases {
        let error = Tokenizer::from_sentencepiece(&bytes, "t").unwrap_err();
        assert!(matches!(error, TokenizerError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    for bytes in
        [&b""[..], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x00\x01", &[0x80; 40]]
    {
        let error = Tokenizer::from_sentencepiece(bytes, "t").unwrap_err();
        assert!(matches!(error, TokenizerError::Malformed { .. }), "{error}");
    }
}

/// The definition, step by step: the best pair of all, again and again.
fn naive(text: &str, scores: &[(&str, f32)]) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let score = |left: usize| {
            let joint = parts[left].clone() + &parts[left + 1];
            scores.iter().find(|(token, _)| *token == joint).map(|(_, score)| *score)
        };
        let mut best: Option<(usize, f32)> = None;
        for left in 0..parts.len().saturating_sub(1) {
            if let Some(score) = score(left)
                && best.is_none_or(|(_, most)| score > most)
            {
                best = Some((left, score));
            }
        }
        let Some((left, _)) = best else { return parts };
        let right = parts.remove(left + 1);
        parts[left].push_str(&right);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn merging_equals_its_definition(
        text in "[ab ]{0,40}",
        scores in proptest::collection::vec(-3_i8..3, 16),
        crossing in any::<bool>(),
    ) {
        let tokens = ["a", "b", "▁", "aa", "ab", "ba", "bb", "▁a", "▁b", "▁▁", "aab", "abab", "▁ab", "bba", "a▁", "▁a▁b"];
        let count = if crossing { 16 } else { 14 };
        let mut vocabulary = small("llama", &tokens[..count], &[]);
        let scored: Vec<(&str, f32)> = tokens[..count].iter().copied().zip(scores.iter().map(|&s| f32::from(s))).collect();
        vocabulary.scores.as_mut().unwrap()[259..].copy_from_slice(&scored.iter().map(|s| s.1).collect::<Vec<_>>());
        let tokenizer = build(vocabulary).unwrap();
        let expected = if text.is_empty() { Vec::new() } else { naive(&format!(" {text}").replace(' ', "▁"), &scored) };
        prop_assert_eq!(spelled(&tokenizer, &text, PLAIN), expected);
    }

    #[test]
    fn decoding_gives_the_text_back(text in any::<String>()) {
        for tokenizer in [golden(), build(Vocabulary { model: "llama".into(), ..vocabulary() }).unwrap()] {
            // The character that spells a space cannot be told from one.
            let text = text.replace('\u{2581}', "");
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.clone());
            prop_assert_eq!(streamed(&tokenizer, &[], &ids, true), text);
        }
    }
}
