//! Generation: prompts in, tokens out, any number of sequences at once.
//!
//! A [`Generator`] advances all its sequences by one pass at a time: in their order, sequences that decode
//! feed one token, those still in their prompt feed as much of it as there is room for. What a sequence yields depends on
//! its own prompt, parameters and seed alone.

use bitnet_core::backend::LogitsWanted;
use bitnet_core::tokenizer::{TokenStream, Tokenizer};

use crate::EngineError;
use crate::runner::{Feed, Runner, SequenceId};
use crate::sampler::{Sampler, SamplingParams};
use crate::stop::StopStrings;

/// How to continue a prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// The choice of each token.
    pub sampling: SamplingParams,
    /// Tokens to generate at most; `None` goes on to a stop or the end of the context.
    pub max_tokens: Option<usize>,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
    /// Let special tokens written in the prompt's text act as such.
    pub parse_special: bool,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced an end token.
    EndToken(u32),
    /// A stop string appeared.
    StopString(String),
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
}

impl FinishReason {
    /// Returns the name that `--json` prints.
    pub fn name(&self) -> &'static str {
        match self {
            FinishReason::EndToken(_) | FinishReason::StopString(_) => "stop",
            FinishReason::MaxTokens => "length",
            FinishReason::ContextFull => "context",
        }
    }
}

/// One generated token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Text that became complete with it: whole characters only, possibly none.
    pub text: String,
}

/// What one sequence of a pass came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A token was generated.
    Token(Token),
    /// The sequence ended; `text` is what had been held back.
    Finished {
        /// Last text.
        text: String,
        /// Why.
        reason: FinishReason,
    },
}

/// One sequence of a generator.
struct Lane {
    sequence: SequenceId,
    /// Prompt and output.
    tokens: Vec<u32>,
    prompt: usize,
    sampler: Sampler,
    max_tokens: usize,
    text: LaneText,
    finished: bool,
}

/// Incremental text of a lane; without a tokenizer there are ids only.
struct LaneText {
    stream: Option<TokenStream>,
    stops: StopStrings,
}

/// A prompt with its options.
#[derive(Debug, Clone)]
pub struct Request {
    /// Prompt ids, at least one.
    pub prompt: Vec<u32>,
    /// Options; `parse_special` concerns text only and is not looked at.
    pub options: GenerateOptions,
    /// A sequence that already holds a beginning of the prompt; `None` starts one. It is not released.
    pub resume: Option<SequenceId>,
}

/// Advances a set of sequences.
pub struct Generator {
    lanes: Vec<Lane>,
    owned: Vec<SequenceId>,
    end_tokens: Vec<u32>,
}

impl Generator {
    /// Admits the requests.
    ///
    /// # Errors
    /// An empty prompt, a prompt that does not fit the context, or invalid options.
    pub fn new(
        runner: &mut Runner,
        tokenizer: Option<&Tokenizer>,
        end_tokens: &[u32],
        requests: Vec<Request>,
    ) -> Result<Self, EngineError> {
        let mut generator =
            Generator { lanes: Vec::new(), owned: Vec::new(), end_tokens: end_tokens.to_vec() };
        for request in requests {
            if let Err(error) = generator.admit(runner, tokenizer, request) {
                generator.release(runner);
                return Err(error);
            }
        }
        Ok(generator)
    }

    fn admit(
        &mut self,
        runner: &mut Runner,
        tokenizer: Option<&Tokenizer>,
        request: Request,
    ) -> Result<(), EngineError> {
        let Request { prompt, options, resume } = request;
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if prompt.len() > runner.context() {
            return Err(EngineError::ContextExceeded { limit: runner.context(), found: prompt.len() });
        }
        let sampler = Sampler::new(options.sampling, runner.vocab())?;
        let stops = StopStrings::new(options.stop)?;
        let sequence = match resume {
            Some(sequence) => {
                // The last token is fed again for its logits.
                runner.truncate(sequence, prompt.len() - 1)?;
                sequence
            }
            None => {
                let sequence = runner.start();
                self.owned.push(sequence);
                sequence
            }
        };
        let stream = tokenizer.map(|tokenizer| tokenizer.stream(true).after(&prompt));
        self.lanes.push(Lane {
            sequence,
            prompt: prompt.len(),
            tokens: prompt,
            sampler,
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            text: LaneText { stream, stops },
            finished: false,
        });
        Ok(())
    }

