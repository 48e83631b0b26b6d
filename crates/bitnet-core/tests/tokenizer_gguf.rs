//! Vocabularies of GGUF files against the ids that llama.cpp recorded for them.
#![cfg(feature = "tokenizers")]
#![allow(clippy::unwrap_used)]

mod vocabularies;

use std::path::{Path, PathBuf};

use bitnet_core::tokenizer::{EncodeOptions, Tokenizer, TokenizerError, Vocabulary};
use bitnet_testing::golden_dir;
use proptest::prelude::*;
use serde_json::Value;
use vocabularies::{shared, vocabulary};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

const PARSED: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const WITH_BOS: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

const CASES: &[u8] = include_bytes!("data/tokenizer/cases.json");
const TOKENIZER: &[u8] = include_bytes!("data/tokenizer/tokenizer.json");

/// The vocabulary of a golden model, of Llama 3's kind with 320 tokens.
fn golden(name: &str) -> Vocabulary {
    vocabulary(&golden_dir("gguf").join(name))
}

fn build(vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_vocabulary(vocabulary, "m.gguf")
}

fn cases(kind: &str) -> Vec<(String, Vec<u32>, Vec<u32>)> {
    let file: Value = serde_json::from_slice(CASES).unwrap();
    let ids =
        |value: &Value| value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let cases = file[kind].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    let case = |case: &Value| {
        (case["text"].as_str().unwrap().to_string(), ids(&case["ids"]), ids(&case["ids_with_bos"]))
    };
    cases.iter().map(case).collect()
}

fn load(path: &Path) -> Tokenizer {
    Tokenizer::from_vocabulary(vocabulary(path), &path.display().to_string()).unwrap()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap().to_os_string();
    name.push(end);
    path.with_file_name(name)
}

/// Holds a vocabulary against the texts and ids beside it and returns how many there are.
fn check_recorded(path: &Path) -> usize {
    let tokenizer = load(path);
    let texts = std::fs::read_to_string(beside(path, ".inp")).unwrap();
    let ids = std::fs::read_to_string(beside(path, ".out")).unwrap();
    let mut texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    // Most of these files end with a separator, some with the last text.
    texts.pop_if(|last| last.is_empty());
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    assert_eq!(texts.len(), ids.len());
    let mut failures = Vec::new();
    for (text, ids) in texts.iter().zip(&ids) {
        let found = tokenizer.encode(text, PLAIN).unwrap();
        if found != *ids {
            failures.push(format!("{text:?}: expected {ids:?}, found {found:?}"));
        }
        let decoded = tokenizer.decode(&found, false).unwrap();
        assert_eq!(decoded, *text, "{}", path.display());
        let mut stream = tokenizer.stream(false);
        let mut streamed: String = found.iter().filter_map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, decoded);
    }
    assert!(
        failures.is_empty(),
        "{}: {} of {} differ\n{}",
        path.display(),
        failures.len(),
        ids.len(),
        failures.join("\n")
    );
    ids.len()
}

#[test]
fn every_recorded_case_of_the_shared_vocabularies_is_reproduced() {
    let Some(folder) = shared("vocab") else { return };
    for name in ["llama-bpe", "gpt-2", "falcon", "llama-spm", "phi-3"] {
        assert_eq!(check_recorded(&folder.join(format!("ggml-vocab-{name}.gguf"))), 46, "{name}");
    }
}

