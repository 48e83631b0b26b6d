//! Tokenizer files that lie, `vocab.json` with `merges.txt`, and pipelines other than byte-level.
#![cfg(feature = "tokenizers")]
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bitnet_core::tokenizer::{
    EncodeOptions, Piece, Tokenizer, TokenizerError, create_bpe_tokenizer, decode_tokens, encode_text,
    load_hf_tokenizer, load_tokenizer,
};
use serde_json::{Value, json};

const GOLDEN: &[u8] = include_bytes!("data/tokenizer/tokenizer.json");
const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn golden() -> Value {
    serde_json::from_slice(GOLDEN).unwrap()
}

fn load(value: &Value) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::from_bytes(value.to_string().as_bytes(), "t.json")
}

/// The message of a load that has to fail: one line that names the file.
fn failure(value: &Value) -> String {
    message(load(value).expect_err("the file lies"))
}

fn message(error: TokenizerError) -> String {
    let text = error.to_string();
    assert!(text.starts_with("t.json: ") && !text.contains('\n'), "{text}");
    text
}

/// A folder of its own, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bitnet-tokenizer-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn truncated_files_fail_at_every_length() {
    let body = GOLDEN.trim_ascii_end();
    for end in (0..body.len()).step_by(37) {
        let error = Tokenizer::from_bytes(&body[..end], "t.json").unwrap_err();
        assert!(matches!(error, TokenizerError::Malformed { .. }), "{end}: {error}");
        message(error);
    }
}

#[test]
fn files_that_are_no_tokenizer_fail() {
    for bytes in [&b""[..], b"GGUF\x03\0\0\0", b"\xff\xfe", b"null", b"[]", b"{}", b"{\"model\":7}"] {
        message(Tokenizer::from_bytes(bytes, "t.json").unwrap_err());
    }
    let deep = "[".repeat(200_000);
    message(Tokenizer::from_bytes(deep.as_bytes(), "t.json").unwrap_err());
    let deep = format!("{{\"decoder\":{}{}}}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    message(Tokenizer::from_bytes(deep.as_bytes(), "t.json").unwrap_err());
    let error = Tokenizer::from_file("no/such/tokenizer.json").unwrap_err();
    assert!(matches!(&error, TokenizerError::Io { path, .. } if path.contains("no/such")), "{error}");
}

#[test]
fn each_field_that_lies_is_named() {
    let cases: [(&str, Value, &str); 17] = [
        ("/version", json!("2.0"), "version"),
        ("/model/merges/0", json!(["e", "never"]), "model.merges[0]"),
        ("/model/merges/1", json!(["Ġ", "Ġt", "h"]), "model.merges[1]"),
        ("/model/merges/1", json!("a b c"), "model.merges[1]"),
        ("/model/merges/1", json!("ab"), "model.merges[1]"),
        ("/model/merges/1", json!(5), "model.merges[1]"),
        ("/model/merges", json!({}), "model.merges"),
        ("/model/vocab/a", json!(-1), "model.vocab[\"a\"]"),
        ("/model/vocab/a", json!(4_294_967_296u64), "model.vocab[\"a\"]"),
        ("/model/vocab/a", json!(65), "twice"),
        ("/model/vocab", json!([]), "model.vocab"),
        ("/model/unk_token", json!("missing"), "model.unk_token"),
        ("/model/byte_fallback", json!("yes"), "model.byte_fallback"),
        ("/added_tokens/4/id", json!(900), "added_tokens: id of \"<|eot_id|>\""),
        ("/added_tokens/0/content", json!(""), "added_tokens[0].content"),
        ("/pre_tokenizer", json!({"type": "Nonsense"}), "pre_tokenizer"),
        ("/decoder", json!([1, 2]), "decoder"),
    ];
    for (pointer, lie, name) in cases {
        let mut file = golden();
        *file.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = lie;
        let text = failure(&file);
        assert!(text.contains(name), "{pointer}: {text}");
    }
}

#[test]
fn a_merge_longer_than_every_entry_is_an_error() {
    let mut file = golden();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    let longest = vocab.keys().max_by_key(|token| token.len()).unwrap().clone();
    file["model"]["merges"] = json!([[longest, longest]]);
    let text = failure(&file);
    assert!(text.contains("model.merges[0]: expected a merge whose result"), "{text}");
}

#[test]
fn training_settings_of_the_file_are_not_applied() {
    let mut file = golden();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    file["model"]["dropout"] = json!(1.0);
    let text = "Before we proceed any further";
    let ids = load(&file).unwrap().encode(text, PLAIN).unwrap();
    assert_eq!(ids, load(&golden()).unwrap().encode(text, PLAIN).unwrap());
}

#[test]
fn hostile_split_patterns_neither_hang_nor_lose_text() {
    let start = std::time::Instant::now();
    for pattern in [r"(a+)+(?!\S)b", r"(?:a|a)*(?=c)\1?", r"(a*)*\1$", "("] {
        let mut file = golden();
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
        match load(&file) {
            Ok(tokenizer) => {
                let text = "a".repeat(2000);
                let ids = tokenizer.encode(&text, PLAIN).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{pattern}");
            }
            Err(error) => assert!(message(error).contains("pre_tokenizer"), "{pattern}"),
        }
    }
    let mut file = golden();
    let nested = format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000));
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(nested);
    assert!(failure(&file).contains("pre_tokenizer"));
    assert!(start.elapsed().as_secs() < 60);
}

