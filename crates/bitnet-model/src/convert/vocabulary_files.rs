//! The vocabulary of a GGUF file as the files of a folder: tokenizer.json for byte-level BPE, tokenizer.model for
//! sentencepiece, and tokenizer_config.json with what goes around a text.
//!
//! Contract: the files give the ids that the vocabulary gives, or a note says where they do not.

use bitnet_core::tokenizer::{SplitRule, TokenType, Tokenizer, TokenizerError, Vocabulary, merge_halves};
use serde_json::{Map, Value, json};

type Files = Vec<(String, Vec<u8>)>;

/// A vocabulary with what is worked out of it.
struct Source {
    vocabulary: Vocabulary,
    types: Vec<TokenType>,
    /// The ids before and behind a text.
    ends: (Vec<u32>, Vec<u32>),
}

/// Returns the files. What has no form in them leaves the tokenizer out, with a note.
///
/// # Errors
/// A vocabulary that contradicts itself, by its key in the file `origin`.
pub(super) fn of(
    vocabulary: Vocabulary,
    origin: &str,
    notes: &mut Vec<String>,
) -> Result<Files, TokenizerError> {
    // What the engine refuses is not made up for here.
    if let Err(error @ TokenizerError::Malformed { .. }) =
        Tokenizer::from_vocabulary(vocabulary.clone(), origin)
    {
        return Err(error);
    }
    let vocabulary = vocabulary.with_usual_ids();
    let source = Source { types: vocabulary.check(origin)?, ends: vocabulary.ends(origin)?, vocabulary };
    let mut files = match tokenizer(&source, notes) {
        Ok(file) => vec![file, ("tokenizer_config.json".to_owned(), config_of(&source))],
        Err(what) => {
            notes.push(format!("{what}: no tokenizer is written"));
            Vec::new()
        }
    };
    match source.vocabulary.chat_template {
        // Readers take the one of the family for it: it is known to be wrong.
        Some(template) if template.contains("BITNET") => {
            notes.push("the embedded chat template is the wrong one of the first uploads: left out".into());
        }
        Some(template) => files.push(("chat_template.jinja".into(), template.into_bytes())),
        None => {}
    }
    Ok(files)
}

fn tokenizer(source: &Source, notes: &mut Vec<String>) -> Result<(String, Vec<u8>), String> {
    let vocabulary = &source.vocabulary;
    match vocabulary.model.as_str() {
        "gpt2" => {
            let pre = vocabulary.effective_pre();
            let rule = SplitRule::by_name(pre).filter(|rule| !rule.raw);
            let rule = rule.ok_or_else(|| format!("the rule {pre:?} has no form in tokenizer.json here"))?;
            Ok(("tokenizer.json".into(), json_of(source, rule)?))
        }
        "llama" | "t5" => {
            if vocabulary.tokens.iter().any(String::is_empty) {
                return Err("an empty token has no form in tokenizer.model".into());
            }
            notes.extend(by_source(vocabulary));
            Ok(("tokenizer.model".into(), sentencepiece_of(source)))
        }
        other => Err(format!("the vocabulary {other:?} has no form as a file here")),
    }
}

/// Says which texts may get other ids from a tokenizer.model than from a GGUF vocabulary of the same tokens.
pub(super) fn by_source(vocabulary: &Vocabulary) -> Option<String> {
    let types = vocabulary.token_types.as_deref().unwrap_or_default();
    let is_user_defined = types.contains(&(TokenType::UserDefined as i32));
    match vocabulary.model.as_str() {
        "t5" => Some(
            "cuts of nearly the same score may differ: GGUF adds scores in double precision, tokenizer.model in single"
                .into(),
        ),
        "llama" if is_user_defined => Some(
            "text beside user-defined tokens may get other ids: GGUF puts a space before it, tokenizer.model none"
                .into(),
        ),
        _ => None,
    }
}

/// Makes tokenizer_config.json: which tokens go around a text, and how they are spelled.
fn config_of(source: &Source) -> Vec<u8> {
    let Source { vocabulary, ends: (before, after), .. } = source;
    let mut out = Map::new();
    out.insert("add_bos_token".into(), (!before.is_empty()).into());
    out.insert("add_eos_token".into(), (!after.is_empty()).into());
    let tokens = [
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("unk_token", vocabulary.unknown),
        ("pad_token", vocabulary.padding),
    ];
    for (name, id) in tokens {
        if let Some(token) = vocabulary.token(id) {
            out.insert(name.into(), token.into());
        }
    }
    Value::Object(out).to_string().into_bytes()
}

