//! One generation as it comes: an iterator over pieces, and what it adds up to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::generate::{Event, FinishReason, Generator, Token};
use crate::runner::Runner;

/// A generation that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text, empty without a tokenizer.
    pub text: String,
    /// The generated ids; an end token is not among them.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Time to the first token.
    pub prefill: Duration,
    /// Time from the first token to the end.
    pub decode: Duration,
}

impl Generation {
    pub(crate) fn begin(prompt_tokens: usize) -> Self {
        let (prefill, decode) = Default::default();
        Generation {
            text: String::new(),
            ids: Vec::new(),
            finish: FinishReason::MaxTokens,
            prompt_tokens,
            prefill,
            decode,
        }
    }

    pub(crate) fn take(&mut self, event: Event, at: Duration) {
        match event {
            Event::Token(Token { id, text }) => {
                if self.ids.is_empty() {
                    self.prefill = at;
                }
                self.decode = at.saturating_sub(self.prefill);
                self.ids.push(id);
                self.text.push_str(&text);
            }
            Event::Finished { text, reason } => {
                self.text.push_str(&text);
                self.finish = reason;
            }
        }
    }
}

/// A piece of a generation: what one pass led to.
///
/// Usually a token. Without an id it is a part of the prompt that was read (no text yet), so that a caller
/// gets its turn between the passes of a long prompt, or the last text that had been held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The token, if the pass chose one.
    pub id: Option<u32>,
    /// Text that became complete.
    pub text: String,
}

/// Iterates over one generation, pass by pass.
pub struct Tokens<'a> {
    runner: &'a mut Runner,
    generator: Generator,
    queue: VecDeque<Piece>,
    finish: Option<FinishReason>,
    /// An iterator that failed is over, without a reason to finish.
    failed: bool,
    started: Instant,
    first: Option<Instant>,
    ended: Option<Instant>,
}

impl<'a> Tokens<'a> {
    /// Takes over a generator of one request; `started` is when its prompt came.
    pub(crate) fn new(runner: &'a mut Runner, generator: Generator, started: Instant) -> Self {
        let (queue, finish, first, ended) = Default::default();
        Tokens { runner, generator, queue, finish, failed: false, started, first, ended }
    }

    /// Returns why the generation ended, once the iterator has.
    pub fn finish_reason(&self) -> Option<&FinishReason> {
        self.finish.as_ref()
    }

    /// Returns the time to the first token and from there to the last.
    pub fn times(&self) -> (Duration, Duration) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let first = self.first.unwrap_or(ended);
        (first - self.started, ended.saturating_duration_since(first))
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<Piece, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(piece) = self.queue.pop_front() {
            return Some(Ok(piece));
        }
        if self.finish.is_some() || self.failed {
            return None;
        }
        let (queue, finish) = (&mut self.queue, &mut self.finish);
        let advanced = self.generator.advance(self.runner, |_, event| match event {
            Event::Token(Token { id, text }) => queue.push_back(Piece { id: Some(id), text }),
            Event::Finished { text, reason } => {
                if !text.is_empty() {
                    queue.push_back(Piece { id: None, text });
                }
                *finish = Some(reason);
            }
        });
        let now = Instant::now();
        self.ended = Some(now);
        if let Err(error) = advanced {
            self.failed = true;
            return Some(Err(error));
        }
        match self.queue.pop_front() {
            Some(piece) => {
                self.first.get_or_insert(now);
                Some(Ok(piece))
            }
            None if self.finish.is_some() => None,
            None => Some(Ok(Piece { id: None, text: String::new() })),
        }
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        self.generator.release(self.runner);
    }
}