#[test]
fn long_runs_keep_their_split() {
    // 200,000 spaces, then words: were the pattern's step limit met, the words would stay unsplit.
    let tokenizer = load(&golden()).unwrap();
    let tail = "\nWe are 12345.";
    let text = format!("{}{tail}", " ".repeat(200_000));
    let ids = tokenizer.encode(&text, PLAIN).unwrap();
    let expected = tokenizer.encode(&tail[1..], PLAIN).unwrap();
    assert!(ids.ends_with(&expected));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
}

fn bpe_folder(name: &str) -> Folder {
    let folder = Folder::new(name);
    let vocab = json!({"h": 0, "e": 1, "l": 2, "o": 3, "Ġ": 4, "w": 5, "r": 6, "d": 7, "he": 8,
        "ll": 9, "hell": 10, "hello": 11, "Ġw": 12, "or": 13, "<|endoftext|>": 14});
    folder.write("vocab.json", vocab.to_string());
    folder.write("merges.txt", "#version: 0.2\nh e\nl l\nhe ll\nhell o\nĠ w\no r\n\n");
    folder
}

#[test]
fn vocabulary_and_merges_make_a_byte_level_tokenizer() {
    let folder = bpe_folder("bpe");
    let tokenizer = create_bpe_tokenizer(folder.0.join("vocab.json"), folder.0.join("merges.txt")).unwrap();
    let ids = encode_text(&tokenizer, "hello world").unwrap();
    assert_eq!(ids, [11, 12, 13, 2, 7]);
    assert_eq!(decode_tokens(&tokenizer, &ids).unwrap(), "hello world");
    assert_eq!(encode_text(&tokenizer, "<|endoftext|>h").unwrap(), [14, 0]);
    assert_eq!(tokenizer.vocab_size(), 15);
    let from_folder = load_tokenizer(&folder.0).unwrap();
    assert_eq!(encode_text(&from_folder, "hello world").unwrap(), ids);
    let error = encode_text(&tokenizer, "hello, world").unwrap_err();
    assert_eq!(error, TokenizerError::UnknownCharacter { character: ',', byte: b',' });
    let error = tokenizer.encode("h<|endoftext|>", PLAIN).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownCharacter { character: '<', .. }), "{error}");
}

