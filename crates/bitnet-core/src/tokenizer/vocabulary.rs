//! A vocabulary as a model file carries it: plain data that a reader of GGUF metadata, or of a
//! `tokenizer.model`, fills in, and that [`Tokenizer::from_vocabulary`](super::Tokenizer::from_vocabulary)
//! turns into a tokenizer.
//!
//! The fields are named after the keys `tokenizer.ggml.*`, and so are they in errors. Nothing here is trusted: lengths
//! are held against each other and ids against the number of tokens before anything is built.

use super::TokenizerError;
use super::split_rules::SplitRule;

/// BOS of the Llama 3 vocabularies, by which a file that names no split rule is known.
const LLAMA3_BOS: &str = "<|begin_of_text|>";

/// Tokens that end a text or a turn in published vocabularies: control tokens whatever their type says.
const CONTROL_NAMES: [&str; 16] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
];

/// Tokens, scores, types and merges, with the settings beside them. Absent keys are `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE), `gemma4` (BPE of characters), `llama` (sentencepiece BPE as GGUF readers run it), `t5`
    /// (unigram), or what [`Vocabulary::from_sentencepiece`] writes: `sentencepiece`, which is `llama` with user-defined
    /// tokens as sentencepiece treats them, and `sentencepiece-unigram`.
    pub model: String,
    /// The rule that cuts text before the merges of `gpt2`.
    pub pre: Option<String>,
    /// The tokens in the order of their ids.
    pub tokens: Vec<String>,
    /// The score of each token; a higher one merges first.
    pub scores: Option<Vec<f32>>,
    /// The type of each token: 0 undefined, 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// The merges of `gpt2` in the order of their rank, each two tokens with one space between.
    pub merges: Option<Vec<String>>,
    /// The token before a text.
    pub bos: Option<u32>,
    /// The token after a text.
    pub eos: Option<u32>,
    /// The token for what cannot be spelled.
    pub unknown: Option<u32>,
    /// The token after a turn of a conversation.
    pub eot: Option<u32>,
    /// The token that fills up a batch.
    pub padding: Option<u32>,
    /// Whether [`add_special`](super::EncodeOptions::add_special) puts `bos` before a text.
    pub add_bos: Option<bool>,
    /// Whether it puts `eos` after a text.
    pub add_eos: Option<bool>,
    /// Whether a text gets a space before it (sentencepiece only).
    pub add_space_prefix: Option<bool>,
    /// Whether of several spaces one stays, and of those at the ends of a text none (`remove_extra_whitespaces`).
    pub fewer_spaces: Option<bool>,
    /// The table by which characters are rewritten (`precompiled_charsmap`); nothing where they are not.
    pub charsmap: Option<Vec<u8>>,
    /// The Jinja template of conversations.
    pub chat_template: Option<String>,
}

/// What a token is, with the number of its type in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// Nothing is said.
    Undefined = 0,
    /// A piece of text.
    Normal = 1,
    /// What stands for text that has no token.
    Unknown = 2,
    /// A mark that text contains only where special tokens are parsed.
    Control = 3,
    /// A piece that is cut out of every text first.
    UserDefined = 4,
    /// A token that text never becomes.
    Unused = 5,
    /// One byte, spelled `<0x0A>`.
    Byte = 6,
}

impl TokenType {
    pub(super) fn of(number: i32) -> Option<Self> {
        use TokenType::{Byte, Control, Undefined, Unknown, Unused, UserDefined};
        let types = [Undefined, TokenType::Normal, Unknown, Control, UserDefined, Unused, Byte];
        usize::try_from(number).ok().and_then(|number| types.get(number).copied())
    }

    /// Whether text can only become this token where special tokens are parsed.
    pub fn is_special(self) -> bool {
        matches!(self, TokenType::Control | TokenType::Unknown)
    }
}

impl Vocabulary {
    /// Returns the name of the split rule that applies: the file's own, or the one that its tokens show.
    pub fn effective_pre(&self) -> &str {
        match self.pre.as_deref() {
            _ if self.model == "gemma4" => "gemma4",
            Some(pre) if !pre.is_empty() => pre,
            _ if self.is_llama3() => "llama-bpe",
            _ if self.is_neox() => "gpt-2",
            _ => "default",
        }
    }

