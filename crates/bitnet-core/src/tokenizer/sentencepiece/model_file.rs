//! Reads a sentencepiece `tokenizer.model`: a protocol-buffer message of pieces with scores and types, and of the
//! settings they were trained with.
//!
//! Read are BPE and unigram models, with any normaliser that goes before the pieces. Word and character models, spaces
//! that stand behind their word or stay spaces, and tables that rewrite decoded text are refused by name.
//!
//! Fields (sentencepiece_model.proto): 1 piece {1 text, 2 score, 3 type}, 2 trainer {3 model type, 24 white space as
//! suffix, 46 name of BOS, 47 of EOS, 48 of padding}, 3 normaliser {2 table, 3 dummy prefix, 4 fewer
//! spaces, 5 escape spaces}, 5 denormaliser {2 table}.

use super::UNIGRAM;
use super::protobuf::{Damage, Message, Value};
use crate::tokenizer::TokenizerError;
use crate::tokenizer::vocabulary::{Vocabulary, quote};

/// The settings with the values that an absent field has.
struct Settings {
    model_type: u64,
    space_as_suffix: bool,
    bos: String,
    eos: String,
    padding: String,
    table: Vec<u8>,
    rewrites_output: bool,
    dummy_prefix: bool,
    fewer_spaces: bool,
    escape_spaces: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            model_type: 1,
            space_as_suffix: false,
            bos: "<s>".to_string(),
            eos: "</s>".to_string(),
            padding: "<pad>".to_string(),
            table: Vec::new(),
            rewrites_output: false,
            dummy_prefix: true,
            fewer_spaces: true,
            escape_spaces: true,
        }
    }
}

/// The pieces as they are read.
#[derive(Default)]
struct Pieces {
    texts: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
}

impl Vocabulary {
    /// Reads a `tokenizer.model`; `origin` names it in errors.
    ///
    /// Its model is `sentencepiece` or `sentencepiece-unigram`; nothing says there whether BOS is added, so a text gets one.
    ///
    /// Errors: [`TokenizerError::Malformed`] with the offset of the damage; [`TokenizerError::Unsupported`] for a
    /// model that is neither BPE nor unigram, and for settings that are not read.
    pub fn from_sentencepiece(bytes: &[u8], origin: &str) -> Result<Self, TokenizerError> {
        let mut file = Message::new(bytes);
        let (mut pieces, mut settings) = (Pieces::default(), Settings::default());
        let damaged = |damage: Damage| malformed(origin, damage.offset, damage.expected, "damage");
        while let Some((number, value)) = file.field().map_err(damaged)? {
            match (number, value) {
                (1, Value::Bytes(piece)) => pieces.read(piece, origin)?,
                (2, Value::Bytes(trainer)) => settings.read_trainer(trainer).map_err(damaged)?,
                (3, Value::Bytes(normalizer)) => settings.read_normalizer(normalizer).map_err(damaged)?,
                (5, Value::Bytes(denormalizer)) => settings.read_table(denormalizer).map_err(damaged)?,
                _ => {}
            }
        }
        if pieces.texts.is_empty() {
            return Err(malformed(origin, bytes.len(), "a sentencepiece model with pieces", "none"));
        }
        settings.check(origin)?;
        let find = |name: &str, kind: i32| {
            let mut ids = (0_u32..).zip(pieces.texts.iter().zip(&pieces.types));
            ids.find(|(_, (text, found))| *text == name && **found == kind).map(|(id, _)| id)
        };
        let unknown = (0_u32..).zip(&pieces.types).find(|(_, kind)| **kind == 2).map(|(id, _)| id);
        Ok(Vocabulary {
            model: if settings.model_type == 1 { UNIGRAM } else { "sentencepiece" }.to_string(),
            bos: find(&settings.bos, 3),
            eos: find(&settings.eos, 3),
            padding: find(&settings.padding, 3),
            unknown,
            tokens: pieces.texts,
            scores: Some(pieces.scores),
            token_types: Some(pieces.types),
            add_space_prefix: Some(settings.dummy_prefix),
            fewer_spaces: Some(settings.fewer_spaces),
            charsmap: (!settings.table.is_empty()).then_some(settings.table),
            ..Vocabulary::default()
        })
    }
}