#[test]
fn an_unknown_token_takes_what_cannot_be_spelled() {
    let folder = Folder::new("unk");
    let vocab = folder.write("vocab.json", r#"{"a": 0, "<unk>": 1}"#);
    let merges = folder.write("merges.txt", "");
    let tokenizer = create_bpe_tokenizer(vocab, merges).unwrap();
    assert_eq!(encode_text(&tokenizer, "aza").unwrap(), [0, 1, 0]);
}

#[test]
fn merges_files_that_lie_name_their_line() {
    let folder = bpe_folder("lies");
    for (text, name) in [
        ("h e\nl z\n", "line 2: "),
        ("h e\nhe\n", "line 2: "),
        ("h e l\n", "line 1: "),
        ("h l\n", "line 1: "),
        ("#version: 0.2\nh e\n#version: 0.2\n", "line 3: "),
    ] {
        let merges = folder.write("merges.txt", text);
        let error = create_bpe_tokenizer(folder.0.join("vocab.json"), &merges).unwrap_err().to_string();
        assert!(error.contains("merges.txt: ") && error.contains(name), "{error}");
    }
    let merges = folder.write("merges.txt", b"\xff\xfe");
    assert!(create_bpe_tokenizer(folder.0.join("vocab.json"), merges).is_err());
}

#[test]
fn folders_are_searched_for_their_tokenizer() {
    let folder = Folder::new("empty");
    let error = load_tokenizer(&folder.0).unwrap_err().to_string();
    assert!(
        error.contains("expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt"),
        "{error}"
    );
    let file = folder.write("tokenizer.model", include_bytes!("data/tokenizer/tokenizer.model"));
    assert_eq!(load_tokenizer(&folder.0).unwrap().vocab_size(), 400);
    assert_eq!(load_tokenizer(&file).unwrap().vocab_size(), 400);
    let file = folder.write("tokenizer.json", GOLDEN);
    assert_eq!(load_tokenizer(&folder.0).unwrap().vocab_size(), 320);
    assert_eq!(load_hf_tokenizer(&file).unwrap().vocab_size(), 320);
}

/// A pipeline of the sentencepiece kind: metaspace, byte fallback, one leading space stripped.
fn sentencepiece_like() -> Tokenizer {
    let mut vocab = json!({"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5});
    for byte in 0..=255u32 {
        vocab[format!("<0x{byte:02X}>")] = json!(6 + byte);
    }
    load(&json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab,
            "merges": [["▁", "a"]]}
    }))
    .unwrap()
}

#[test]
fn byte_fallback_streams_whole_characters() {
    let tokenizer = sentencepiece_like();
    for text in ["a b  a", "a 😀 b", "中文a", "a é", " a", "😀"] {
        let ids = tokenizer.encode(text, PLAIN).unwrap();
        let whole = tokenizer.decode(&ids, false).unwrap();
        assert_eq!(whole, text);
        let mut stream = tokenizer.stream(false);
        let mut shown: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        assert!(!shown.contains('\u{fffd}'));
        shown.push_str(&stream.finish());
        assert_eq!(shown, whole);
    }
    let mut state = 7u32;
    for length in 0..120 {
        let ids: Vec<u32> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 31 == 0 { 1 + (state >> 8) % 5 } else { 6 + (state >> 8) % 256 }
            })
            .collect();
        for skip in [false, true] {
            let mut stream = tokenizer.stream(skip);
            let mut shown: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
            shown.push_str(&stream.finish());
            assert_eq!(shown, tokenizer.decode(&ids, skip).unwrap(), "{ids:?}");
        }
    }
}

