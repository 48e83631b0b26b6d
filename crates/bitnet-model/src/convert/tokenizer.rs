//! The tokenizer on its way: the files of a folder as they are, or the keys of a GGUF file.

use std::collections::BTreeMap;

use bitnet_core::tokenizer::{SplitRule, Vocabulary};
use serde::Deserialize;
use serde_json::Value;

use super::{ConvertError, Start};
use crate::gguf::Gguf;
use crate::gguf::write::Meta;

/// Files of a folder that belong to the text side of a model.
const FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
];

/// Tokens that end a turn.
const END_OF_TURN: [&str; 3] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"];

/// Returns the tokenizer's files for a folder, or for our own file.
pub(super) fn folder_files(
    start: &Start<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Vec<u8>)>, ConvertError> {
    let mut files = Vec::new();
    for name in FILES {
        if let Some(bytes) = start.files.other(name)? {
            files.push((name.to_owned(), bytes.into_owned()));
        }
    }
    if let Some(vocabulary) = start.files.gguf().map(Gguf::vocabulary).transpose()?.flatten() {
        files.extend(super::vocabulary_files::of(
            vocabulary,
            &start.files.root().display().to_string(),
            notes,
        )?);
    }
    if !files.iter().any(|(name, _)| name.starts_with("tokenizer.") || name == "vocab.json") {
        notes.push(NO_TOKENIZER.into());
    }
    Ok(files)
}

