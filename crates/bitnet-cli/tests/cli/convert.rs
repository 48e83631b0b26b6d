//! `convert` and `quantize` as a user meets them.

use std::path::{Path, PathBuf};

use bitnet_testing::gguf::{GgufFile, Value};
use bitnet_testing::golden_dir;
use bitnet_testing::temp::TempDir;

use crate::program::{entries, fairy_tales, output, text};

/// The first windows of the held-out tokens of the bundled model.
fn held_out(dir: &TempDir) -> PathBuf {
    let tokens = std::fs::read(fairy_tales("eval").join("valid.u16")).unwrap();
    let path = dir.path().join("tokens.u16");
    std::fs::write(&path, &tokens[..2 * (3 * 128 + 1)]).unwrap();
    path
}

fn loss(model: &Path, tokens: &Path) -> f64 {
    let arguments = ["eval", "--model", text(model), "--tokens", text(tokens), "--window", "128", "--json"];
    output(&arguments).ok().json()["mean_nll"].as_f64().unwrap()
}

#[test]
fn every_format_keeps_the_loss_and_comes_back() {
    let dir = TempDir::new("cli-convert");
    let (model, tokens) = (fairy_tales("model"), held_out(&dir));
    let expected = loss(&model, &tokens);
    for (format, name) in [
        ("hf-packed", "packed"),
        ("hf-master", "master"),
        ("gguf-i2_s", "i2_s.gguf"),
        ("gguf-tq1_0", "tq1_0.gguf"),
        ("gguf-tq2_0", "tq2_0.gguf"),
        ("gguf-f16", "f16.gguf"),
        ("bitnet", "own.bitnet"),
    ] {
        let out = dir.path().join(name);
        output(&["convert", text(&model), text(&out), "--to", format]).ok();
        let back = dir.path().join(format!("{name}-back"));
        // Both tokenizers are compared too.
        let outcome =
            output(&["convert", text(&out), text(&back), "--to", "hf-packed", "--verify", "--json"]).ok();
        let report = outcome.json();
        assert_eq!(
            (report["format"].as_str(), report["verify"]["tokens"].as_u64()),
            (Some("hf-packed"), Some(125))
        );
        for path in [&out, &back] {
            let found = loss(path, &tokens);
            assert!((found - expected).abs() < 0.005, "{}: {found} against {expected}", path.display());
        }
    }
}

const TEXTS: [&str; 4] =
    ["Hello, World!  12345 don't", "a<tool>b\n\n\tx 1234567", " the house<x> (3.14) \u{e9}t\u{e9}", "x"];

fn ids(model: &Path) -> Vec<serde_json::Value> {
    let of = |text_in| output(&["tokenize", text_in, "--json", "--model", text(model)]).ok().json();
    TEXTS.into_iter().map(|text| of(text)["ids"].clone()).collect()
}

/// Converts a file with this vocabulary to a folder and to our own file, and compares what texts become.
fn keeps_ids(dir: &TempDir, name: &str, file: GgufFile) {
    let model = dir.path().join(format!("{name}.gguf"));
    std::fs::write(&model, file.to_bytes()).unwrap();
    let expected = ids(&model);
    for (format, end) in [("hf-packed", ""), ("bitnet", ".bitnet"), ("gguf-tq2_0", "-again.gguf")] {
        let out = dir.path().join(format!("{name}{end}"));
        output(&["convert", text(&model), text(&out), "--to", format]).ok();
        assert_eq!(ids(&out), expected, "{name} {format}");
        let back = dir.path().join(format!("{name}{end}-back.gguf"));
        output(&["convert", text(&out), text(&back), "--to", "gguf-tq2_0"]).ok();
        assert_eq!(ids(&back), expected, "{name} {format} and back");
    }
}

