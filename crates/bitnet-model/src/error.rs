//! The error of loading: one line that names the file and the tensor or field.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use bitnet_core::backend::BitNetError;

/// Longest part of a file's own text (a name, a value) that a message repeats, in characters.
const MAX_QUOTED: usize = 160;

/// What kind of thing is wrong with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoadErrorKind {
    /// A file is absent or could not be read.
    Io,
    /// A file is not what its format demands: truncated, overlapping, no JSON, too large.
    Format,
    /// A field of a configuration is absent, of the wrong type or out of range.
    Config,
    /// A tensor that the model needs is not there.
    MissingTensor,
    /// A tensor has another shape than the configuration says.
    Shape,
    /// A tensor has an element type that cannot stand there.
    DType,
    /// A tensor holds values that cannot be: NaN, a scale that is not positive, an invalid code.
    Values,
    /// The model computes something that this version does not.
    UnsupportedArchitecture,
    /// The file format, or the way of access asked for, is not supported by this build.
    UnsupportedFormat,
    /// The backend refused the model.
    Backend,
}

/// What an error is about, within its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// The file as a whole.
    File,
    /// A tensor, by name.
    Tensor(String),
    /// A field of a JSON file, by its dotted name.
    Field(String),
}

/// Why a model could not be loaded: a [`kind`](Self::kind), the file and the tensor or field.
///
/// Prints as one line, whatever the file's own names contain.
pub struct LoadError(Box<Inner>);

struct Inner {
    kind: LoadErrorKind,
    path: PathBuf,
    item: Item,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl LoadError {
    /// Makes an error about an item of a file.
    pub(crate) fn new(kind: LoadErrorKind, path: &Path, item: Item, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        LoadError(Box::new(Inner { kind, path: path.to_owned(), item, message, source: None }))
    }

    /// Makes an error that says what was expected and what was found.
    pub(crate) fn mismatch(
        kind: LoadErrorKind,
        path: &Path,
        item: Item,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::new(kind, path, item, format_args!("expected {expected}, found {}", Quoted(&found.to_string())))
    }

    /// Makes an error of the operating system.
    pub(crate) fn io(path: &Path, expected: &str, error: std::io::Error) -> Self {
        let message = format!("expected {expected}, found: {error}");
        let mut out = Self::new(LoadErrorKind::Io, path, Item::File, message);
        out.0.source = Some(Box::new(error));
        out
    }

    /// Makes an error of the backend, or of the pool, at work on an item of a file.
    pub(crate) fn backend(path: &Path, item: Item, error: BitNetError) -> Self {
        let mut out = Self::new(LoadErrorKind::Backend, path, item, &error);
        out.0.source = Some(Box::new(error));
        out
    }

    /// Returns what kind of thing is wrong.
    pub fn kind(&self) -> LoadErrorKind {
        self.0.kind
    }

    /// Returns the file or folder; empty for an error of the backend.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Returns the tensor or the field, where the error is about one.
    pub fn item(&self) -> Option<&str> {
        match &self.0.item {
            Item::File => None,
            Item::Tensor(name) | Item::Field(name) => Some(name),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.path.as_os_str().is_empty() {
            escape(f, &inner.path.to_string_lossy())?;
            f.write_str(": ")?;
        }
        match &inner.item {
            Item::File => {}
            Item::Tensor(name) => write!(f, "tensor {}: ", Quoted(name))?,
            Item::Field(name) => write!(f, "field {}: ", Quoted(name))?,
        }
        escape(f, &inner.message)
    }
}

impl fmt::Debug for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let mut out = f.debug_struct("LoadError");
        out.field("kind", &inner.kind).field("path", &inner.path).field("item", &inner.item);
        out.field("message", &inner.message).finish()
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|error| error as _)
    }
}

impl From<BitNetError> for LoadError {
    fn from(error: BitNetError) -> Self {
        Self::backend(Path::new(""), Item::File, error)
    }
}

/// Prints text of a file: shortened, and without control characters.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MAX_QUOTED) {
            Some((end, _)) => {
                escape(f, &self.0[..end])?;
                f.write_str("...")
            }
            None => escape(f, self.0),
        }
    }
}

/// Writes `text` with control characters escaped, so that a hostile name cannot break the line or
/// drive the terminal.
fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        match c {
            // Line and paragraph separators, and the marks that reverse the direction of text.
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                write!(f, "{}", c.escape_unicode())?;
            }
            c if c.is_control() => write!(f, "{}", c.escape_default())?,
            c => f.write_char(c)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_on_one_line_and_short() {
        let name = format!("a\nb\u{1b}[31m\u{202e}{}", "x".repeat(5000));
        let error = LoadError::mismatch(
            LoadErrorKind::Shape,
            Path::new("dir\n/model.safetensors"),
            Item::Tensor(name.clone()),
            "[1]",
            format_args!("[2]\r\n{}", "y".repeat(5000)),
        );
        let line = error.to_string();
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(line.len() < 600, "{}", line.len());
        assert!(line.contains("dir\\n/model.safetensors: tensor a\\nb\\u{1b}[31m\\u{202e}xx"), "{line}");
        assert_eq!(error.item(), Some(name.as_str()));
    }

    #[test]
    fn a_backend_error_keeps_its_line_and_its_cause() {
        let error = LoadError::from(BitNetError::mismatch("rows", 1, 2));
        assert_eq!(error.to_string(), "rows: expected 1, found 2");
        assert_eq!(error.kind(), LoadErrorKind::Backend);
        assert!(std::error::Error::source(&error).is_some());
    }
}
