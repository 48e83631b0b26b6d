//! What turns text into ids for one model: its tokenizer, its chat template and the tokens that end a turn, from
//! whichever files of the model have them.
//!
//! A folder: `tokenizer.json`, or else `tokenizer.model` with the tokens that `tokenizer_config.json` or
//! `added_tokens.json` add to it. A GGUF file: its metadata, which needs no tensors beside it.

use bitnet_core::tokenizer::{Tokenizer, Vocabulary};
use bitnet_model::{Gguf, ModelFiles};

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
            let (config, added) = (files.tokenizer_config_json()?, files.added_tokens_json()?);
            let (config_name, added_name) = (name("tokenizer_config.json"), name("added_tokens.json"));
            vocabulary.complete(
                config.as_deref().map(|bytes| (bytes, config_name.as_str())),
                added.as_deref().map(|bytes| (bytes, added_name.as_str())),
            )?;
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
