//! Vocabularies of GGUF files, read by the independent reader of the tests.

use std::path::{Path, PathBuf};

use bitnet_core::tokenizer::Vocabulary;
use bitnet_testing::gguf_metadata::{Value, read_metadata};

/// Returns a folder of the shared data beside the checkout; says so aloud where it is absent.
pub fn shared(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if !folder.is_dir() {
        eprintln!("SKIPPED: {} is not there", folder.display());
        return None;
    }
    Some(folder)
}

/// Fills a vocabulary from the metadata of a file.
pub fn vocabulary(path: &Path) -> Vocabulary {
    let pairs = read_metadata(path);
    let get = |key: &str| pairs.get(&format!("tokenizer.ggml.{key}"));
    let texts =
        |key: &str| get(key).map(|list| list.items().iter().map(|item| item.text().to_string()).collect());
    let id = |key: &str| get(&format!("{key}_token_id")).map(|id| id.int() as u32);
    let flag = |key: &str| get(key).map(Value::flag);
    Vocabulary {
        model: get("model").unwrap().text().to_string(),
        pre: get("pre").map(|pre| pre.text().to_string()),
        tokens: texts("tokens").unwrap(),
        scores: get("scores").map(|list| list.items().iter().map(|item| item.float() as f32).collect()),
        token_types: get("token_type")
            .map(|list| list.items().iter().map(|item| item.int() as i32).collect()),
        merges: texts("merges"),
        bos: id("bos"),
        eos: id("eos"),
        unknown: id("unknown"),
        eot: id("eot"),
        padding: id("padding"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        chat_template: pairs.get("tokenizer.chat_template").map(|text| text.text().to_string()),
        ..Vocabulary::default()
    }
}