    /// Puts the usual ids of a sentencepiece vocabulary where the file names none and its tokens agree.
    #[must_use]
    pub fn with_usual_ids(mut self) -> Self {
        if self.is_byte_level() {
            return self;
        }
        let named = |id: u32, name: &str| (self.token(Some(id)) == Some(name)).then_some(id);
        let [unknown, eos] = if self.model == "t5" { [2, 1] } else { [0, 2] };
        let (unknown, bos, eos) = (named(unknown, "<unk>"), named(1, "<s>"), named(eos, "</s>"));
        self.unknown = self.unknown.or(unknown);
        self.bos = self.bos.or(bos);
        self.eos = self.eos.or(eos);
        self
    }

    /// Reports whether a text gets a space before it: as the file says, else as is usual for its kind (not for `t5`).
    pub fn has_space_prefix(&self) -> bool {
        self.add_space_prefix.unwrap_or(self.model != "t5" && !self.is_byte_level())
    }

    fn is_byte_level(&self) -> bool {
        matches!(self.model.as_str(), "gpt2" | "gemma4")
    }

    /// Returns what has to be assumed to use this vocabulary, one line each.
    pub fn assumptions(&self) -> Vec<String> {
        let unnamed = self.pre.as_deref().is_none_or(str::is_empty);
        if self.model != "gpt2" || !unnamed {
            return Vec::new();
        }
        let missing = "tokenizer.ggml.pre is missing";
        vec![match self.effective_pre() {
            "default" => format!(
                "{missing}: text is cut by the rule `default`, which may not be the one the model was trained with"
            ),
            rule => {
                let whose = if self.is_neox() { "GPT-NeoX" } else { "Llama 3" };
                format!("{missing}: the vocabulary is that of {whose}, so text is cut by the rule `{rule}`")
            }
        }]
    }

    /// Returns the spelling of a token.
    pub fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    /// Appends tokens that stand in files beside a `tokenizer.model`: id, spelling, and whether it is a control
    /// token. A token that is there already under its id is left alone.
    ///
    /// Errors: [`TokenizerError::SpecialTokenConflict`] for an id that is neither taken by the same token nor the next
    /// free one.
    pub fn add_tokens(&mut self, mut added: Vec<(u32, String, bool)>) -> Result<(), TokenizerError> {
        added.sort_unstable();
        for (id, token, is_control) in added {
            let next = self.tokens.len();
            let reason = match self.token(Some(id)) {
                Some(known) if known == token => continue,
                Some(other) => format!("it belongs to {other:?}"),
                None if id as usize != next => format!("the next free id is {next}"),
                None => {
                    self.tokens.push(token);
                    self.scores.iter_mut().for_each(|scores| scores.push(0.0));
                    let kind = if is_control { 3 } else { 4 };
                    self.token_types.iter_mut().for_each(|types| types.push(kind));
                    continue;
                }
            };
            return Err(TokenizerError::SpecialTokenConflict { token, id, reason });
        }
        Ok(())
    }

    /// Reports whether the vocabulary begins as that of GPT-NeoX, which TriLM and many others use.
    fn is_neox(&self) -> bool {
        self.tokens.iter().take(2).map(String::as_str).eq(["<|endoftext|>", "<|padding|>"])
    }

    fn is_llama3(&self) -> bool {
        self.token(self.bos) == Some(LLAMA3_BOS)
    }