    /// Reports whether every sequence has finished.
    pub fn is_finished(&self) -> bool {
        self.lanes.iter().all(|lane| lane.finished)
    }

    /// Returns prompt and output of a request.
    pub fn tokens(&self, request: usize) -> &[u32] {
        &self.lanes[request].tokens
    }

    /// Runs one pass and hands each event to `each`, with the index of its request.
    ///
    /// # Errors
    /// What the backend or the sampler met.
    pub fn advance(
        &mut self,
        runner: &mut Runner,
        mut each: impl FnMut(usize, Event),
    ) -> Result<(), EngineError> {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if !lane.finished && lane.max_tokens == 0 {
                each(index, lane.finish(FinishReason::MaxTokens));
            }
        }
        let (feeds, sampled) = self.feeds(runner)?;
        if feeds.is_empty() {
            return Ok(());
        }
        let (vocab, context) = (runner.vocab(), runner.context());
        // Greedy decoding alone needs no logits on the host.
        let greedy = sampled.iter().all(|&index| self.lanes[index].sampler.params().is_plain_greedy());
        let mut chosen = Vec::with_capacity(sampled.len());
        runner.forward(&feeds)?;
        if sampled.is_empty() {
            // A part of a prompt: the pass computed no logits.
            return Ok(());
        }
        if greedy {
            runner.argmax(&mut chosen)?;
        } else {
            for (&index, logits) in sampled.iter().zip(runner.logits()?.chunks_exact(vocab)) {
                let lane = &mut self.lanes[index];
                let step = (lane.tokens.len() - lane.prompt) as u64;
                chosen.push(lane.sampler.sample(logits, &lane.tokens, step)?);
            }
        }
        for (&index, id) in sampled.iter().zip(chosen) {
            self.lanes[index].accept(id, &self.end_tokens, context, |event| each(index, event));
        }
        Ok(())
    }

    /// Chooses what each sequence feeds in the next pass, and whose logits will be sampled.
    fn feeds(&self, runner: &Runner) -> Result<(Vec<Feed<'_>>, Vec<usize>), EngineError> {
        let (mut feeds, mut sampled) = (Vec::new(), Vec::new());
        let limits = runner.limits();
        let mut room = limits.max_tokens;
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.finished) {
            let pending = &lane.tokens[runner.len(lane.sequence)?..];
            let tokens = &pending[..pending.len().min(room)];
            let last = tokens.len() == pending.len();
            if tokens.is_empty() || (last && sampled.len() == limits.max_logits_rows) {
                continue;
            }
            room -= tokens.len();
            if last {
                sampled.push(index);
            }
            let logits = if last { LogitsWanted::Last } else { LogitsWanted::None };
            feeds.push(Feed { sequence: lane.sequence, tokens, logits });
        }
        Ok((feeds, sampled))
    }

    /// Releases the sequences that the generator started.
    pub fn release(&mut self, runner: &mut Runner) {
        self.owned.drain(..).for_each(|sequence| runner.release(sequence));
        self.lanes.clear();
    }
}

impl Lane {
    /// Takes a chosen token.
    fn accept(&mut self, id: u32, end_tokens: &[u32], context: usize, mut each: impl FnMut(Event)) {
        if end_tokens.contains(&id) {
            return each(self.finish(FinishReason::EndToken(id)));
        }
        self.tokens.push(id);
        let complete = self.text.stream.as_mut().and_then(|stream| stream.push(id)).unwrap_or_default();
        let step = self.text.stops.push(&complete);
        let matched = step.matched;
        let text = step.emit.to_owned();
        each(Event::Token(Token { id, text }));
        let produced = self.tokens.len() - self.prompt;
        let reason = if let Some(stop) = matched {
            FinishReason::StopString(self.text.stops.stops()[stop].clone())
        } else if produced >= self.max_tokens {
            FinishReason::MaxTokens
        } else if self.tokens.len() > context {
            FinishReason::ContextFull
        } else {
            return;
        };
        each(self.finish(reason));
    }

    /// Ends the lane, giving out what its text held back.
    fn finish(&mut self, reason: FinishReason) -> Event {
        self.finished = true;
        let mut text = String::new();
        // After a stop string nothing is held back; the match and what followed it are dropped.
        if !matches!(reason, FinishReason::StopString(_)) {
            let rest = self.text.stream.take().map(TokenStream::finish).unwrap_or_default();
            text.push_str(self.text.stops.push(&rest).emit);
            text.push_str(self.text.stops.finish());
        }
        Event::Finished { text, reason }
    }
}