fn json_of(source: &Source, rule: &SplitRule) -> Result<Vec<u8>, String> {
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, (token, kind)) in source.vocabulary.tokens.iter().zip(&source.types).enumerate() {
        // No text contains it.
        if token.is_empty() {
            continue;
        }
        if kind.is_special() || *kind == TokenType::UserDefined {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind.is_special(),
            }));
        }
        // Added tokens stand in both places: their ids are free otherwise.
        if vocab.insert(token.clone(), id.into()).is_some() {
            return Err("a token that is there twice has no form in tokenizer.json".into());
        }
    }
    let merges = source.vocabulary.merges.iter().flatten();
    let merges: Option<Vec<[&str; 2]>> =
        merges.map(|merge| merge_halves(merge).map(|(left, right)| [left, right])).collect();
    let merges = merges.ok_or("a merge that is no pair of tokens has no form in tokenizer.json")?;
    let splits = rule.patterns.iter().map(|pattern| {
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
    });
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": splits.chain([bytes]).collect::<Vec<_>>() },
        "post_processor": post_processor(source),
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": rule.ignore_merges, "vocab": vocab, "merges": merges,
        },
    });
    Ok(file.to_string().into_bytes())
}

/// Makes the template that puts tokens around a text; null where there are none.
fn post_processor(Source { vocabulary, ends: (before, after), .. }: &Source) -> Value {
    if before.is_empty() && after.is_empty() {
        return Value::Null;
    }
    let spelled = |id: &u32| vocabulary.token(Some(*id)).unwrap_or_default();
    let around = |text: &str, kind: u32| {
        let special = |id: &u32| json!({ "SpecialToken": { "id": spelled(id), "type_id": kind } });
        let text = json!({ "Sequence": { "id": text, "type_id": kind } });
        before.iter().map(special).chain([text]).chain(after.iter().map(special)).collect::<Vec<_>>()
    };
    let tokens = before.iter().chain(after).map(|id| {
        (spelled(id).to_owned(), json!({ "id": spelled(id), "ids": [id], "tokens": [spelled(id)] }))
    });
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": pair,
        "special_tokens": tokens.collect::<Map<_, _>>(),
    })
}

/// Makes the protobuf of a sentencepiece model: pieces with score and type, the kind of model, and how text is prepared.
fn sentencepiece_of(source: &Source) -> Vec<u8> {
    let Source { vocabulary, types, ends } = source;
    let mut out = Vec::new();
    for (id, (token, kind)) in (0_u32..).zip(vocabulary.tokens.iter().zip(types)) {
        let scores = vocabulary.scores.as_ref();
        let score = scores.and_then(|scores| scores.get(id as usize)).copied().unwrap_or(0.0);
        // What goes around a text is found by its name among the control tokens.
        let is_end = ends.0.contains(&id) || ends.1.contains(&id);
        let kind = match kind {
            _ if is_end => TokenType::Control,
            TokenType::Undefined => TokenType::Normal,
            kind => *kind,
        };
        let mut piece = Vec::new();
        field(&mut piece, 1, token.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        number(&mut piece, 3, kind as u64);
        field(&mut out, 1, &piece);
    }
    let mut trainer = Vec::new();
    number(&mut trainer, 3, if vocabulary.model == "t5" { 1 } else { 2 });
    number(&mut trainer, 35, u64::from(types.contains(&TokenType::Byte)));
    let named =
        [(40, vocabulary.unknown), (41, vocabulary.bos), (42, vocabulary.eos), (43, vocabulary.padding)];
    for (tag, id) in named {
        if let Some((id, token)) = id.zip(vocabulary.token(id)) {
            number(&mut trainer, tag, u64::from(id));
            // The fields of the names follow those of the ids.
            field(&mut trainer, tag + 5, token.as_bytes());
        }
    }
    field(&mut out, 2, &trainer);
    let mut normalizer = Vec::new();
    match &vocabulary.charsmap {
        None => field(&mut normalizer, 1, b"identity"),
        Some(table) => {
            field(&mut normalizer, 1, b"user_defined");
            field(&mut normalizer, 2, table);
        }
    }
    number(&mut normalizer, 3, u64::from(vocabulary.has_space_prefix()));
    number(&mut normalizer, 4, u64::from(vocabulary.fewer_spaces.unwrap_or(false)));
    number(&mut normalizer, 5, 1);
    field(&mut out, 3, &normalizer);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, tag: u64, value: u64) {
    varint(out, tag << 3);
    varint(out, value);
}

fn field(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    varint(out, tag << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_refuses_is_an_error_and_not_made_up_for() {
        let tokens = ["<unk>", "a", "b"].map(str::to_owned).to_vec();
        let vocabulary = Vocabulary { model: "llama".into(), tokens, ..Vocabulary::default() };
        let error = of(vocabulary.clone(), "m.gguf", &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("m.gguf: tokenizer.ggml.scores: expected a list"), "{error}");
        let scored = Vocabulary { scores: Some(vec![0.0, -1.0, f32::NAN]), ..vocabulary };
        assert!(of(scored, "m.gguf", &mut Vec::new()).is_err());
    }
}