/// More vocabularies with recorded cases, such as those in llama.cpp's `models` folder.
#[test]
fn other_vocabularies_are_reproduced() {
    let Some(folder) = std::env::var_os("BITNET_VOCAB_DIR") else {
        eprintln!("SKIPPED: BITNET_VOCAB_DIR names no folder of vocabularies");
        return;
    };
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "gguf") && beside(&path, ".inp").is_file() {
            if let Err(TokenizerError::Unsupported { field, found, .. }) = build(vocabulary(&path)) {
                eprintln!("{}: refused, {field} {found}", path.display());
                assert!(["bert", "t5", "rwkv"].contains(&found.as_str()), "{found}");
                continue;
            }
            let outcome = std::panic::catch_unwind(|| check_recorded(&path));
            eprintln!("{}: {outcome:?}", path.display());
            failed.extend(outcome.is_err().then_some(path));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn golden_files_give_the_ids_of_their_tokenizer_json() {
    let files = ["bitnet_b158-tq2_0.gguf", "llama-f16.gguf", "bitnet_b158-i2_s-x86.gguf"];
    for (name, begins) in files.into_iter().zip([true, true, true]) {
        let tokenizer = build(golden(name)).unwrap();
        assert_eq!(tokenizer.vocab_size(), 320);
        assert_eq!(!tokenizer.prefix_ids().is_empty(), begins, "{name}");
        for (text, ids, with_bos) in cases("bpe") {
            assert_eq!(tokenizer.encode(&text, PARSED).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(&text, WITH_BOS).unwrap(), with_bos, "{name}: {text:?}");
        }
    }
    let tokenizer = build(golden("bitnet_silu-tq2_0.gguf")).unwrap();
    for (text, ids, with_bos) in cases("spm") {
        assert_eq!(tokenizer.encode(&text, PLAIN).unwrap(), ids, "{text:?}");
        let bos = EncodeOptions { add_special: true, parse_special: false };
        assert_eq!(tokenizer.encode(&text, bos).unwrap(), with_bos, "{text:?}");
    }
}

#[test]
fn a_missing_split_rule_is_assumed_aloud() {
    let llama3 = golden("bitnet_b158-i2_s-x86.gguf");
    assert_eq!(llama3.pre, None);
    let [assumption] = llama3.assumptions().try_into().unwrap();
    assert!(assumption.contains("Llama 3") && assumption.contains("llama-bpe"), "{assumption}");
    assert!(golden("bitnet_b158-tq2_0.gguf").assumptions().is_empty());
    // Without Llama 3's tokens the rule is the one that other readers take, which cuts digits differently.
    let other = Vocabulary { bos: None, add_bos: Some(false), ..llama3.clone() };
    let [assumption] = other.assumptions().try_into().unwrap();
    assert!(assumption.contains("`default`"), "{assumption}");
    let mut neox = other.clone();
    neox.tokens[..2].clone_from_slice(&["<|endoftext|>", "<|padding|>"].map(String::from));
    let [assumption] = neox.assumptions().try_into().unwrap();
    assert!(assumption.contains("GPT-NeoX") && assumption.contains("`gpt-2`"), "{assumption}");
    let named = Vocabulary { pre: Some("default".into()), ..other.clone() };
    let (other, named) = (build(other).unwrap(), build(named).unwrap());
    for (text, ..) in cases("bpe") {
        assert_eq!(other.encode(&text, PLAIN).unwrap(), named.encode(&text, PLAIN).unwrap(), "{text:?}");
    }
}

#[test]
fn text_cannot_smuggle_control_tokens() {
    let tokenizer = build(golden("llama-f16.gguf")).unwrap();
    let text = "a<|eot_id|><|begin_of_text|>b";
    let plain = tokenizer.encode(text, PLAIN).unwrap();
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)), "{plain:?}");
    assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
    let parsed = tokenizer.encode(text, PARSED).unwrap();
    assert_eq!(parsed[1..3], [319, 315]);
    assert_eq!(tokenizer.decode(&parsed, true).unwrap(), "ab");
}

#[test]
fn user_defined_tokens_are_cut_out_of_every_text() {
    let mut vocabulary = golden("llama-f16.gguf");
    vocabulary.add_tokens(vec![(320, "the end".into(), false), (321, "<x>".into(), true)]).unwrap();
    let tokenizer = build(vocabulary).unwrap();
    let ids = tokenizer.encode("to the end<x>", PLAIN).unwrap();
    assert!(ids.contains(&320) && !ids.contains(&321), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "to the end<x>");
    assert!(tokenizer.is_special(321) && !tokenizer.is_special(320));
}

