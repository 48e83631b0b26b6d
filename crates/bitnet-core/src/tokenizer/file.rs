//! Reads tokenizer files into the `tokenizers` crate's parts, checking what that crate takes on trust.
//!
//! `tokenizer.json` is cut into its fields, each parsed on its own (nesting bounded by serde_json), so that an
//! error names its field and the vocabulary never stands in memory twice. A BPE model is checked here: the crate indexes with the
//! lengths of its merges before it looks them up. `truncation`, `padding` and `dropout` belong to
//! training and are not taken over: the same text always gives all of its ids.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

use super::TokenizerError;
use super::contained::contained;
use super::error::one_line;
use super::growth::{GROWTH_LIMIT, growth};
use super::json_stream::{WalkError, for_each_entry, for_each_item};
use super::vocabulary::quote;

/// The fields of an object, each as its text; of repeated ones the last.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Entries of a plain `vocab.json` that are control tokens wherever they occur.
const CONTROL_TOKENS: [&str; 6] = ["<|endoftext|>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// Parses a `tokenizer.json`.
pub(super) fn parse_tokenizer_json(bytes: &[u8], origin: &str) -> Result<Tokenizer, TokenizerError> {
    let file = File { origin };
    let mut root = file.object(file.json(bytes)?, "(root)")?;
    let version = file.field(&mut root, "version")?;
    if !matches!(&version, Value::Null) && version != "1.0" {
        return Err(file.malformed("version", "\"1.0\"", describe(&version)));
    }
    let model = root.remove("model");
    let added = file.field(&mut root, "added_tokens")?;
    file.guarded("read the file", || {
        let mut tokenizer = Tokenizer::new(file.model(model)?);
        let normalizer = file.part::<NormalizerWrapper>(&mut root, "normalizer")?;
        tokenizer.with_normalizer(normalizer).map_err(|e| file.library("set the normalizer", e))?;
        tokenizer.with_pre_tokenizer(file.part::<PreTokenizerWrapper>(&mut root, "pre_tokenizer")?);
        tokenizer.with_post_processor(file.part::<PostProcessorWrapper>(&mut root, "post_processor")?);
        tokenizer.with_decoder(file.part::<DecoderWrapper>(&mut root, "decoder")?);
        file.add_tokens(&mut tokenizer, added)?;
        Ok(tokenizer)
    })
}

/// Builds a byte-level BPE tokenizer from the bytes of a `vocab.json` and of a `merges.txt`.
pub(super) fn parse_bpe(vocab: (&[u8], &str), merges: (&[u8], &str)) -> Result<Tokenizer, TokenizerError> {
    let vocab_file = File { origin: vocab.1 };
    let merges_file = File { origin: merges.1 };
    let vocab = vocab_file.vocab(vocab_file.json(vocab.0)?, "(root)")?;
    let text =
        std::str::from_utf8(merges.0).map_err(|e| merges_file.malformed("(whole file)", "UTF-8 text", e))?;
    let mut pairs = Merges::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || (number == 0 && line.starts_with("#version")) {
            continue;
        }
        let field = || format!("line {}", number + 1);
        let pair = split_merge(line).ok_or_else(|| {
            merges_file.malformed(&field(), "two entries separated by one space", quote(line))
        })?;
        merges_file.check_merge(&vocab, &pair, "", &field)?;
        pairs.push(pair);
    }
    let special: Vec<AddedToken> = CONTROL_TOKENS
        .iter()
        .filter(|token| vocab.contains_key(**token))
        .map(|token| AddedToken::from(*token, true))
        .collect();
    let mut builder = BPE::builder();
    if vocab.contains_key("<unk>") {
        builder = builder.unk_token("<unk>".to_string());
    }
    let model = builder
        .vocab_and_merges(vocab, pairs)
        .build()
        .map_err(|e| merges_file.library("build the BPE model", e))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.add_special_tokens(special).map_err(|e| vocab_file.library("mark its control tokens", e))?;
    Ok(tokenizer)
}

/// A file under inspection: makes the errors that name it.
struct File<'a> {
    origin: &'a str,
}