impl Pieces {
    fn read(&mut self, mut piece: Message<'_>, origin: &str) -> Result<(), TokenizerError> {
        let (mut text, mut score, mut kind) = (String::new(), 0.0, 1);
        let start = piece.offset();
        loop {
            let field = piece.field();
            let field =
                field.map_err(|damage| malformed(origin, damage.offset, damage.expected, "damage"))?;
            match field {
                None => break,
                Some((1, Value::Bytes(bytes))) => {
                    text = std::str::from_utf8(bytes.bytes())
                        .map_err(|error| malformed(origin, bytes.offset(), "a piece in UTF-8", error))?
                        .to_string();
                }
                Some((2, Value::Fixed32(bits))) => score = f32::from_bits(bits),
                Some((3, Value::Varint(number))) => {
                    kind = i32::try_from(number).ok().filter(|kind| (1..=6).contains(kind)).ok_or_else(
                        || {
                            malformed(
                                origin,
                                start,
                                format!("a type from 1 to 6 of piece {}", quote(&text)),
                                number,
                            )
                        },
                    )?;
                }
                Some(_) => {}
            }
        }
        if text.is_empty() {
            return Err(malformed(origin, start, "a piece with a text", "an empty one"));
        }
        self.texts.push(text);
        self.scores.push(score);
        self.types.push(kind);
        Ok(())
    }
}

impl Settings {
    fn read_trainer(&mut self, mut trainer: Message<'_>) -> Result<(), Damage> {
        while let Some((number, value)) = trainer.field()? {
            match (number, value) {
                (3, Value::Varint(kind)) => self.model_type = kind,
                (24, Value::Varint(flag)) => self.space_as_suffix = flag != 0,
                (46, Value::Bytes(name)) => self.bos = text(name),
                (47, Value::Bytes(name)) => self.eos = text(name),
                (48, Value::Bytes(name)) => self.padding = text(name),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, mut normalizer: Message<'_>) -> Result<(), Damage> {
        while let Some((number, value)) = normalizer.field()? {
            match (number, value) {
                (2, Value::Bytes(table)) => self.table = table.bytes().to_vec(),
                (3, Value::Varint(flag)) => self.dummy_prefix = flag != 0,
                (4, Value::Varint(flag)) => self.fewer_spaces = flag != 0,
                (5, Value::Varint(flag)) => self.escape_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_table(&mut self, mut denormalizer: Message<'_>) -> Result<(), Damage> {
        while let Some((number, value)) = denormalizer.field()? {
            if let (2, Value::Bytes(table)) = (number, value) {
                self.rewrites_output |= !table.bytes().is_empty();
            }
        }
        Ok(())
    }

    fn check(&self, origin: &str) -> Result<(), TokenizerError> {
        let kind = match self.model_type {
            1 => "unigram",
            2 => "bpe",
            3 => "word",
            4 => "char",
            _ => "unknown",
        };
        let refusals = [
            (
                !matches!(self.model_type, 1 | 2),
                "trainer_spec.model_type",
                kind,
                "bpe and unigram models are read",
            ),
            (
                self.rewrites_output,
                "denormalizer_spec",
                "a table",
                "text has to come out as the pieces spell it",
            ),
            (
                !self.escape_spaces,
                "normalizer_spec",
                "escape_whitespaces: false",
                "spaces have to become U+2581",
            ),
            (
                self.space_as_suffix,
                "trainer_spec",
                "treat_whitespace_as_suffix",
                "spaces have to stand before their word",
            ),
        ];
        match refusals.into_iter().find(|(refused, ..)| *refused) {
            None => Ok(()),
            Some((_, field, found, reason)) => Err(TokenizerError::Unsupported {
                origin: origin.to_string(),
                field: field.to_string(),
                found: found.to_string(),
                reason: reason.to_string(),
            }),
        }
    }
}

/// A name that is compared only: bytes that are no UTF-8 equal no piece.
fn text(bytes: Message<'_>) -> String {
    String::from_utf8_lossy(bytes.bytes()).into_owned()
}

fn malformed(
    origin: &str,
    offset: usize,
    expected: impl std::fmt::Display,
    found: impl std::fmt::Display,
) -> TokenizerError {
    TokenizerError::Malformed {
        origin: origin.to_string(),
        field: format!("offset {offset}"),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}
