//! Which files of a repository make a model.
//!
//! The same rules decide on the list of the hub and on what the cache holds, and they are those by which a
//! folder is loaded: model.safetensors, else the shards of the index, else the only safetensors file; a
//! repository without any may have one .gguf or .bitnet file instead, or several of which one has to be named. The
//! parts of a model in several GGUF files count as one, and its first part stands for it.

use std::collections::BTreeSet;

use bitnet_inference::model::gguf::part_names;

use super::name::is_whole;

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
    /// A .gguf or .bitnet file, which holds everything, or all parts of one, the first first.
    Whole(Vec<String>),
}

impl Choice {
    /// Chooses from a list of files; `wanted` names the weights, where somebody did.
    ///
    /// # Errors
    /// What was expected and found, where a file has to be named, or the named one or a part of it is missing.
    pub fn of(files: &[String], wanted: Option<&str>) -> Result<Self, String> {
        let has = |file: &str| files.iter().any(|other| other == file);
        let texts = TEXTS.into_iter().filter(|file| has(file)).collect();
        let weights = match wanted {
            Some(file) => Some(named(file, files)?),
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

    /// Reports whether these weights come first whatever else a repository has.
    pub fn is_certain(&self) -> bool {
        match &self.weights {
            Some(Weights::Single(file)) => file == SINGLE,
            Some(Weights::Index) => true,
            Some(Weights::Whole(_)) | None => false,
        }
    }

    /// Returns the file that stands for the weights where [`is_certain`](Self::is_certain) is false.
    pub fn chosen(&self) -> Option<&str> {
        match &self.weights {
            Some(Weights::Single(file)) if file != SINGLE => Some(file),
            Some(Weights::Whole(files)) => files.first().map(String::as_str),
            _ => None,
        }
    }

    /// Reports whether there is a tokenizer.
    pub fn has_tokenizer(&self) -> bool {
        TOKENIZERS.iter().any(|file| self.texts.contains(file))
    }
}

/// Finds the weights of a name, with all parts of a model in several files.
fn named(file: &str, files: &[String]) -> Result<Weights, String> {
    let has = |file: &str| files.iter().any(|other| other == file);
    if !has(file) {
        return Err(format!("expected the file {file} in the repository, found none of this name"));
    }
    if !is_whole(file) {
        return Ok(Weights::Single(file.to_owned()));
    }
    let parts: Vec<_> = parts(file).collect();
    if let Some(first) = parts.first().filter(|first| *first != file) {
        return Err(format!("expected the first part of the model, {first}, found {file}"));
    }
    match parts.iter().find(|part| !has(part)) {
        Some(missing) => {
            Err(format!("expected all {} parts of {file} in the repository, found no {missing}", parts.len()))
        }
        None => Ok(Weights::Whole(parts)),
    }
}

/// Lists the parts that a file is one of, itself where it is none.
fn parts(file: &str) -> impl Iterator<Item = String> {
    let (folder, name) = file.split_at(file.rfind('/').map_or(0, |at| at + 1));
    let parts = part_names(name);
    let alone = parts.is_none().then(|| file.to_owned());
    parts.into_iter().flatten().map(move |part| format!("{folder}{part}")).chain(alone)
}

/// Finds the only weight file in the first folder.
fn only(files: &[String]) -> Result<Option<Weights>, String> {
    let top = files.iter().filter(|file| !file.contains('/'));
    let (wholes, tensors): (Vec<_>, Vec<_>) =
        top.filter(|file| is_whole(file) || file.ends_with(".safetensors")).partition(|file| is_whole(file));
    let wholes: BTreeSet<_> = wholes.into_iter().filter_map(|file| parts(file).next()).collect();
    let wholes: Vec<_> = wholes.into_iter().collect();
    match (&tensors[..], &wholes[..]) {
        ([one], _) => Ok(Some(Weights::Single((*one).clone()))),
        ([], [one]) => named(one, files).map(Some),
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

#[cfg(test)]
mod tests {
    use super::super::name::HubName;
    use super::*;

    fn choose(name: &str, files: &[&str]) -> Result<Choice, String> {
        let files: Vec<_> = files.iter().map(ToString::to_string).collect();
        Choice::of(&files, HubName::parse(name).unwrap().file.as_deref())
    }

    fn whole(files: &[&str]) -> Option<Weights> {
        Some(Weights::Whole(files.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn weights_are_chosen_as_a_folder_is_loaded() {
        let weights = |files: &[&str]| choose("hf:o/n", files).unwrap().weights;
        assert_eq!(weights(&[INDEX, SINGLE, "m.gguf"]), Some(Weights::Single(SINGLE.into())));
        assert_eq!(weights(&[INDEX, "a.safetensors", "b.safetensors"]), Some(Weights::Index));
        assert_eq!(weights(&["a.safetensors", "m.gguf"]), Some(Weights::Single("a.safetensors".into())));
        assert_eq!(weights(&["README.md", "q/m.gguf", "m.gguf"]), whole(&["m.gguf"]));
        assert_eq!(weights(&["pytorch_model.bin"]), None);
        assert!(no_weights(&["pytorch_model.bin".into()]).contains("found pytorch_model.bin"));
    }

    #[test]
    fn what_is_not_one_has_to_be_named() {
        assert!(choose("hf:o/n", &["a.gguf", "b.gguf"]).unwrap_err().contains("found 2, a.gguf first"));
        assert!(choose("hf:o/n", &["a.safetensors", "b.safetensors"]).unwrap_err().contains("found 2"));
        let named = choose("hf:o/n/q/b.gguf", &["a.gguf", "q/b.gguf"]).unwrap();
        assert_eq!(named.weights, whole(&["q/b.gguf"]));
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
    fn parts_of_one_model_are_one_and_come_together() {
        let (first, second) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
        assert_eq!(choose("hf:o/n", &[first, second]).unwrap().weights, whole(&[first, second]));
        let (q1, q2) = (format!("q/{first}"), format!("q/{second}"));
        let files = [q2.as_str(), &q1, "m.gguf"];
        assert_eq!(choose(&format!("hf:o/n/{q1}"), &files).unwrap().weights, whole(&[&q1, &q2]));
        let later = choose(&format!("hf:o/n/{q2}"), &files).unwrap_err();
        assert!(later.contains("expected the first part") && later.contains(&q1), "{later}");
        for (name, files) in [("hf:o/n", &[first, "x"][..]), (&format!("hf:o/n/{first}"), &[first])] {
            let missing = choose(name, files).unwrap_err();
            assert!(
                missing.contains("all 2 parts") && missing.contains(&format!("no {second}")),
                "{missing}"
            );
        }
        assert!(choose("hf:o/n", &[second]).unwrap_err().contains(&format!("the file {first}")));
        let two = choose("hf:o/n", &[first, second, "a.gguf"]).unwrap_err();
        assert!(two.contains("found 2, a.gguf first"), "{two}");
    }

    #[test]
    fn what_may_not_be_all_has_a_file_that_stands_for_it() {
        for (files, chosen) in [
            (&[SINGLE, "m.gguf"][..], None),
            (&[INDEX], None),
            (&["a.safetensors"], Some("a.safetensors")),
            (&["m.gguf"], Some("m.gguf")),
        ] {
            let choice = choose("hf:o/n", files).unwrap();
            assert_eq!((choice.chosen(), choice.is_certain()), (chosen, chosen.is_none()));
        }
    }
}
