//! What the files beside a `tokenizer.model` add to it: tokens, and which go around a text.
//!
//! tokenizer_config.json has `add_bos_token`, `add_eos_token` and `added_tokens_decoder`; without the last,
//! added_tokens.json has the tokens.

use serde_json::{Map, Value};

use crate::error::printable;
use crate::tokenizer::vocabulary::quote;
use crate::tokenizer::{TokenizerError, Vocabulary};

/// A file and its name in errors.
type Beside<'f> = Option<(&'f [u8], &'f str)>;
/// Id, spelling, and whether it is a control token.
type Added = Vec<(u32, String, bool)>;

impl Vocabulary {
    /// Adds to a sentencepiece vocabulary what tokenizer_config.json and added_tokens.json say, each with its name.
    ///
    /// Errors: [`TokenizerError::Malformed`] naming file and field; as [`add_tokens`](Self::add_tokens).
    pub fn complete(&mut self, config: Beside<'_>, added: Beside<'_>) -> Result<(), TokenizerError> {
        let settings = object(config)?;
        let name = config.map_or("", |(_, name)| name);
        self.add_bos = flag(&settings, "add_bos_token", name)?;
        self.add_eos = flag(&settings, "add_eos_token", name)?;
        let tokens = match settings.get("added_tokens_decoder") {
            Some(Value::Object(decoder)) => from_decoder(decoder, name)?,
            None | Some(Value::Null) => from_added(&object(added)?, added.map_or("", |(_, name)| name))?,
            Some(other) => return Err(malformed(name, "added_tokens_decoder", "an object", other)),
        };
        self.add_tokens(tokens)
    }
}

/// Returns a setting that is true or false; `None` where it is not said.
fn flag(settings: &Map<String, Value>, field: &str, name: &str) -> Result<Option<bool>, TokenizerError> {
    match settings.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(malformed(name, field, "true or false", other)),
    }
}

/// Tokens as `{"32000": {"content": "<pad>", "special": true}}`.
fn from_decoder(decoder: &Map<String, Value>, name: &str) -> Result<Added, TokenizerError> {
    let entry = |id: &String, token: &Value| {
        let content = token.get("content").and_then(Value::as_str)?;
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        Some((id.parse().ok()?, content.to_string(), special))
    };
    let each = decoder.iter().map(|(id, token)| {
        entry(id, token).ok_or_else(|| {
            let field = format!("added_tokens_decoder[{}]", quote(id));
            malformed(name, &field, "an id, with a token that has a content", token)
        })
    });
    each.collect()
}

/// Tokens as `{"<pad>": 32000}`. Nothing tells control tokens from others there, so all of them are.
fn from_added(added: &Map<String, Value>, name: &str) -> Result<Added, TokenizerError> {
    let each = added.iter().map(|(token, id)| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((id, token.clone(), true)),
        None => Err(malformed(name, &quote(token), "a token id", id)),
    });
    each.collect()
}

fn object(file: Beside<'_>) -> Result<Map<String, Value>, TokenizerError> {
    let Some((bytes, name)) = file else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| malformed(name, "(whole file)", "a JSON object", &error))
}

fn malformed(origin: &str, field: &str, expected: &str, found: &dyn std::fmt::Display) -> TokenizerError {
    let found = printable(&found.to_string(), 80);
    TokenizerError::Malformed {
        origin: origin.to_string(),
        field: field.to_string(),
        expected: expected.to_string(),
        found,
    }
}
