//! The vocabulary of a GGUF file as the files of a folder: tokenizer.json for byte-level BPE, tokenizer.model for
//! sentencepiece.

use bitnet_core::tokenizer::Vocabulary;
use serde_json::{Map, Value, json};

use super::tokenizer::pattern_of;

/// Returns the files; a rule that is not known by its pattern leaves the tokenizer out, with a note.
pub(super) fn of(vocabulary: &Vocabulary, notes: &mut Vec<String>) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    match vocabulary.model.as_str() {
        "gpt2" => {
            // A file that names no rule has that of Llama 3 if it has its begin token.
            let pre = vocabulary.pre.as_deref().filter(|pre| !pre.is_empty());
            let llama3 = vocabulary.token(vocabulary.bos) == Some("<|begin_of_text|>");
            let pre = pre.or(llama3.then_some("llama-bpe")).unwrap_or("default");
            match pattern_of(pre) {
                Some(pattern) => files.push(("tokenizer.json".into(), json_of(vocabulary, pattern, pre))),
                None => notes.push(format!(
                    "the rule {pre:?} has no form in tokenizer.json here: no tokenizer is written"
                )),
            }
        }
        "llama" | "t5" => files.push(("tokenizer.model".into(), sentencepiece_of(vocabulary))),
        other => notes
            .push(format!("the vocabulary {other:?} has no form as a file here: no tokenizer is written")),
    }
    match &vocabulary.chat_template {
        // Readers take the one of the family for it: it is known to be wrong.
        Some(template) if template.contains("BITNET") => {
            notes.push("the embedded chat template is the wrong one of the first uploads: left out".into());
        }
        Some(template) => files.push(("chat_template.jinja".into(), template.clone().into_bytes())),
        None => {}
    }
    files
}

fn kind(vocabulary: &Vocabulary, id: usize) -> i32 {
    vocabulary.token_types.as_ref().and_then(|types| types.get(id)).copied().unwrap_or(1)
}

fn json_of(vocabulary: &Vocabulary, pattern: &str, pre: &str) -> Vec<u8> {
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let kind = kind(vocabulary, id);
        if matches!(kind, 3 | 4) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == 3,
            }));
        }
        // Added tokens stand in both places: their ids are free otherwise.
        vocab.insert(token.clone(), id.into());
    }
    let bos = vocabulary.token(vocabulary.bos).filter(|_| vocabulary.add_bos.unwrap_or(pre == "llama-bpe"));
    let post_processor = match bos {
        None => Value::Null,
        Some(bos) => json!({
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }
            ],
            "pair": [
                { "SpecialToken": { "id": bos, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": bos, "type_id": 1 } }, { "Sequence": { "id": "B", "type_id": 1 } }
            ],
            "special_tokens": { bos: { "id": bos, "ids": [vocabulary.bos], "tokens": [bos] } },
        }),
    };
    let merges: Vec<[&str; 2]> = vocabulary
        .merges
        .iter()
        .flatten()
        // A space separates the halves; within them it is spelled otherwise.
        .filter_map(|merge| merge.split_once(' ').map(|(left, right)| [left, right]))
        .collect();
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
                { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
            ],
        },
        "post_processor": post_processor,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    });
    file.to_string().into_bytes()
}

/// Makes the protobuf of a sentencepiece model: pieces with score and type, the kind of model, and how text is prepared.
fn sentencepiece_of(vocabulary: &Vocabulary) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let score = vocabulary.scores.as_ref().and_then(|scores| scores.get(id)).copied().unwrap_or(0.0);
        let mut piece = Vec::new();
        field(&mut piece, 1, token.as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend(score.to_le_bytes());
        number(&mut piece, 3, kind(vocabulary, id).clamp(1, 6) as u64);
        field(&mut out, 1, &piece);
    }
    let mut trainer = Vec::new();
    let has_bytes = (0..vocabulary.tokens.len()).any(|id| kind(vocabulary, id) == 6);
    number(&mut trainer, 3, if vocabulary.model == "t5" { 1 } else { 2 });
    number(&mut trainer, 35, u64::from(has_bytes));
    for (tag, id) in [(40, vocabulary.unknown), (41, vocabulary.bos), (42, vocabulary.eos)] {
        if let Some(id) = id {
            number(&mut trainer, tag, u64::from(id));
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
    number(&mut normalizer, 3, u64::from(vocabulary.add_space_prefix.unwrap_or(true)));
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
