//! Chat templates: messages become the text, and the ids, that a model was trained to see.
//!
//! Templates are Jinja, as published next to models, with the environment that `transformers` gives
//! them: `trim_blocks`, `lstrip_blocks`, Python's string and dict methods, `raise_exception`,
//! `strftime_now` (in UTC), `tojson` without HTML escapes, and `{% generation %}` blocks, which render
//! their body. A template runs on fuel, which bounds its steps and the text it makes (64 bytes a step). Lists
//! that it joins to themselves are not charged by the engine (see `docs/security.md`).
//!
//! [`ChatTemplate::encode`] keeps the contents of messages and the template apart: control tokens
//! that the template writes are parsed, the same characters inside a content are ordinary text (see
//! the module `guard` for how).

mod guard;
mod jinja;
pub mod saved;
#[cfg(all(test, feature = "tokenizers"))]
mod tests;

use std::collections::BTreeMap;

use bitnet_core::error::printable;
use bitnet_core::tokenizer::{EncodeOptions, Piece, Tokenizer, TokenizerError, Vocabulary};
use minijinja::Value;
use serde_json::Value as Json;

/// The name of the fallback in errors.
const PLAIN_NAME: &str = "the plain chat template";

/// Tokens that end a turn, over the published model families.
const END_OF_TURN: [&str; 11] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
];

/// What the template in the published GGUF file of the 2B-4T model is known by. The model was trained on another.
const WRONG_TEMPLATE: &str = "BITNETAssistant";

/// The format that the 2B-4T model was trained on.
const BITNET: &str = "\
{%- for message in messages -%}
{%- if loop.first and bos_token is defined -%}{{ bos_token }}{%- endif -%}
{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant: ' }}{% endif -%}";

/// The token after each turn of that format.
const BITNET_END: &str = "<|eot_id|>";

/// The fallback for models without a template, itself a template.
const PLAIN: &str = "\
{%- for message in messages -%}
{{ message['role'] | capitalize }}: {{ message['content'] | trim }}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}Assistant:{% endif -%}";

/// Why messages could not be laid out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file is not what it has to be.
    #[error("{file}: {field}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// What has to stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The template is not valid Jinja.
    #[error("{file}: chat template: line {line}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The template failed on these messages, or refused them with `raise_exception`.
    #[error("{file}: chat template: line {line}: cannot render the messages: {reason}")]
    Render {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The template's or the engine's words.
        reason: String,
    },
    /// The template took more steps or memory than any honest one needs.
    #[error("{file}: chat template: it did not end within {fuel} steps")]
    OutOfFuel {
        /// The file.
        file: String,
        /// The budget.
        fuel: u64,
    },
    /// The messages contain every private-use character, so that none is free to mark text with.
    #[error("messages: expected a private-use character that they do not contain, found all in use")]
    NoFreeCharacter,
    /// The tokenizer failed on the rendered text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows. Never text from
    /// outside the program: templates build control tokens from it.
    pub role: String,
    /// What is said: any text.
    pub content: String,
}

impl Message {
    /// Makes a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// Lays out a conversation for a model.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    /// The file that the source comes from.
    file: String,
    plain: bool,
    /// `bos_token`, `eos_token` and the like, by name.
    special: Vec<(&'static str, String)>,
    add_bos: bool,
}

impl ChatTemplate {
    /// Reads the template from a `tokenizer_config.json` and a `chat_template.jinja`, which goes first
    /// where both have one. Each is given as its bytes and the name or path that errors use.
    ///
    /// `chat_template` is a string or a list of `{name, template}`, of which `default` is taken;
    /// `bos_token` and `eos_token` are strings or objects with a `content`. `None`: there is no
    /// template, or an empty one, and [`ChatTemplate::plain`] can stand in.
    ///
    /// Errors: [`ChatError::Malformed`] naming the file and the field, [`ChatError::Syntax`].
    pub fn from_files(
        tokenizer_config: Option<(&[u8], &str)>,
        chat_template_jinja: Option<(&[u8], &str)>,
    ) -> Result<Option<Self>, ChatError> {
        let (config_file, config) = match tokenizer_config {
            Some((bytes, file)) => (file, parse_config(bytes, file)?),
            None => ("", Json::Null),
        };
        let own = chat_template_jinja
            .map(|(bytes, file)| parse_text(bytes, file).map(|text| (text, file)))
            .transpose()?;
        let (source, file) = match own.filter(|(source, _)| !source.is_empty()) {
            Some(own) => own,
            None => match template_of(&config, config_file)?.filter(|source| !source.is_empty()) {
                Some(source) => (source, config_file),
                None => return Ok(None),
            },
        };
        let mut special = Vec::new();
        for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            special.extend(token_of(&config, config_file, name)?.map(|token| (name, token)));
        }
        let add_bos = config.get("add_bos_token").and_then(Json::as_bool).unwrap_or(false);
        let source = jinja::prepare(&source, file)?;
        Ok(Some(ChatTemplate { source, file: file.to_string(), plain: false, special, add_bos }))
    }