/// Returns the `tokenizer.*` keys of a GGUF file.
pub(super) fn gguf_metadata(
    start: &Start<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<(String, Meta)>, ConvertError> {
    if let Some(gguf) = start.files.gguf() {
        return match gguf.vocabulary()? {
            Some(vocabulary) => Ok(keys(&vocabulary)),
            None => {
                notes.push(NO_TOKENIZER.into());
                Ok(Vec::new())
            }
        };
    }
    let mut vocabulary = match (start.files.other("tokenizer.json")?, start.files.other("tokenizer.model")?) {
        (Some(json), None) => from_json(start, &json, notes)?,
        // The merges of a sentencepiece model are ranked by its scores, which tokenizer.json does not keep.
        (Some(json), Some(model)) => match is_byte_level(&json) {
            true => from_json(start, &json, notes)?,
            false => from_pieces(start, &model)?,
        },
        (None, Some(model)) => from_pieces(start, &model)?,
        (None, None) => {
            notes.push(NO_TOKENIZER.into());
            return Ok(Vec::new());
        }
    };
    sentencepiece_for_gguf(start, &mut vocabulary)?;
    notes.extend(super::vocabulary_files::by_source(&vocabulary));
    if let Some(eos) = start.config.eos.first().filter(|_| vocabulary.eos.is_none()) {
        vocabulary.eos = Some(*eos);
    }
    fill_up(&mut vocabulary, start.config.vocab, notes);
    vocabulary.chat_template = chat_template(start)?.or(vocabulary.chat_template);
    Ok(keys(&vocabulary))
}

/// Reads a tokenizer.model with what the files beside it add.
fn from_pieces(start: &Start<'_>, model: &[u8]) -> Result<Vocabulary, ConvertError> {
    let name = |file: &str| start.files.path(file).display().to_string();
    let [model_name, config_name, added_name] =
        ["tokenizer.model", "tokenizer_config.json", "added_tokens.json"].map(name);
    let config = start.files.other("tokenizer_config.json")?;
    let added = start.files.other("added_tokens.json")?;
    let mut vocabulary = Vocabulary::from_sentencepiece(model, &model_name)?;
    vocabulary.complete(
        config.as_deref().map(|bytes| (bytes, config_name.as_str())),
        added.as_deref().map(|bytes| (bytes, added_name.as_str())),
    )?;
    Ok(vocabulary)
}

/// Names a sentencepiece vocabulary as readers of GGUF do, or refuses what they have no place for.
fn sentencepiece_for_gguf(start: &Start<'_>, vocabulary: &mut Vocabulary) -> Result<(), ConvertError> {
    match vocabulary.model.as_str() {
        "sentencepiece" => {
            let rewrites = vocabulary.charsmap.is_some();
            if rewrites || vocabulary.fewer_spaces == Some(true) {
                let what = if rewrites { "rewrites characters" } else { "drops spaces" };
                return Err(start.refuse(format!(
                    "expected a BPE tokenizer.model that takes text as it is, as readers of GGUF do, found one that {what}"
                )));
            }
            vocabulary.fewer_spaces = None;
            vocabulary.model = "llama".into();
        }
        "sentencepiece-unigram" => {
            vocabulary.model = "t5".into();
            // Where nothing is said a text gets BOS before it there, and EOS behind it here.
            vocabulary.add_bos.get_or_insert(vocabulary.bos.is_some());
            vocabulary.add_eos.get_or_insert(false);
        }
        _ => return Ok(()),
    }
    vocabulary.pre = Some("default".into());
    Ok(())
}

/// Gives every row of the embedding a token.
fn fill_up(vocabulary: &mut Vocabulary, rows: usize, notes: &mut Vec<String>) {
    let count = vocabulary.tokens.len();
    if count >= rows {
        return;
    }
    notes.push(format!("{} rows of the embedding have no token: named [PAD...]", rows - count));
    vocabulary.tokens.extend((count..rows).map(|id| format!("[PAD{id}]")));
    let extend = |values: &mut Vec<i32>| values.resize(rows, UNUSED);
    vocabulary.token_types.as_mut().map(extend).unwrap_or_default();
    if let Some(scores) = &mut vocabulary.scores {
        scores.resize(rows, -1000.0);
    }
}

fn keys(vocabulary: &Vocabulary) -> Vec<(String, Meta)> {
    let mut out = Vec::new();
    let mut put = |key: &str, value: Option<Meta>| {
        out.extend(value.map(|value| (format!("tokenizer.{key}"), value)));
    };
    put("ggml.model", Some(Meta::Text(vocabulary.model.clone())));
    put("ggml.pre", vocabulary.pre.clone().map(Meta::Text));
    put("ggml.tokens", Some(Meta::Texts(vocabulary.tokens.clone())));
    put("ggml.scores", vocabulary.scores.clone().map(Meta::F32s));
    put("ggml.token_type", vocabulary.token_types.clone().map(Meta::I32s));
    put("ggml.merges", vocabulary.merges.clone().map(Meta::Texts));
    put("ggml.bos_token_id", vocabulary.bos.map(Meta::U32));
    put("ggml.eos_token_id", vocabulary.eos.map(Meta::U32));
    put("ggml.eot_token_id", vocabulary.eot.map(Meta::U32));
    put("ggml.unknown_token_id", vocabulary.unknown.map(Meta::U32));
    put("ggml.padding_token_id", vocabulary.padding.map(Meta::U32));
    put("ggml.add_bos_token", vocabulary.add_bos.map(Meta::Bool));
    put("ggml.add_eos_token", vocabulary.add_eos.map(Meta::Bool));
    put("ggml.add_space_prefix", vocabulary.add_space_prefix.map(Meta::Bool));
    put("ggml.remove_extra_whitespaces", vocabulary.fewer_spaces.map(Meta::Bool));
    put("ggml.precompiled_charsmap", vocabulary.charsmap.clone().map(Meta::Bytes));
    put("chat_template", vocabulary.chat_template.clone().map(Meta::Text));
    out
}

fn chat_template(start: &Start<'_>) -> Result<Option<String>, ConvertError> {
    if let Some(template) = start.files.other("chat_template.jinja")? {
        return Ok(String::from_utf8(template.into_owned()).ok());
    }
    let config = start.files.other("tokenizer_config.json")?;
    let config: Option<Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(config.and_then(|config| Some(config.get("chat_template")?.as_str()?.to_owned())))
}

const NO_TOKENIZER: &str = "the source has no tokenizer: the result runs on token ids only";

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// The parts of tokenizer.json that a vocabulary is made of.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    vocab: BTreeMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

/// Reports whether a tokenizer.json works on the bytes of a text.
fn is_byte_level(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Front {
        #[serde(default)]
        pre_tokenizer: Value,
    }
    serde_json::from_slice::<Front>(json).is_ok_and(|front| mentions(&front.pre_tokenizer, "ByteLevel"))
}

/// Reports whether a component, or one of its parts, is of a type.
fn mentions(component: &Value, kind: &str) -> bool {
    match component {
        Value::Object(fields) => {
            fields.get("type").and_then(Value::as_str) == Some(kind)
                || fields.values().any(|v| mentions(v, kind))
        }
        Value::Array(parts) => parts.iter().any(|part| mentions(part, kind)),
        _ => false,
    }
}

fn from_json(start: &Start<'_>, json: &[u8], notes: &mut Vec<String>) -> Result<Vocabulary, ConvertError> {
    let file: File = serde_json::from_slice(json).map_err(|error| {
        start.refuse(format!("expected a tokenizer.json with a BPE model, found: {error}"))
    })?;
    if !mentions(&file.pre_tokenizer, "ByteLevel") {
        return Err(start.refuse(
            "expected a byte-level tokenizer.json, or a tokenizer.model beside it, found neither: scores of \
             sentencepiece pieces cannot be made up",
        ));
    }
    let pre = match (start.pre, rule(&file.pre_tokenizer, file.model.ignore_merges)) {
        (Some(pre), _) => pre.to_owned(),
        (None, Some(pre)) => pre.to_owned(),
        (None, None) => {
            return Err(start.refuse(
                "expected a known rule in tokenizer.json that cuts text into words, found another one: name it with \
                 --tokenizer-pre",
            ));
        }
    };
    if !file.normalizer.is_null() {
        notes.push("the tokenizer normalises text, which GGUF has no place for".into());
    }
    let highest = file.model.vocab.values().copied().chain(file.added_tokens.iter().map(|t| t.id)).max();
    let count = highest.map_or(0, |id| id as usize + 1);
    if count > start.config.vocab {
        let (rows, found) = (start.config.vocab, count - 1);
        return Err(start
            .refuse(format!("expected token ids below {rows}, the rows of the embedding, found {found}")));
    }
    let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; count];
    for (token, id) in file.model.vocab {
        (tokens[id as usize], types[id as usize]) = (token, NORMAL);
    }
    for added in &file.added_tokens {
        let kind = if added.special { CONTROL } else { USER_DEFINED };
        (tokens[added.id as usize], types[added.id as usize]) = (added.content.clone(), kind);
    }
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Text(text) => text,
        Merge::Pair(left, right) => format!("{left} {right}"),
    });
    let find = |names: &[&str]| file.added_tokens.iter().find(|t| names.contains(&&*t.content)).map(|t| t.id);
    let (before, after) = around(&file.post_processor).ok_or_else(|| {
        let found = &file.post_processor["type"];
        start.refuse(format!("expected a template as post_processor of tokenizer.json, found {found}"))
    })?;
    if before.len() > 1 || after.len() > 1 {
        return Err(start.refuse(format!(
            "expected at most one token before a text and one behind it, found {before:?} and {after:?}"
        )));
    }
    // What goes around a text counts, wherever else the model names another token.
    let end = |tokens: &[String]| tokens.first().and_then(|token| find(&[token]));
    let (first, last) = (end(&before), end(&after));
    if before.len() + after.len() > first.iter().chain(&last).count() {
        return Err(start.refuse(format!(
            "expected added tokens around a text, found {before:?} before it and {after:?} behind it"
        )));
    }
    Ok(Vocabulary {
        model: "gpt2".into(),
        pre: Some(pre),
        tokens,
        token_types: Some(types),
        merges: Some(merges.collect()),
        bos: first.or(start.config.bos),
        eos: last.or(start.config.eos.first().copied()),
        eot: find(&END_OF_TURN),
        padding: find(&["<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"]),
        add_bos: Some(first.is_some()),
        add_eos: last.map(|_| true),
        ..Vocabulary::default()
    })
}