/// Each with what goes around a text, as the file says and as it does not.
#[test]
fn every_split_rule_keeps_the_ids_of_texts() {
    let dir = TempDir::new("cli-convert-rules");
    let golden = GgufFile::read(&golden_dir("gguf").join("bitnet_b158-tq2_0.gguf"));
    let [pre, bos, eos] =
        ["pre", "add_bos_token", "add_eos_token"].map(|key| format!("tokenizer.ggml.{key}"));
    for (index, rule) in
        ["tekken", "smaug-bpe", "deepseek-llm", "default", "falcon", ""].into_iter().enumerate()
    {
        let file = golden.clone().without_key(&pre).without_key(&bos).without_key(&eos);
        let file = if rule.is_empty() { file } else { file.key(&pre, Value::str(rule)) };
        let file = match index % 3 {
            0 => file,
            1 => file.key(&bos, Value::bool(false)).key(&eos, Value::bool(true)),
            _ => file.key(&bos, Value::bool(true)).key(&eos, Value::bool(true)),
        };
        keeps_ids(&dir, &format!("rule-{rule}"), file);
    }
}

#[test]
fn sentencepiece_keeps_what_goes_around_a_text() {
    let dir = TempDir::new("cli-convert-pieces");
    let mut golden = GgufFile::read(&golden_dir("gguf").join("bitnet_b158-tq2_0.gguf"));
    golden.keys.retain(|(key, _)| !key.starts_with("tokenizer."));
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let words = ["\u{2581}", "t", "h", "e", "th", "the", "\u{2581}the", "o", "l", "ll", "1", "2", "12", "x"];
    let mut tokens = vec!["<unk>", "<bos>", "<eos>"];
    tokens.extend(bytes.iter().map(String::as_str));
    tokens.extend(words);
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain(vec![6; 256]).chain(vec![1; words.len()]).collect();
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let array = |kind, bytes: Vec<u8>| Value::array(kind, tokens.len() as u64, &bytes);
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let pieces = golden
        .key(&key("tokens"), Value::strs(&tokens))
        .key(&key("scores"), array(6, scores.iter().flat_map(|score| score.to_le_bytes()).collect()))
        .key(&key("token_type"), array(5, kinds.iter().flat_map(|kind| kind.to_le_bytes()).collect()))
        .key(&key("bos_token_id"), Value::u32(1))
        .key(&key("eos_token_id"), Value::u32(2));
    for model in ["llama", "t5"] {
        for (index, around) in
            [None, Some((false, false)), Some((true, true)), Some((false, true))].into_iter().enumerate()
        {
            let file = pieces.clone().key(&key("model"), Value::str(model));
            let file = match around {
                None => file,
                Some((bos, eos)) => file
                    .key(&key("add_bos_token"), Value::bool(bos))
                    .key(&key("add_eos_token"), Value::bool(eos)),
            };
            keeps_ids(&dir, &format!("{model}-{index}"), file);
        }
    }
}

#[test]
fn a_failed_verification_leaves_nothing() {
    let dir = TempDir::new("cli-verify");
    let out = dir.path().join("x.gguf");
    let model = fairy_tales("model");
    let arguments =
        ["convert", text(&model), text(&out), "--to", "gguf-tq2_0", "--embedding", "q6_k", "--verify"];
    let outcome = output(&[&arguments[..], &["--max-loss-change", "0"]].concat());
    assert!(outcome.failed(1).contains("nothing was written"), "{outcome:?}");
    assert_eq!(entries(dir.path()).len(), 0);
    assert!(output(&arguments).ok().stdout.contains("verified on 125 tokens"));
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = TempDir::new("cli-refused");
    let (model, out) = (fairy_tales("model"), dir.path().join("out"));
    let outcome = output(&["quantize", text(&model), text(&out)]);
    assert!(outcome.failed(1).contains("quantised already"), "{outcome:?}");
    assert_eq!(entries(dir.path()).len(), 0);
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine"), "x").unwrap();
    let outcome = output(&["convert", text(&model), text(&out), "--to", "hf-packed"]);
    assert!(outcome.failed(1).contains("absent or empty folder"), "{outcome:?}");
    assert_eq!((entries(dir.path()), entries(&out)), (vec!["out".to_owned()], vec!["mine".to_owned()]));
    let outcome = output(&["convert", "no-such-model", text(&out), "--to", "bitnet"]);
    assert!(outcome.failed(1).contains("no-such-model"), "{outcome:?}");
}