    /// Takes the template of a vocabulary (`tokenizer.chat_template`), and says what had to be assumed.
    ///
    /// The one that the published GGUF file of the 2B-4T model carries (`Human:`, `BITNETAssistant:`) is not what that
    /// model was trained on: its documented format stands in for it, or nothing where the vocabulary lacks the
    /// token for the end of a turn.
    ///
    /// Errors: [`ChatError::Syntax`].
    pub fn from_vocabulary(
        vocabulary: &Vocabulary,
        file: &str,
    ) -> Result<(Option<Self>, Option<String>), ChatError> {
        let Some(source) = vocabulary.chat_template.as_deref().filter(|source| !source.is_empty()) else {
            return Ok((None, None));
        };
        let mut special = Vec::new();
        for (name, id) in [
            ("bos_token", vocabulary.bos),
            ("eos_token", vocabulary.eos),
            ("unk_token", vocabulary.unknown),
            ("pad_token", vocabulary.padding),
        ] {
            special.extend(vocabulary.token(id).map(|token| (name, token.to_string())));
        }
        let is_wrong = source.contains(WRONG_TEMPLATE);
        if is_wrong && !vocabulary.tokens.iter().any(|token| token == BITNET_END) {
            let assumed =
                format!("chat template: the file's own, with {WRONG_TEMPLATE}, fits no model; none is used");
            return Ok((None, Some(assumed)));
        }
        let assumed = is_wrong.then(|| {
            format!(
                "chat template: the file's own, with {WRONG_TEMPLATE}, is not what the model was trained on; \
                its documented format is used"
            )
        });
        let source = jinja::prepare(if is_wrong { BITNET } else { source }, file)?;
        let add_bos = vocabulary.add_bos.unwrap_or(false);
        Ok((Some(ChatTemplate { source, file: file.to_string(), plain: false, special, add_bos }), assumed))
    }

    /// Makes the fallback for models without a template.
    ///
    /// Each message is `Role: content` on a line of its own, the role capitalised and the content
    /// without surrounding whitespace; the generation prompt is `Assistant:`. A generated turn ends at
    /// [`stop_strings`](Self::stop_strings).
    pub fn plain() -> Self {
        ChatTemplate {
            source: PLAIN.to_string(),
            file: PLAIN_NAME.to_string(),
            plain: true,
            special: Vec::new(),
            add_bos: false,
        }
    }

