//! Which files of a repository make a model.
//!
//! The same rules decide on the list of the hub and on what the cache holds, and they are those by which a
//! folder is loaded: model.safetensors, else the shards of the index, else the only safetensors file; a
//! repository without any may have one .gguf or .bitnet file instead, or several of which one has to be named.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::name::{HubName, is_relative, is_whole};

/// The index of shards.
pub const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZERS: [&str; 2] = ["tokenizer.model", "tokenizer.json"];
/// All small files that a folder is read for, tokenizers last: a snapshot that has one has the rest.
const TEXTS: [&str; 7] = [
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    TOKENIZERS[0],
    TOKENIZERS[1],
];
/// Largest index read, as the loader's.
const INDEX_LIMIT: u64 = 64 << 20;

/// The files to fetch.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Configuration and tokenizer, in the order of fetching.
    pub texts: Vec<&'static str>,
    /// Weights.
    pub weights: Option<Weights>,
}

/// The weights of a model.
#[derive(Debug, PartialEq, Eq)]
pub enum Weights {
    /// One safetensors file.
    Single(String),
    /// The shards of the index.
    Index,
    /// A .gguf or .bitnet file, which holds everything.
    Whole(String),
}

impl Choice {
    /// Chooses from a list of files.
    ///
    /// # Errors
    /// What was expected and found, where a file has to be named or the named one is missing.
    pub fn of(files: &[String], name: &HubName) -> Result<Self, String> {
        let has = |file: &str| files.iter().any(|other| other == file);
        let texts = TEXTS.into_iter().filter(|file| has(file)).collect();
        let weights = match &name.file {
            Some(file) if has(file) => Some(Weights::Whole(file.clone())),
            Some(file) => {
                return Err(format!("expected the file {file} in the repository, found none of this name"));
            }
            None if has(SINGLE) => Some(Weights::Single(SINGLE.into())),
            None if has(INDEX) => Some(Weights::Index),
            None => only(files)?,
        };
        Ok(Choice { texts, weights })
    }

    /// Reports whether there is a configuration.
    pub fn has_config(&self) -> bool {
        self.texts.contains(&CONFIG)
    }

    /// Reports whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        TOKENIZERS.iter().any(|file| self.texts.contains(file))
    }
}

/// Finds the only weight file in the first folder.
fn only(files: &[String]) -> Result<Option<Weights>, String> {
    let top = files.iter().filter(|file| !file.contains('/'));
    let (wholes, tensors): (Vec<_>, Vec<_>) =
        top.filter(|file| is_whole(file) || file.ends_with(".safetensors")).partition(|file| is_whole(file));
    match (&tensors[..], &wholes[..]) {
        ([one], _) => Ok(Some(Weights::Single((*one).clone()))),
        ([], [one]) => Ok(Some(Weights::Whole((*one).clone()))),
        ([], []) => Ok(None),
        ([], [first, ..]) => Err(format!(
            "expected one .gguf or .bitnet file, found {}, {first} first: name one as hf:org/name/FILE",
            wholes.len()
        )),
        ([first, ..], _) => Err(format!(
            "expected {SINGLE}, {INDEX} or one safetensors file, found {}, {first} first",
            tensors.len()
        )),
    }
}

/// Says that a repository has no weights that are read, and what it has.
pub fn no_weights(files: &[String]) -> String {
    let weights = |file: &&String| {
        [".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz"].iter().any(|end| file.ends_with(end))
    };
    let found = files.iter().find(weights).map_or("neither", String::as_str);
    format!("expected *.safetensors or a .gguf file in the repository, found {found}")
}

/// Reads the names of the shards from an index, each once, in order.
///
/// # Errors
/// An index that cannot be read, or names files elsewhere.
pub fn shards(index: &Path) -> Result<Vec<String>> {
    let place = index.display();
    let failed = || format!("{place}: cannot read");
    let length = std::fs::metadata(index).with_context(failed)?.len();
    if length > INDEX_LIMIT {
        return Err(anyhow!("{place}: expected at most {INDEX_LIMIT} bytes, found {length}"));
    }
    let json: Value = serde_json::from_slice(&std::fs::read(index).with_context(failed)?)
        .with_context(|| format!("{place}: expected JSON"))?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| anyhow!("{place}: expected weight_map with file names, found none"))?;
    let mut shards = Vec::new();
    for file in map.values() {
        match file.as_str().filter(|file| is_relative(file) && !file.contains('/')) {
            Some(file) => shards.push(file.to_owned()),
            None => {
                return Err(anyhow!("{place}: expected weight_map to name a file beside it, found {file}"));
            }
        }
    }
    shards.sort();
    shards.dedup();
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    fn choose(name: &str, files: &[&str]) -> Result<Choice, String> {
        let files: Vec<_> = files.iter().map(ToString::to_string).collect();
        Choice::of(&files, &HubName::parse(name).unwrap())
    }

    #[test]
    fn weights_are_chosen_as_a_folder_is_loaded() {
        let weights = |files: &[&str]| choose("hf:o/n", files).unwrap().weights;
        assert_eq!(weights(&[INDEX, SINGLE, "m.gguf"]), Some(Weights::Single(SINGLE.into())));
        assert_eq!(weights(&[INDEX, "a.safetensors", "b.safetensors"]), Some(Weights::Index));
        assert_eq!(weights(&["a.safetensors", "m.gguf"]), Some(Weights::Single("a.safetensors".into())));
        assert_eq!(weights(&["README.md", "q/m.gguf", "m.gguf"]), Some(Weights::Whole("m.gguf".into())));
        assert_eq!(weights(&["pytorch_model.bin"]), None);
        assert!(no_weights(&["pytorch_model.bin".into()]).contains("found pytorch_model.bin"));
    }

    #[test]
    fn what_is_not_one_has_to_be_named() {
        assert!(choose("hf:o/n", &["a.gguf", "b.gguf"]).unwrap_err().contains("found 2, a.gguf first"));
        assert!(choose("hf:o/n", &["a.safetensors", "b.safetensors"]).unwrap_err().contains("found 2"));
        let named = choose("hf:o/n/q/b.gguf", &["a.gguf", "q/b.gguf"]).unwrap();
        assert_eq!(named.weights, Some(Weights::Whole("q/b.gguf".into())));
        assert!(choose("hf:o/n/c.gguf", &["a.gguf"]).unwrap_err().contains("c.gguf"));
    }

    #[test]
    fn tokenizers_come_after_what_goes_with_them() {
        let files = ["tokenizer.json", "chat_template.jinja", "config.json", "notes", SINGLE];
        let choice = choose("hf:o/n", &files).unwrap();
        assert_eq!(choice.texts, ["config.json", "chat_template.jinja", "tokenizer.json"]);
        assert!(choice.has_config() && choice.has_tokenizer());
    }

    #[test]
    fn an_index_that_leaves_its_folder_is_refused() {
        let folder = TempDir::new("hub-index");
        let index = folder.path().join(INDEX);
        std::fs::write(
            &index,
            r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(shards(&index).unwrap(), ["1.safetensors", "2.safetensors"]);
        for text in
            ["", "{}", r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":"../x"}}"#, r#"{"weight_map":{"a":1}}"#]
        {
            std::fs::write(&index, text).unwrap();
            assert!(shards(&index).unwrap_err().to_string().contains(INDEX), "{text}");
        }
    }
}
