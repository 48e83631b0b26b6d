//! The error root: what went wrong, and in which layer or tensor.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use crate::{BitNetDType, Device};

/// The result of every fallible operation of the lower crates.
pub type Result<T, E = BitNetError> = std::result::Result<T, E>;

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device does not exist here, or this build has no backend for it.
    #[error("device {device} is not available: {reason}")]
    DeviceUnavailable {
        /// The device asked for.
        device: Device,
        /// What was looked for and not found.
        reason: String,
    },
    /// An instruction-set tier was forced that this machine or build cannot run.
    #[error("instruction set {isa} is not available: {reason}")]
    IsaUnavailable {
        /// The tier asked for, as spelled.
        isa: String,
        /// What is available instead.
        reason: String,
    },
    /// The backend has no implementation of this operation for these operands.
    #[error("backend {backend} does not support {operation}: {reason}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The operation and its operand types.
        operation: String,
        /// Why not.
        reason: String,
    },
    /// A value, shape or count is not what it has to be.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was looked at.
        what: String,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor of this type and size cannot be represented.
    #[error("a {dtype} tensor of shape {shape:?} does not fit the address space")]
    TensorTooLarge {
        /// Element type.
        dtype: BitNetDType,
        /// Shape asked for.
        shape: Vec<usize>,
    },
    /// The operating system or a configured limit refused the memory.
    #[error("out of memory: {requested} bytes for {purpose}, {available}")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// What they were for.
        purpose: String,
        /// The limit or refusal met.
        available: String,
    },
    /// The operating system refused something about a file.
    #[error("{}: cannot {action}: {message}", path.display())]
    Io {
        /// The file, or the name of what stands for one.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's kind of error.
        kind: io::ErrorKind,
        /// The system's message.
        message: String,
    },
    /// A memory request that no allocator can serve.
    #[error("invalid allocation of {size} bytes aligned to {align}: {reason}")]
    InvalidAllocation {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for.
        align: usize,
        /// Why it cannot be served.
        reason: &'static str,
    },
    /// A memory handle that does not name a live allocation of this pool.
    #[error("memory handle {handle} is not valid: {reason}")]
    InvalidHandle {
        /// The handle, as it prints.
        handle: String,
        /// Freed before, or of another pool.
        reason: &'static str,
    },
}

/// An error with its cause ([`kind`](Self::kind)) and the places it passed through.
///
/// Prints on one line, outermost context first. With the feature `backtrace` its `Debug` form
/// carries the stack of the place that made it.
pub struct BitNetError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    context: Vec<String>,
    #[cfg(feature = "backtrace")]
    backtrace: std::backtrace::Backtrace,
}

impl BitNetError {
    /// Makes an error of the given cause.
    pub fn new(kind: ErrorKind) -> Self {
        BitNetError(Box::new(Inner {
            kind,
            context: Vec::new(),
            #[cfg(feature = "backtrace")]
            backtrace: std::backtrace::Backtrace::force_capture(),
        }))
    }

    /// Makes an [`ErrorKind::Mismatch`]. What was looked at and what was found may come from a file of a stranger: their
    /// beginning is enough.
    pub fn mismatch(what: impl Into<String>, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        BitNetError::new(ErrorKind::Mismatch {
            what: beginning(what.into()),
            expected: expected.to_string(),
            found: beginning(found.to_string()),
        })
    }

    /// Makes an [`ErrorKind::Io`] of the system's error.
    pub fn io(path: &Path, action: &'static str, error: &io::Error) -> Self {
        BitNetError::new(ErrorKind::Io {
            path: path.to_owned(),
            action,
            kind: error.kind(),
            message: error.to_string(),
        })
    }

    /// Names the layer, tensor or file in which the error arose.
    #[must_use]
    pub fn context(mut self, place: impl Into<String>) -> Self {
        self.0.context.push(place.into());
        self
    }

    /// Returns the cause.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the stack at which the error was made, where the feature `backtrace` is on.
    pub fn backtrace(&self) -> Option<&std::backtrace::Backtrace> {
        #[cfg(feature = "backtrace")]
        return Some(&self.0.backtrace);
        #[cfg(not(feature = "backtrace"))]
        None
    }
}

/// Cuts a long text.
fn beginning(text: String) -> String {
    const BYTES: usize = 400;
    // As long as it is printed: an escape takes several bytes for one.
    let kept = printed(&text, BYTES).map(|(_, c)| c.len_utf8()).sum::<usize>();
    if kept < text.len() { format!("{}...", &text[..kept]) } else { text }
}

/// Returns a text from outside on one line: control characters are escaped, and it is cut to at most `most` bytes,
/// those of the escapes included.
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (is_escaped, c) in printed(text, most) {
        if is_escaped { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Yields the characters that fit into `most` bytes, and whether each is escaped.
fn printed(text: &str, most: usize) -> impl Iterator<Item = (bool, char)> {
    text.chars().scan(most, |left, c| {
        let length = if c.is_control() { c.escape_default().len() } else { c.len_utf8() };
        *left = left.checked_sub(length)?;
        Some((c.is_control(), c))
    })
}

impl fmt::Display for BitNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = OneLine(f);
        for place in self.0.context.iter().rev() {
            write!(line, "{place}: ")?;
        }
        write!(line, "{}", self.0.kind)
    }
}

/// Escapes control characters, which names and messages of strangers may contain.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.strip_suffix(char::is_control) {
                Some(plain) => {
                    self.0.write_str(plain)?;
                    write!(self.0, "{}", part[plain.len()..].escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BitNetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("BitNetError");
        out.field("kind", &self.0.kind).field("context", &self.0.context);
        if let Some(backtrace) = self.backtrace() {
            out.field("backtrace", backtrace);
        }
        out.finish()
    }
}

impl std::error::Error for BitNetError {}

impl From<ErrorKind> for BitNetError {
    fn from(kind: ErrorKind) -> Self {
        BitNetError::new(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_prints_outermost_first_on_one_line() {
        let error = BitNetError::mismatch("rows", 4, 5).context("q_proj").context("layer 3");
        assert_eq!(error.to_string(), "layer 3: q_proj: rows: expected 4, found 5");
    }

    #[test]
    fn names_of_strangers_neither_break_the_line_nor_fill_it() {
        let error = BitNetError::mismatch("a\nb", 4, "\u{e9}".repeat(1000)).context("x\ty\n");
        let line = error.to_string();
        assert!(line.starts_with("x\\ty\\n: a\\nb: expected 4, found \u{e9}\u{e9}"), "{line}");
        assert!(line.ends_with("\u{e9}...") && line.len() < 500, "{line}");
        let line = BitNetError::mismatch("a", 4, "\u{7f}".repeat(400)).to_string();
        assert!(line.ends_with("\\u{7f}...") && line.len() < 500, "{} bytes", line.len());
    }

    #[test]
    fn escapes_count_by_their_length() {
        assert_eq!(printable("\u{1}ab", 7), "\\u{1}ab");
        assert_eq!(printable("\u{1}ab", 6), "\\u{1}a");
        assert_eq!(printable("a\u{1}b", 5), "a");
        assert_eq!(printable("\u{e9}\u{e9}", 3), "\u{e9}");
    }

    #[test]
    fn backtraces_follow_the_feature() {
        let error = BitNetError::mismatch("rows", 4, 5);
        assert_eq!(error.backtrace().is_some(), cfg!(feature = "backtrace"));
    }
}