    /// Returns whether this is the fallback.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Returns the strings that end a turn beside the model's stop tokens: those of the fallback.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        if self.plain { &["\nUser:", "\nSystem:"] } else { &[] }
    }

    /// Returns the text of a conversation, contents verbatim: to look at, not to encode.
    ///
    /// Errors: [`ChatError::Render`], [`ChatError::OutOfFuel`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, ChatError> {
        let messages = messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
        self.render_pairs(messages, add_generation_prompt)
    }

    /// Returns the ids of a conversation.
    ///
    /// Special tokens of the template are parsed, their spelling inside a content is not. Where the
    /// tokenizer begins texts with a BOS, or the template does, exactly one stands at the start.
    ///
    /// Errors: those of [`render`](Self::render) and of [`Tokenizer::encode`];
    /// [`ChatError::NoFreeCharacter`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, ChatError> {
        let special: Vec<String> = tokenizer.special_tokens().into_iter().map(|(_, token)| token).collect();
        let own = [self.source.as_str()].into_iter();
        let own = own.chain(self.special.iter().map(|(_, token)| token.as_str()));
        let guard = guard::Guard::new(&special, messages, own)?;
        let guarded: Vec<(String, String)> = messages
            .iter()
            .map(|message| (guard.whole(&message.role), guard.whole_and_edges(&message.content)))
            .collect();
        let pairs = guarded.iter().map(|(role, content)| (role.as_str(), content.as_str()));
        let text = self.render_pairs(pairs, add_generation_prompt)?;
        let mut ids = Vec::new();
        for piece in tokenizer.split_special(&text) {
            match piece {
                Piece::Special(id) => ids.push(id),
                Piece::Text(text) => {
                    ids.extend(tokenizer.encode(&guard.restore(text), EncodeOptions::default())?);
                }
            }
        }
        self.settle_bos(tokenizer, &mut ids);
        Ok(ids)
    }

    fn render_pairs<'m>(
        &self,
        messages: impl Iterator<Item = (&'m str, &'m str)>,
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let mut bytes = 0;
        let messages: Vec<Value> = messages
            .map(|(role, content)| {
                bytes += role.len() + content.len();
                Value::from(BTreeMap::from([("role", Value::from(role)), ("content", Value::from(content))]))
            })
            .collect();
        let mut context = BTreeMap::from([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        context.extend(self.special.iter().map(|(name, token)| (*name, Value::from(token))));
        jinja::render(&self.source, &self.file, Value::from(context), bytes)
    }

    /// Leaves exactly one BOS at the start where there is to be one.
    fn settle_bos(&self, tokenizer: &Tokenizer, ids: &mut Vec<u32>) {
        let prefix = tokenizer.prefix_ids();
        let configured = self.special.iter().find(|(name, _)| *name == "bos_token");
        let configured = configured.and_then(|(_, token)| tokenizer.token_to_id(token));
        let Some(bos) = prefix.first().copied().or(configured) else { return };
        let present = ids.iter().take_while(|&&id| id == bos).count();
        if present > 1 {
            ids.drain(1..present);
        } else if present == 0 && (!prefix.is_empty() || self.add_bos) {
            ids.insert(0, bos);
        }
    }
}

/// Returns the ids of the well-known end-of-turn tokens that the tokenizer has as special tokens.
///
/// These are `<|eot_id|>`, `<|eom_id|>`, `<|eot|>`, `<|im_end|>`, `<|end|>`, `<end_of_turn>`,
/// `<|end_of_turn|>`, `<|endofturn|>`, `<|END_OF_TURN_TOKEN|>`, `<|return|>` and `<|call|>`.
pub fn end_of_turn_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    END_OF_TURN
        .iter()
        .filter_map(|token| tokenizer.token_to_id(token))
        .filter(|&id| tokenizer.is_special(id))
        .collect()
}

fn parse_text(bytes: &[u8], file: &str) -> Result<String, ChatError> {
    std::str::from_utf8(bytes).map(str::to_string).map_err(|error| ChatError::Malformed {
        file: file.to_string(),
        field: "(whole file)".to_string(),
        expected: "UTF-8 text",
        found: error.to_string(),
    })
}

fn parse_config(bytes: &[u8], file: &str) -> Result<Json, ChatError> {
    let config: Json = serde_json::from_slice(bytes).map_err(|e| ChatError::Malformed {
        file: file.to_string(),
        field: "(whole file)".to_string(),
        expected: "JSON",
        found: e.to_string(),
    })?;
    if config.is_object() { Ok(config) } else { Err(malformed(file, "(root)", "an object", &config)) }
}

fn template_of(config: &Json, file: &str) -> Result<Option<String>, ChatError> {
    let list = match config.get("chat_template") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(source)) => return Ok(Some(source.clone())),
        Some(Json::Array(list)) => list,
        Some(other) => return Err(malformed(file, "chat_template", "a string or a list", other)),
    };
    let default = list.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"));
    let source = default.and_then(|entry| entry.get("template")).and_then(Json::as_str);
    source.map(|source| Some(source.to_string())).ok_or_else(|| {
        malformed(file, "chat_template", "a template with the name default", &Json::Array(list.clone()))
    })
}

fn token_of(config: &Json, file: &str, name: &str) -> Result<Option<String>, ChatError> {
    match config.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(token) => {
            let content = token.as_str().or_else(|| token.get("content").and_then(Json::as_str));
            let content =
                content.ok_or_else(|| malformed(file, name, "a string or an object with content", token));
            content.map(|content| Some(content.to_string()))
        }
    }
}

fn malformed(file: &str, field: &str, expected: &'static str, found: &Json) -> ChatError {
    let found = match found {
        Json::Array(list) => format!("a list of {}", list.len()),
        Json::Object(_) => "an object".to_string(),
        other => printable(&other.to_string(), 60),
    };
    ChatError::Malformed { file: file.to_string(), field: field.to_string(), expected, found }
}
