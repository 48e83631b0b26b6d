//! The lines that a user types: through an editor with history on a terminal, plainly elsewhere.

use std::cell::Cell;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context as EditorContext, Editor, Helper};

/// What came.
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C on a line that was not empty: it is thrown away.
    Abandoned,
    /// Ctrl-D, or the end of the input.
    End,
    /// Ctrl-C on an empty line.
    Interrupted,
}

/// Where lines come from.
pub enum Lines {
    /// A terminal.
    Terminal {
        /// The editor.
        editor: Box<Editor<Watcher, DefaultHistory>>,
        /// Where the history is kept, if it can be.
        history: Option<PathBuf>,
    },
    /// A pipe or a file.
    Plain,
}

impl Lines {
    /// Opens standard input.
    pub fn open() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Lines::Plain);
        }
        let mut editor = Box::new(Editor::new().context("standard input: cannot edit lines")?);
        editor.set_helper(Some(Watcher::default()));
        let history = history_file();
        if let Some(file) = &history {
            // A history that is absent or damaged is no reason not to talk.
            let _ = editor.load_history(file);
        }
        Ok(Lines::Terminal { editor, history })
    }

    /// Reports whether someone is typing.
    pub fn is_interactive(&self) -> bool {
        matches!(self, Lines::Terminal { .. })
    }

    /// Waits for the next line.
    pub fn next(&mut self) -> Result<Line> {
        match self {
            Lines::Terminal { editor, history } => next_typed(editor, history.as_ref()),
            Lines::Plain => next_plain(&mut io::stdin().lock()),
        }
    }
}

/// Longest line that is read from a pipe; no context holds nearly as much.
const LONGEST_LINE: u64 = 16 << 20;

fn next_typed(editor: &mut Editor<Watcher, DefaultHistory>, history: Option<&PathBuf>) -> Result<Line> {
    if let Some(watcher) = editor.helper() {
        watcher.empty.set(true);
    }
    match editor.readline("> ") {
        Ok(line) => {
            if !line.trim().is_empty()
                && editor.add_history_entry(&line).unwrap_or(false)
                && let Some(file) = history
            {
                let _ = editor.append_history(file);
            }
            Ok(Line::Text(line))
        }
        Err(ReadlineError::Eof) => Ok(Line::End),
        Err(ReadlineError::Interrupted) => {
            let empty = editor.helper().is_none_or(|watcher| watcher.empty.get());
            Ok(if empty { Line::Interrupted } else { Line::Abandoned })
        }
        Err(error) => Err(error).context("standard input: cannot read"),
    }
}

fn next_plain(input: &mut impl BufRead) -> Result<Line> {
    let mut bytes = Vec::new();
    let mut limited = input.take(LONGEST_LINE + 1);
    let count = limited.read_until(b'\n', &mut bytes).context("standard input: cannot read")?;
    if count == 0 {
        return Ok(Line::End);
    }
    if count as u64 > LONGEST_LINE {
        return Err(anyhow!("standard input: expected a line of at most {LONGEST_LINE} bytes, found more"));
    }
    let text = String::from_utf8(bytes).ok().context("standard input: expected UTF-8 text")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Line::Text(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// Notes whether the line being edited is empty, which the editor does not tell after Ctrl-C.
pub struct Watcher {
    empty: Cell<bool>,
}

impl Default for Watcher {
    fn default() -> Self {
        Watcher { empty: Cell::new(true) }
    }
}

impl Hinter for Watcher {
    type Hint = String;

    fn hint(&self, line: &str, _pos: usize, _context: &EditorContext<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        None
    }
}

impl Completer for Watcher {
    type Candidate = String;
}

impl Highlighter for Watcher {}
impl Validator for Watcher {}
impl Helper for Watcher {}

/// Returns the history file in the user's data folder, if that folder is there or can be made.
fn history_file() -> Option<PathBuf> {
    let folder = data_folder()?.join("bitnet");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

fn data_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if cfg!(windows) {
        return variable("APPDATA");
    }
    if cfg!(target_os = "macos") {
        return variable("HOME").map(|home| home.join("Library/Application Support"));
    }
    variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_lose_their_ends_and_then_end() {
        let mut input = io::Cursor::new(b"one\r\n\ntwo".to_vec());
        for expected in ["one", "", "two"] {
            let Line::Text(text) = next_plain(&mut input).unwrap() else { panic!("{expected}") };
            assert_eq!(text, expected);
        }
        assert!(matches!(next_plain(&mut input).unwrap(), Line::End));
        assert!(next_plain(&mut io::Cursor::new(b"\xff\n".to_vec())).is_err());
    }
}