/// Names the rule by which a component cuts text: the patterns of its splits, or that of its byte level.
fn rule(component: &Value, ignore_merges: bool) -> Option<&'static str> {
    let mut patterns = Vec::new();
    collect(component, &mut patterns)?;
    SplitRule::by_patterns(&patterns, ignore_merges).map(|rule| rule.names[0])
}

/// Collects the patterns of a component; `None` where it, or a part of it, cuts otherwise.
fn collect<'v>(component: &'v Value, patterns: &mut Vec<&'v str>) -> Option<()> {
    match component["type"].as_str()? {
        "Sequence" => {
            component["pretokenizers"].as_array()?.iter().try_for_each(|part| collect(part, patterns))
        }
        "ByteLevel" => {
            if component["use_regex"].as_bool().unwrap_or(true) {
                patterns.extend(SplitRule::by_name("gpt-2")?.patterns);
            }
            // A space before a text is what no rule of GGUF files puts there.
            (component["add_prefix_space"].as_bool() == Some(false)).then_some(())
        }
        "Split" => {
            // Removing what is between matches is isolating them, where they cover the text as all of these do.
            let is_inverted = component["invert"].as_bool().unwrap_or(false);
            let wanted = if is_inverted { "Removed" } else { "Isolated" };
            patterns.push(component["pattern"]["Regex"].as_str()?);
            (component["behavior"].as_str() == Some(wanted)).then_some(())
        }
        _ => None,
    }
}

/// Special tokens before a text and behind it.
type Around = (Vec<String>, Vec<String>);

/// Returns the special tokens that a post-processor puts around a text; `None` for one that does it in a way of its own.
fn around(component: &Value) -> Option<Around> {
    let (mut before, mut after, mut is_behind) = (Vec::new(), Vec::new(), false);
    match component["type"].as_str().unwrap_or_default() {
        // The offsets of tokens alone are its business.
        "" | "ByteLevel" => {}
        "Sequence" => {
            for part in component["processors"].as_array()? {
                let (first, last) = around(part)?;
                before.splice(0..0, first);
                after.extend(last);
            }
        }
        "TemplateProcessing" => {
            for part in component["single"].as_array()? {
                match part["SpecialToken"]["id"].as_str() {
                    Some(token) if is_behind => after.push(token.to_owned()),
                    Some(token) => before.push(token.to_owned()),
                    None => is_behind = true,
                }
            }
        }
        _ => return None,
    }
    Some((before, after))
}
