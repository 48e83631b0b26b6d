//! What can go wrong between text and ids.

/// Why a tokenizer could not be loaded, or could not translate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("{path}: cannot read the tokenizer: {reason}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// A file is not what it has to be.
    #[error("{origin}: {field}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        origin: String,
        /// The field, by its path in the file.
        field: String,
        /// What has to stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A file asks for a kind of tokenizer, or a rule of one, that is not implemented.
    #[error("{origin}: {field}: {found:?} is not supported: {reason}")]
    Unsupported {
        /// The file.
        origin: String,
        /// The field that names it.
        field: String,
        /// Its name.
        found: String,
        /// Why not.
        reason: String,
    },
    /// This kind of tokenizer needs a feature that the build lacks.
    #[error("{origin}: this build cannot load it: feature `{feature}` of bitnet-core is off")]
    FeatureDisabled {
        /// What was to be loaded.
        origin: String,
        /// The Cargo feature.
        feature: &'static str,
    },
    /// A word is neither in the vocabulary nor is there an unknown token.
    #[error("word {word:?} is not in the vocabulary, which has no {unknown} token")]
    UnknownWord {
        /// The word.
        word: String,
        /// The unknown token looked for.
        unknown: &'static str,
    },
    /// A character that no entry of a byte-level vocabulary spells.
    #[error("character {character:?} cannot be spelled: the vocabulary has no entry for byte {byte:#04x}")]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its first byte without an entry.
        byte: u8,
    },
    /// Plain text that this vocabulary can only write with a control token.
    #[error("the text contains {token:?}, which this vocabulary can only write as a special token")]
    SpecialInText {
        /// The special token.
        token: String,
    },
    /// A special token cannot have the id asked for.
    #[error("special token {token:?}: id {id} is not possible: {reason}")]
    SpecialTokenConflict {
        /// The token.
        token: String,
        /// The id asked for.
        id: u32,
        /// What stands in the way.
        reason: String,
    },
    /// The tokenizer library refused the operation.
    #[error("{origin}: cannot {operation}: {reason}")]
    Library {
        /// The file that the tokenizer comes from.
        origin: String,
        /// What was tried.
        operation: &'static str,
        /// The library's own words, on one line.
        reason: String,
    },
}

/// Joins a message that may have several lines, and names from a file, into one bearable line.
#[cfg(feature = "tokenizers")]
pub(super) fn one_line(message: impl std::fmt::Display) -> String {
    let words = message.to_string();
    crate::error::printable(&words.split_whitespace().collect::<Vec<_>>().join(" "), 400)
}

#[cfg(all(test, feature = "tokenizers"))]
mod tests {
    use super::*;

    #[test]
    fn messages_of_libraries_are_one_bearable_line() {
        assert_eq!(one_line("a\n\tb Iso\u{7f}ated"), "a b Iso\\u{7f}ated");
        assert_eq!(one_line("x".repeat(5000)).len(), 400);
    }
}
