//! What turns text into ids for one model: its tokenizer, its chat template and the tokens that end a turn, from
//! whichever files of the model have them.
//!
//! A folder: `tokenizer.json`, or else `tokenizer.model` with the tokens that `tokenizer_config.json` or
//! `added_tokens.json` add to it. A GGUF file: its metadata, which needs no tensors beside it.

use bitnet_core::tokenizer::{Tokenizer, TokenizerError, Vocabulary};
use bitnet_model::{Gguf, ModelFiles};
use serde_json::{Map, Value as Json};

use crate::EngineError;
use crate::chat::ChatTemplate;

/// The text side of a model.
#[derive(Debug, Clone)]
pub struct ModelText {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The template of conversations, where the model has one.
    pub template: Option<ChatTemplate>,
    /// Ids that end a text or a turn by what the vocabulary says.
    pub end_tokens: Vec<u32>,
    /// The file that the tokenizer comes from.
    pub file: String,
    /// What had to be assumed, one line each.
    pub assumptions: Vec<String>,
}

impl ModelText {
    /// Reads the text side of a model; `None` where it has no tokenizer.
    ///
    /// # Errors
    /// Files that are unreadable, damaged or of a kind that is not supported, each named.
    pub fn load(files: &ModelFiles) -> Result<Option<Self>, EngineError> {
        if let Some(gguf) = files.gguf() {
            return Self::from_gguf(gguf);
        }
        let name = |file: &str| files.path(file).display().to_string();
        let (tokenizer, file) = if let Some(bytes) = files.tokenizer_json()? {
            let file = name("tokenizer.json");
            (Tokenizer::from_bytes(&bytes, &file)?, file)
        } else if let Some(bytes) = files.tokenizer_model()? {
            let file = name("tokenizer.model");
            let mut vocabulary = Vocabulary::from_sentencepiece(&bytes, &file)?;
            complete(&mut vocabulary, files)?;
            (Tokenizer::from_vocabulary(vocabulary, &file)?, file)
        } else {
            return Ok(None);
        };
        let template = folder_template(files)?;
        Ok(Some(ModelText { tokenizer, template, end_tokens: Vec::new(), file, assumptions: Vec::new() }))
    }

    /// Reads the text side of a GGUF file, with or without tensors; `None` where it has no vocabulary.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>, EngineError> {
        let Some(vocabulary) = gguf.vocabulary()? else { return Ok(None) };
        let file = gguf.path().display().to_string();
        let mut assumptions = vocabulary.assumptions();
        let (template, assumed) = ChatTemplate::from_vocabulary(&vocabulary, &file)?;
        assumptions.extend(assumed);
        let end_tokens = [vocabulary.eos, vocabulary.eot].into_iter().flatten().collect();
        let tokenizer = Tokenizer::from_vocabulary(vocabulary, &file)?;
        Ok(Some(ModelText { tokenizer, template, end_tokens, file, assumptions }))
    }
}

fn folder_template(files: &ModelFiles) -> Result<Option<ChatTemplate>, EngineError> {
    let config = files.tokenizer_config_json()?;
    let jinja = files.chat_template()?;
    let name = |file: &str| files.path(file).display().to_string();
    let (config_name, jinja_name) = (name("tokenizer_config.json"), name("chat_template.jinja"));
    Ok(ChatTemplate::from_files(
        config.as_deref().map(|bytes| (bytes, config_name.as_str())),
        jinja.as_deref().map(|bytes| (bytes, jinja_name.as_str())),
    )?)
}

/// Adds to a sentencepiece vocabulary what the files beside it say.
fn complete(vocabulary: &mut Vocabulary, files: &ModelFiles) -> Result<(), EngineError> {
    let config = files.tokenizer_config_json()?;
    let config = object(config.as_deref(), files, "tokenizer_config.json")?;
    vocabulary.add_bos = config.get("add_bos_token").and_then(Json::as_bool);
    vocabulary.add_eos = config.get("add_eos_token").and_then(Json::as_bool);
    let added = match config.get("added_tokens_decoder") {
        Some(Json::Object(decoder)) => from_decoder(decoder, files)?,
        _ => {
            let added = files.added_tokens_json()?;
            from_added(&object(added.as_deref(), files, "added_tokens.json")?, files)?
        }
    };
    Ok(vocabulary.add_tokens(added)?)
}

type Added = Vec<(u32, String, bool)>;

/// Tokens as `{"32000": {"content": "<pad>", "special": true}}`.
fn from_decoder(decoder: &Map<String, Json>, files: &ModelFiles) -> Result<Added, EngineError> {
    let entry = |(id, token): (&String, &Json)| {
        let content = token.get("content").and_then(Json::as_str)?;
        let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
        Some((id.parse().ok()?, content.to_string(), special))
    };
    let each = decoder.iter().map(|(id, token)| {
        entry((id, token)).ok_or_else(|| {
            let field = format!("added_tokens_decoder[{id:?}]");
            malformed(files, "tokenizer_config.json", &field, "an id, with a token that has a content", token)
        })
    });
    each.collect()
}

/// Tokens as `{"<pad>": 32000}`. Nothing tells control tokens from others there, so all of them are.
fn from_added(added: &Map<String, Json>, files: &ModelFiles) -> Result<Added, EngineError> {
    let each = added.iter().map(|(token, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((id, token.clone(), true)),
        None => Err(malformed(files, "added_tokens.json", &format!("{token:?}"), "a token id", id)),
    });
    each.collect()
}

fn object(bytes: Option<&[u8]>, files: &ModelFiles, name: &str) -> Result<Map<String, Json>, EngineError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(bytes)
        .map_err(|error| malformed(files, name, "(whole file)", "a JSON object", &error))
}

fn malformed(
    files: &ModelFiles,
    name: &str,
    field: &str,
    expected: &str,
    found: &dyn std::fmt::Display,
) -> EngineError {
    let found = found.to_string().chars().take(80).collect();
    EngineError::Tokenizer(TokenizerError::Malformed {
        origin: files.path(name).display().to_string(),
        field: field.to_string(),
        expected: expected.to_string(),
        found,
    })
}