impl File<'_> {
    fn malformed(&self, field: &str, expected: &str, found: impl std::fmt::Display) -> TokenizerError {
        TokenizerError::Malformed {
            origin: self.origin.to_string(),
            field: field.to_string(),
            expected: expected.to_string(),
            found: one_line(found),
        }
    }

    fn library(&self, operation: &'static str, reason: impl std::fmt::Display) -> TokenizerError {
        TokenizerError::Library { origin: self.origin.to_string(), operation, reason: one_line(reason) }
    }

    /// Runs `work`; a panic inside the crate, which trusts its files, becomes an error.
    fn guarded<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> Result<T, TokenizerError>,
    ) -> Result<T, TokenizerError> {
        contained(work)
            .unwrap_or_else(|| Err(self.library(operation, "the tokenizer library panicked on its contents")))
    }

    fn json<'b>(&self, bytes: &'b [u8]) -> Result<&'b RawValue, TokenizerError> {
        serde_json::from_slice(bytes).map_err(|e| self.malformed("(whole file)", "JSON", e))
    }

    fn object<'b>(&self, raw: &'b RawValue, field: &str) -> Result<Fields<'b>, TokenizerError> {
        serde_json::from_str(raw.get()).map_err(|e| match self.value(raw, field) {
            Ok(value) if !value.is_object() => self.malformed(field, "an object", describe(&value)),
            _ => self.malformed(field, "JSON", e),
        })
    }

    fn value(&self, raw: &RawValue, field: &str) -> Result<Value, TokenizerError> {
        serde_json::from_str(raw.get()).map_err(|e| self.malformed(field, "JSON", e))
    }

    /// Takes a small field out of an object; null when it is not there.
    fn field(&self, fields: &mut Fields<'_>, field: &str) -> Result<Value, TokenizerError> {
        fields.remove(field).map_or(Ok(Value::Null), |raw| self.value(raw, field))
    }

    /// Reports how a walk over `field` failed.
    fn walked(
        &self,
        walked: Result<(), WalkError<TokenizerError>>,
        field: &str,
        expected: &str,
    ) -> Result<(), TokenizerError> {
        walked.map_err(|error| match error {
            WalkError::Entry(error) => error,
            WalkError::Shape(error) => self.malformed(field, expected, error),
        })
    }

    /// Takes an optional part of the pipeline out of the root object.
    fn part<T: serde::de::DeserializeOwned>(
        &self,
        root: &mut Fields<'_>,
        field: &'static str,
    ) -> Result<Option<T>, TokenizerError> {
        let value = self.field(root, field)?;
        let growth = growth(&value);
        if growth > GROWTH_LIMIT {
            let expected = format!("replacements that make a text at most {GROWTH_LIMIT} times as long");
            return Err(self.malformed(field, &expected, format!("up to {growth} times")));
        }
        match value {
            Value::Null => Ok(None),
            value => serde_json::from_value(value)
                .map(Some)
                .map_err(|e| self.malformed(field, "a known component", e)),
        }
    }

    fn model(&self, raw: Option<&RawValue>) -> Result<ModelWrapper, TokenizerError> {
        let raw = raw.ok_or_else(|| self.malformed("model", "an object", "nothing"))?;
        let mut fields = self.object(raw, "model")?;
        let is_bpe = match self.field(&mut fields, "type")? {
            Value::Null => fields.contains_key("merges"),
            kind => kind == "BPE",
        };
        if is_bpe {
            return Ok(self.bpe(fields)?.into());
        }
        serde_json::from_str(raw.get())
            .map_err(|e| self.malformed("model", "a BPE, WordPiece, WordLevel or Unigram model", e))
    }

    fn bpe(&self, mut map: Fields<'_>) -> Result<BPE, TokenizerError> {
        let missing = |field: &str, expected: &str| self.malformed(field, expected, "nothing");
        let vocab = map.remove("vocab").ok_or_else(|| missing("model.vocab", "an object"))?;
        let vocab = self.vocab(vocab, "model.vocab")?;
        let prefix = self.text(&mut map, "continuing_subword_prefix")?;
        let suffix = self.text(&mut map, "end_of_word_suffix")?;
        let unknown = self.text(&mut map, "unk_token")?;
        let merges = map.remove("merges").ok_or_else(|| missing("model.merges", "a list"))?;
        let merges = self.merges(merges, &vocab, prefix.as_deref().unwrap_or(""))?;
        let mut builder = BPE::builder()
            .fuse_unk(self.flag(&mut map, "fuse_unk")?)
            .byte_fallback(self.flag(&mut map, "byte_fallback")?)
            .ignore_merges(self.flag(&mut map, "ignore_merges")?);
        if let Some(token) = unknown {
            if !vocab.contains_key(&token) {
                return Err(self.malformed("model.unk_token", "an entry of model.vocab", quote(&token)));
            }
            builder = builder.unk_token(token);
        }
        if let Some(prefix) = prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.vocab_and_merges(vocab, merges).build().map_err(|e| self.library("build the BPE model", e))
    }

    fn vocab(&self, raw: &RawValue, field: &str) -> Result<Vocab, TokenizerError> {
        let (mut seen, mut vocab) = (HashSet::new(), Vocab::new());
        let walked = for_each_entry(raw, |token, id| {
            let id = self.id(&id, || format!("{field}[{}]", quote(&token)))?;
            if !seen.insert(id) {
                let field = format!("{field}[{}]", quote(&token));
                return Err(self.malformed(&field, "an id of its own", format!("{id}, given twice")));
            }
            vocab.insert(token, id);
            Ok(())
        });
        self.walked(walked, field, "an object")?;
        vocab.shrink_to_fit();
        Ok(vocab)
    }

    fn id(&self, value: &Value, field: impl Fn() -> String) -> Result<u32, TokenizerError> {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .filter(|&id| id < u32::MAX)
            .ok_or_else(|| self.malformed(&field(), "a token id below 4294967295", describe(value)))
    }

    fn merges(&self, raw: &RawValue, vocab: &Vocab, prefix: &str) -> Result<Merges, TokenizerError> {
        let (mut merges, mut rank) = (Merges::new(), 0);
        let walked = for_each_item(raw, |entry| {
            let field = || format!("model.merges[{rank}]");
            let pair = match &entry {
                Value::String(line) if line.starts_with("#version") => return Ok(()),
                Value::String(line) => split_merge(line),
                Value::Array(pair) => match pair.as_slice() {
                    [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
                    _ => None,
                },
                _ => None,
            };
            let pair = pair.ok_or_else(|| {
                self.malformed(&field(), "a pair of entries, as \"a b\" or [\"a\", \"b\"]", describe(&entry))
            })?;
            self.check_merge(vocab, &pair, prefix, &field)?;
            merges.push(pair);
            rank += 1;
            Ok(())
        });
        self.walked(walked, "model.merges", "a list")?;
        Ok(merges)
    }

    /// Holds a merge against the vocabulary: both sides and the result have to be entries.
    fn check_merge(
        &self,
        vocab: &Vocab,
        (left, right): &(String, String),
        prefix: &str,
        field: &dyn Fn() -> String,
    ) -> Result<(), TokenizerError> {
        for side in [left, right] {
            if !vocab.contains_key(side) {
                return Err(self.malformed(&field(), "two entries of the vocabulary", quote(side)));
            }
        }
        let Some(tail) = right.strip_prefix(prefix) else {
            let expected = format!("a right side that begins with {}", quote(prefix));
            return Err(self.malformed(&field(), &expected, quote(right)));
        };
        let merged = format!("{left}{tail}");
        if !vocab.contains_key(&merged) {
            return Err(self.malformed(
                &field(),
                "a merge whose result is in the vocabulary",
                quote(&merged),
            ));
        }
        Ok(())
    }

    fn text(&self, fields: &mut Fields<'_>, field: &str) -> Result<Option<String>, TokenizerError> {
        match self.field(fields, field)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            other => Err(self.malformed(&format!("model.{field}"), "a string or null", describe(&other))),
        }
    }

    fn flag(&self, fields: &mut Fields<'_>, field: &str) -> Result<bool, TokenizerError> {
        match self.field(fields, field)? {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            other => Err(self.malformed(&format!("model.{field}"), "true or false", describe(&other))),
        }
    }

    /// Adds the added tokens and makes sure that each has the id that its file gives it.
    fn add_tokens(&self, tokenizer: &mut Tokenizer, value: Value) -> Result<(), TokenizerError> {
        let list = match value {
            Value::Null => return Ok(()),
            Value::Array(list) => list,
            other => return Err(self.malformed("added_tokens", "a list", describe(&other))),
        };
        let mut tokens: Vec<(u32, AddedToken)> = Vec::with_capacity(list.len());
        for (index, entry) in list.into_iter().enumerate() {
            let id = entry.get("id").unwrap_or(&Value::Null);
            let id = self.id(id, || format!("added_tokens[{index}].id"))?;
            let token: AddedToken = serde_json::from_value(entry)
                .map_err(|e| self.malformed(&format!("added_tokens[{index}]"), "an added token", e))?;
            if token.content.is_empty() {
                let field = format!("added_tokens[{index}].content");
                return Err(self.malformed(&field, "a non-empty string", "\"\""));
            }
            tokens.push((id, token));
        }
        tokens.sort_by_key(|(id, _)| *id);
        let wanted: Vec<(u32, String)> =
            tokens.iter().map(|(id, token)| (*id, token.content.clone())).collect();
        tokenizer
            .add_tokens(tokens.into_iter().map(|(_, token)| token))
            .map_err(|e| self.library("add its added_tokens", e))?;
        for (id, content) in &wanted {
            let given = tokenizer.token_to_id(content);
            if given != Some(*id) {
                let field = format!("added_tokens: id of {}", quote(content));
                let expected = given.map_or("an id".to_string(), |id| format!("{id}, the next free id"));
                return Err(self.malformed(&field, &expected, id));
            }
        }
        Ok(())
    }
}

fn split_merge(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    let whole = !left.is_empty() && !right.is_empty() && !right.contains(' ');
    whole.then(|| (left.to_string(), right.to_string()))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_string(),
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}
