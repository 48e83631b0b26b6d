//! Vocabularies of GGUF files against the ids that llama.cpp recorded for them.
#![cfg(feature = "tokenizers")]
#![allow(clippy::unwrap_used)]

mod vocabularies;

use std::path::{Path, PathBuf};

use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};
use vocabularies::{shared, vocabulary};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

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
    assert_eq!(texts.pop(), Some(""), "the texts end with a separator");
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
            let outcome = std::panic::catch_unwind(|| check_recorded(&path));
            eprintln!("{}: {outcome:?}", path.display());
            failed.extend(outcome.is_err().then_some(path));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