#[test]
fn bos_is_added_by_the_file_or_by_its_rule() {
    let with = |pre: &str, add_bos: Option<bool>, bos: Option<u32>| {
        let vocabulary = Vocabulary { pre: Some(pre.into()), add_bos, bos, ..golden("llama-f16.gguf") };
        build(vocabulary).map(|tokenizer| tokenizer.prefix_ids().to_vec())
    };
    assert_eq!(with("llama-bpe", None, Some(315)).unwrap(), [315]);
    assert_eq!(with("gpt-2", None, Some(315)).unwrap(), [0_u32; 0]);
    assert_eq!(with("gpt-2", Some(true), Some(315)).unwrap(), [315]);
    assert_eq!(with("llama-bpe", Some(false), Some(315)).unwrap(), [0_u32; 0]);
    assert_eq!(with("llama-bpe", None, None).unwrap(), [0_u32; 0]);
    assert!(with("llama-bpe", Some(true), None).is_err());
    let both = Vocabulary { add_eos: Some(true), ..golden("llama-f16.gguf") };
    let ids = build(both).unwrap().encode("a", WITH_BOS).unwrap();
    assert_eq!((ids.first(), ids.last()), (Some(&315), Some(&316)));
}

/// As readers of GGUF have it, whatever a file of Gemma 4 says.
#[test]
fn gemma_begins_with_bos_and_takes_runs_of_newlines_whole() {
    let tokens = ["<unk>", "<bos>", "a", "b", "\u{2581}", "ab", "\n", "\n\n", "\n\n\n"].map(str::to_owned);
    let with = |model: &str, pre: Option<&str>| {
        let vocabulary = Vocabulary {
            model: model.into(),
            pre: pre.map(Into::into),
            tokens: tokens.to_vec(),
            token_types: Some(vec![2, 3, 1, 1, 1, 1, 1, 1, 1]),
            merges: Some(vec!["a b".into(), "\n \n".into()]),
            bos: Some(1),
            unknown: Some(0),
            add_bos: Some(false),
            ..Vocabulary::default()
        };
        let tokenizer = build(vocabulary).unwrap();
        move |text: &str| tokenizer.encode(text, WITH_BOS).unwrap()
    };
    for (model, pre) in
        [("gemma4", None), ("gemma4", Some("llama-bpe")), ("gpt2", Some("granite-embed-multi-311m"))]
    {
        let ids = with(model, pre);
        assert_eq!(ids("ab\n\n\nb a"), [1, 5, 8, 3, 4, 2], "{model} {pre:?}");
        assert_eq!((ids("\n\n\n\n"), ids("\n")), (vec![1, 7, 7], vec![1, 6]));
    }
    assert_eq!(with("gpt2", Some("sarvam-moe"))("ab\n\n\n"), [5, 7, 6]);
}