    /// Checks lengths and ids, and returns the type of each token: as the file has it, with the well-known ends of texts
    /// as control tokens, or what ids and spelling tell.
    ///
    /// Errors: [`TokenizerError::Malformed`] naming the key at fault.
    pub fn check(&self, origin: &str) -> Result<Vec<TokenType>, TokenizerError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(malformed(origin, "tokens", "at least one token", "none"));
        }
        if u32::try_from(count).is_err() {
            return Err(malformed(origin, "tokens", "fewer than 4294967296 tokens", count));
        }
        let lengths = [
            ("scores", self.scores.as_ref().map(Vec::len)),
            ("token_type", self.token_types.as_ref().map(Vec::len)),
        ];
        for (field, length) in lengths {
            if let Some(found) = length.filter(|&length| length != count) {
                return Err(malformed(origin, field, format!("one entry for each of {count} tokens"), found));
            }
        }
        let ids = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("unknown_token_id", self.unknown),
            ("eot_token_id", self.eot),
            ("padding_token_id", self.padding),
        ];
        for (field, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(malformed(origin, field, format!("the id of one of {count} tokens"), id));
            }
        }
        self.types(origin)
    }

    fn types(&self, origin: &str) -> Result<Vec<TokenType>, TokenizerError> {
        let mut types = match &self.token_types {
            None => self.guessed_types(),
            Some(numbers) => {
                let mut types = Vec::with_capacity(numbers.len());
                for (index, &number) in numbers.iter().enumerate() {
                    types.push(TokenType::of(number).ok_or_else(|| {
                        malformed(origin, &format!("token_type[{index}]"), "a type from 0 to 6", number)
                    })?);
                }
                types
            }
        };
        for (token, kind) in self.tokens.iter().zip(&mut types) {
            if CONTROL_NAMES.contains(&token.as_str()) {
                *kind = TokenType::Control;
            }
        }
        Ok(types)
    }

    /// The types of a file that has none: what the ids and the spelling tell.
    fn guessed_types(&self) -> Vec<TokenType> {
        let mut types = vec![TokenType::Normal; self.tokens.len()];
        for id in [self.bos, self.eos, self.eot, self.padding].into_iter().flatten() {
            let token = &self.tokens[id as usize];
            if token.len() > 2 && (enclosed(token, '<', '>') || enclosed(token, '[', ']')) {
                types[id as usize] = TokenType::Control;
            }
        }
        if let Some(unknown) = self.unknown {
            types[unknown as usize] = TokenType::Unknown;
        }
        if !matches!(self.model.as_str(), "gpt2" | "t5") {
            for (token, kind) in self.tokens.iter().zip(&mut types) {
                if byte_of_token(token).is_some() {
                    *kind = TokenType::Byte;
                }
            }
        }
        types
    }

    /// Returns the ids that [`add_special`](super::EncodeOptions::add_special) puts before and behind a text: as the file
    /// says, else as is usual for its kind.
    ///
    /// Errors: [`TokenizerError::Malformed`] where the file asks for a token that it does not name.
    pub fn ends(&self, origin: &str) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
        let rule = if self.is_byte_level() { SplitRule::by_name(self.effective_pre()) } else { None };
        let (usual_bos, usual_eos) = match self.model.as_str() {
            "t5" => (false, true),
            "gpt2" | "gemma4" => (rule.is_some_and(|rule| rule.add_bos), false),
            _ => (true, false),
        };
        // Files of this rule deny it wrongly.
        let is_forced = self.bos.is_some() && rule.is_some_and(|rule| rule.gemma);
        let add_bos = if is_forced { Some(true) } else { self.add_bos };
        let end = |wanted: Option<bool>, usual: bool, id: Option<u32>, field: &str, asking: &str| match (
            wanted, id,
        ) {
            (Some(true), None) => Err(malformed(
                origin,
                field,
                format!("the id of the token that {asking} asks for"),
                "nothing",
            )),
            (wanted, id) => Ok(id.filter(|_| wanted.unwrap_or(usual)).into_iter().collect()),
        };
        Ok((
            end(add_bos, usual_bos, self.bos, "bos_token_id", "add_bos_token")?,
            end(self.add_eos, usual_eos, self.eos, "eos_token_id", "add_eos_token")?,
        ))
    }
}

/// Cuts a merge of `gpt2` into its halves: a space separates them, and the first may begin with one.
pub fn merge_halves(merge: &str) -> Option<(&str, &str)> {
    let second = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
    let space = merge[second..].find(' ')? + second;
    Some((&merge[..space], &merge[space + 1..]))
}

fn enclosed(token: &str, open: char, close: char) -> bool {
    token.starts_with(open) && token.ends_with(close)
}

/// Returns the byte that a token such as `<0xE2>` stands for.
pub(super) fn byte_of_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_hex { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Makes the error about a key of the vocabulary.
pub(super) fn malformed(
    origin: &str,
    field: &str,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> TokenizerError {
    TokenizerError::Malformed {
        origin: origin.to_string(),
        field: format!("tokenizer.ggml.{field}"),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// Quotes a piece of a file for an error message, shortened to what fits a line.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
