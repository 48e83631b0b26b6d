//! The text side of models: from GGUF files and from folders with a `tokenizer.model`.
#![cfg(feature = "tokenizers")]
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bitnet_core::tokenizer::EncodeOptions;
use bitnet_inference::ModelText;
use bitnet_inference::chat::Message;
use bitnet_inference::model::{ModelFiles, ModelSource};
use bitnet_testing::golden_dir;
use bitnet_testing::temp::TempDir;

const MODEL: &[u8] = include_bytes!("../../bitnet-core/tests/data/tokenizer/tokenizer.model");
const PARSED: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn load(model: &Path) -> Result<Option<ModelText>, String> {
    let files = ModelFiles::open(&ModelSource::at(model)).unwrap();
    ModelText::load(&files).map_err(|error| error.to_string())
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new("text");
    std::fs::write(dir.path().join("tokenizer.model"), MODEL).unwrap();
    for (name, contents) in files {
        std::fs::write(dir.path().join(name), contents).unwrap();
    }
    dir
}

#[test]
fn golden_gguf_files_have_tokenizer_template_and_end_tokens() {
    for (name, assumed, template) in [
        ("bitnet_b158-tq2_0.gguf", 0, true),
        ("bitnet_b158-i2_s-x86.gguf", 1, true),
        ("bitnet_silu-tq2_0.gguf", 0, false),
    ] {
        let text = load(&golden_dir("gguf").join(name)).unwrap().unwrap();
        assert_eq!((text.assumptions.len(), text.template.is_some()), (assumed, template), "{name}");
        assert!(text.end_tokens.contains(&if template { 316 } else { 2 }), "{name}");
        if let Some(template) = text.template {
            let ids = template.encode(&text.tokenizer, &[Message::new("user", "Hi")], true).unwrap();
            assert_eq!(ids, [315, 52, 82, 273, 25, 220, 39, 72, 319, 32, 82, 82, 272, 83, 300, 83, 25, 220]);
        }
    }
}

#[test]
fn a_tokenizer_model_takes_the_tokens_of_the_files_beside_it() {
    let dir = folder(&[("added_tokens.json", "{\"</line>\": 401, \"<pad>\": 400}")]);
    let text = load(dir.path()).unwrap().unwrap();
    assert!(text.file.ends_with("tokenizer.model"));
    assert_eq!(text.tokenizer.encode("<pad></line>", PARSED).unwrap(), [1, 400, 401]);
    let decoder = "{\"1\": {\"content\": \"<s>\", \"special\": true}, \"400\": {\"content\": \"<pad>\", \"special\": true}}";
    let config = format!("{{\"add_bos_token\": false, \"added_tokens_decoder\": {decoder}}}");
    let dir = folder(&[("tokenizer_config.json", &config)]);
    assert_eq!(load(dir.path()).unwrap().unwrap().tokenizer.encode("<pad>", PARSED).unwrap(), [400]);
    let dir = folder(&[]);
    assert_eq!(load(dir.path()).unwrap().unwrap().tokenizer.vocab_size(), 400);
}

#[test]
fn files_beside_a_tokenizer_model_that_lie_are_named() {
    for (name, contents, expected) in [
        ("added_tokens.json", "{\"<pad>\": -1}", "\"<pad>\": expected a token id, found -1"),
        ("added_tokens.json", "{\"<pad>\": 500}", "next free id is 400"),
        ("added_tokens.json", "[]", "expected a JSON object"),
        (
            "tokenizer_config.json",
            "{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}",
            "added_tokens_decoder[\"x\"]",
        ),
    ] {
        let error = load(folder(&[(name, contents)]).path()).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let dir = TempDir::new("text");
    assert!(load(dir.path()).unwrap().is_none());
}