#[test]
fn word_level_models_do_not_write_control_tokens_for_text() {
    let token = |id, content| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    let tokenizer = load(&json!({
        "version": "1.0", "added_tokens": [token(0, "[UNK]"), token(1, "[CLS]")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[CLS]": 1, "hi": 2}, "unk_token": "[UNK]"}
    }))
    .unwrap();
    assert_eq!(tokenizer.encode("hi there", PLAIN).unwrap(), [2, 0]);
    assert_eq!(encode_text(&tokenizer, "[CLS] hi").unwrap(), [1, 2]);
    let error = tokenizer.encode("[CLS] hi", PLAIN).unwrap_err();
    assert_eq!(error, TokenizerError::SpecialInText { token: "[CLS]".to_string() });
    let mut stream = tokenizer.stream(true);
    let shown: Vec<Option<String>> = [2, 1, 2].map(|id| stream.push(id)).into();
    assert_eq!(shown, [Some("hi".to_string()), None, Some(" hi".to_string())]);
}

#[test]
fn special_tokens_are_cut_out_as_spelled_whatever_the_normaliser() {
    let token = |id, content, rstrip| {
        json!({"id": id, "content": content, "single_word": false,
        "lstrip": false, "rstrip": rstrip, "normalized": true, "special": true})
    };
    let mut file = golden();
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Lowercase"}, {"type": "Prepend", "prepend": "x"}]});
    file["added_tokens"] = json!([token(315, "<|begin_of_text|>", false), token(316, "<|End|>", true)]);
    file["post_processor"] = json!(null);
    let tokenizer = load(&file).unwrap();
    let pieces = tokenizer.split_special("<|begin_of_text|>a<|End|> \n b<|end|><|END|>");
    let text = |text| Piece::Text(text);
    assert_eq!(pieces, [Piece::Special(315), text("a"), Piece::Special(316), text("b<|end|><|END|>")]);
    let ids = tokenizer.encode("b<|end|><|END|>", PLAIN).unwrap();
    assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
}

/// Files on which the library panics, by what they lie about.
fn panicking() -> [(&'static str, Value); 5] {
    let template = |single: Value| json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    let first = json!({"Sequence": {"id": "A", "type_id": 0}});
    let second = json!({"Sequence": {"id": "B", "type_id": 0}});
    let absent = json!({"SpecialToken": {"id": "absent", "type_id": 0}});
    [
        ("post_processor", template(json!([absent, first]))),
        ("post_processor", template(json!([second]))),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
    ]
}

#[test]
fn panics_of_the_library_are_errors_and_known_to_hooks() {
    // The hook is the whole program's: other tests of this file may panic meanwhile, in their own threads.
    static UNMARKED: std::sync::Mutex<Vec<std::thread::ThreadId>> = std::sync::Mutex::new(Vec::new());
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !bitnet_core::tokenizer::in_library_call() {
            UNMARKED.lock().unwrap().push(std::thread::current().id());
            previous(info);
        }
    }));
    for (field, lie) in panicking() {
        let mut file = golden();
        file[field] = lie.clone();
        let outcome = load(&file).and_then(|tokenizer| {
            let options = EncodeOptions { add_special: true, parse_special: false };
            tokenizer.encode("ab cd", options)
        });
        message(outcome.expect_err(&format!("{field}: {lie}")));
        assert!(!bitnet_core::tokenizer::in_library_call());
    }
    assert!(!UNMARKED.lock().unwrap().contains(&std::thread::current().id()));
}

#[test]
fn replacements_that_explode_are_refused() {
    let replace =
        |from: &str, to: String| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let chain = |parts: Vec<Value>| json!({"type": "Sequence", "normalizers": parts});
    let mut file = golden();
    file["normalizer"] = chain(vec![replace("a", "a".repeat(1000)); 4]);
    let text = failure(&file);
    assert!(text.contains("normalizer: expected replacements that make a text at most 1024"), "{text}");
    file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "x".repeat(2000)});
    assert!(failure(&file).contains("normalizer"));
    // Replacements of different characters do not multiply.
    let honest = "abcdefghij".chars().map(|letter| replace(&letter.to_string(), "...".into())).collect();
    file["normalizer"] = chain(honest);
    load(&file).unwrap().encode("abc", PLAIN).unwrap();
    file["normalizer"] = Value::Null;
    file["decoder"] = json!({"type": "Sequence", "decoders": vec![replace("a", "a".repeat(1000)); 4]});
    assert!(failure(&file).contains("decoder"));
}