#[test]
fn inspect_checks_payloads_of_our_own_file() {
    let dir = TempDir::new("cli-check");
    let (model, out) = (fairy_tales("model"), dir.path().join("x.bitnet"));
    output(&["convert", text(&model), text(&out), "--to", "bitnet"]).ok();
    assert!(output(&["inspect", text(&out), "--check"]).ok().stderr.contains("match their checksums"));
    let mut bytes = std::fs::read(&out).unwrap();
    let at = bytes.len() - (1 << 16) + 3;
    bytes[at] ^= 1;
    std::fs::write(&out, bytes).unwrap();
    output(&["inspect", text(&out)]).ok();
    let outcome = output(&["inspect", text(&out), "--check"]);
    assert!(outcome.failed(1).contains("checksum"), "{outcome:?}");
    let outcome = output(&["inspect", text(&model), "--check"]);
    assert!(outcome.failed(2).contains("expected a .bitnet file"), "{outcome:?}");
}

#[test]
fn the_cache_is_of_the_type_that_a_file_records_unless_another_is_asked_for() {
    let dir = TempDir::new("cli-kv");
    let (model, tokens) = (fairy_tales("model"), held_out(&dir));
    let convert = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        output(&[&["convert", text(&model), text(&out), "--to", "bitnet"][..], more].concat()).ok();
        out
    };
    let (plain, f16, f32) = (
        convert("plain.bitnet", &[]),
        convert("f16.bitnet", &["--kv", "f16"]),
        convert("f32.bitnet", &["--kv", "f32"]),
    );
    let chosen = |model: &Path, more: &[&str]| {
        let arguments = ["run", "Once", "--model", text(model), "--max-tokens", "2", "--json"];
        let report = output(&[&arguments[..], more].concat()).ok().json();
        let memory = output(&[&["inspect", text(model), "--json"][..], more].concat()).ok().json();
        assert_eq!(memory["memory"]["kv_type"], report["kv_type"]);
        assert_eq!(memory["memory"]["kv_by"], report["kv_by"]);
        [&report["kv_type"], &report["kv_by"]].map(|value| value.as_str().unwrap().to_owned())
    };
    assert_eq!(chosen(&model, &[]), ["f16", "default"]);
    assert_eq!(chosen(&plain, &[]), ["f16", "file"]);
    assert_eq!(chosen(&f32, &[]), ["f32", "file"]);
    assert_eq!(chosen(&f32, &["--kv", "f16"]), ["f16", "option"]);
    // A cache in half precision shows in the last digits of a loss.
    let loss = |model: &Path, more: &[&str]| {
        let arguments =
            ["eval", "--model", text(model), "--tokens", text(&tokens), "--window", "128", "--json"];
        output(&[&arguments[..], more].concat()).ok().json()["mean_nll"].as_f64().unwrap()
    };
    let (exact, rounded) = (loss(&model, &[]), loss(&model, &["--kv", "f16"]));
    assert_ne!(exact, rounded);
    assert_eq!([loss(&plain, &[]), loss(&f32, &[]), loss(&f16, &["--kv", "f32"])], [exact; 3]);
    assert_eq!([loss(&f16, &[]), loss(&plain, &["--kv", "f16"])], [rounded; 2]);
    let shown = output(&["inspect", text(&f32)]).ok().stdout;
    assert!(
        shown.contains("recorded      embedding BF16, head tied, KV cache f32, f32 to measure"),
        "{shown}"
    );
    let outcome =
        output(&["convert", text(&model), text(&dir.path().join("x")), "--to", "hf-packed", "--kv", "f32"]);
    assert!(outcome.failed(2).contains("--to bitnet"), "{outcome:?}");
}