#[test]
fn vocabularies_that_lie_are_refused_by_key() {
    type Change = fn(&mut Vocabulary);
    let lies: [(&str, Change); 10] = [
        ("pre: \"kimi-k2\" is not supported", |v| v.pre = Some("kimi-k2".into())),
        ("merges: expected a list, found nothing", |v| v.merges = None),
        ("merges[1]: expected two tokens with a space", |v| v.merges.as_mut().unwrap()[1] = "he".into()),
        ("merges[1]: expected two tokens with a space", |v| v.merges.as_mut().unwrap()[1] = String::new()),
        ("merges[1]: expected two tokens of the vocabulary, found \"zz\"", |v| {
            v.merges.as_mut().unwrap()[1] = "zz e".into();
        }),
        ("merges[1]: expected a merge whose result is a token", |v| {
            v.merges.as_mut().unwrap()[1] = "z z".into()
        }),
        ("tokens[300]: expected a token of its own, found \"!\", which is token 0", |v| {
            v.tokens[300] = "!".into()
        }),
        ("token_type: expected one entry for each of 320", |v| v.token_types.as_mut().unwrap().truncate(3)),
        ("eos_token_id: expected the id of one of 320 tokens, found 320", |v| v.eos = Some(320)),
        ("model: \"rwkv\" is not supported", |v| v.model = "rwkv".into()),
    ];
    for (expected, change) in lies {
        let mut vocabulary = golden("llama-f16.gguf");
        change(&mut vocabulary);
        let text = build(vocabulary).unwrap_err().to_string();
        assert!(text.starts_with("m.gguf: tokenizer.ggml.") && !text.contains('\n'), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn of_equal_merges_the_first_counts() {
    let mut vocabulary = golden("llama-f16.gguf");
    let merges = vocabulary.merges.as_mut().unwrap();
    let first = merges[0].clone();
    merges.push(first);
    let (doubled, sound) = (build(vocabulary).unwrap(), build(golden("llama-f16.gguf")).unwrap());
    for (text, ..) in cases("bpe") {
        assert_eq!(doubled.encode(&text, PLAIN).unwrap(), sound.encode(&text, PLAIN).unwrap());
    }
}

#[test]
fn every_named_rule_loses_no_text() {
    let names = "default llama-bpe tekken dbrx falcon gpt-2 starcoder qwen2 qwen35 gpt-4o seed-coder bailingmoe \
        deepseek-v3 deepseek-coder deepseek-llm bloom viking minicpm5 glm5 youtu granite-embed-multi-97m chameleon \
        jais-2 ufakzeka laguna exaone-moe tiny_aya superbpe spark2_5 mellum2 talkie";
    for name in names.split_whitespace() {
        let tokenizer = build(Vocabulary { pre: Some(name.into()), ..golden("llama-f16.gguf") }).unwrap();
        for (text, ..) in cases("bpe") {
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
        }
    }
}

/// Rules are told apart by where they cut: pieces that are tokens of their own show it.
#[test]
fn rules_cut_digits_and_spaces_as_their_models_do() {
    let cut = |pre: &str, text: &str| {
        let mut vocabulary = golden("llama-f16.gguf");
        vocabulary.pre = Some(pre.into());
        // Every run of digits or spaces merges to one token, unless the rule cuts it.
        let mut add = |left: &str, right: &str| {
            let token = format!("{left}{right}");
            if !vocabulary.tokens.contains(&token) {
                let id = vocabulary.tokens.len() as u32;
                vocabulary.add_tokens(vec![(id, token, false)]).unwrap();
                vocabulary.token_types.as_mut().unwrap()[id as usize] = 1;
            }
            vocabulary.merges.as_mut().unwrap().push(format!("{left} {right}"));
        };
        for unit in ["1", "\u{120}"] {
            for (whole, left) in (2..8).flat_map(|whole| (1..whole).map(move |left| (whole, left))) {
                add(&unit.repeat(left), &unit.repeat(whole - left));
            }
        }
        let tokenizer = build(vocabulary).unwrap();
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        ids.iter().map(|&id| tokenizer.id_to_token(id).unwrap().chars().count()).collect::<Vec<_>>()
    };
    assert_eq!(cut("llama-bpe", "1111111"), [3, 3, 1]);
    assert_eq!(cut("qwen2", "1111111"), [1; 7]);
    assert_eq!(cut("gpt-2", "1111111"), [7]);
    assert_eq!(cut("tiny_aya", "1111111"), [1, 3, 3]);
    assert_eq!(cut("superbpe", "1111111"), [1, 3, 3]);
    assert_eq!(cut("minicpm5", "1111111"), [3, 3, 1]);
    assert_eq!(cut("youtu", "111"), [1; 3]);
    assert_eq!(cut("spark2_5", "111"), [1; 3]);
    assert_eq!(cut("chameleon", "     "), [4, 1]);
    assert_eq!(cut("jais-2", "     1"), [4, 1, 1]);
    assert_eq!(cut("llama-bpe", "     1"), [4, 1, 1]);
    assert_eq!(cut("jais-2", "      "), [4, 2]);
    assert_eq!(cut("llama-bpe", "      "), [6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_gguf_form_equals_the_tokenizer_json(text in any::<String>(), digits in "[0-9a ']{0,12}") {
        static BOTH: std::sync::LazyLock<[Tokenizer; 2]> = std::sync::LazyLock::new(|| {
            let json = Tokenizer::from_bytes(TOKENIZER, "tokenizer.json").unwrap();
            [json, build(golden("bitnet_b158-tq2_0.gguf")).unwrap()]
        });
        let text = format!("{text}{digits}");
        for options in [PLAIN, PARSED, WITH_BOS] {
            let [json, gguf] = BOTH.each_ref().map(|tokenizer| tokenizer.encode(&text, options).unwrap());
            prop_assert_eq!(&json, &gguf);
            prop_assert_eq!(BOTH[1].decode(&gguf, true).unwrap(), text.clone());
        }
    }
}
