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

/// Tokens that a generation has room for from its start.
const RESERVED_TOKENS: usize = 1 << 16;

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
    /// What a pass feeds, samples and chooses: kept, so that a pass allocates nothing.
    feeds: Vec<LaneFeed>,
    sampled: Vec<usize>,
    chosen: Vec<u32>,
}

/// What a lane feeds in one pass.
#[derive(Debug, Clone, Copy)]
struct LaneFeed {
    lane: usize,
    /// Part of the lane's tokens.
    start: usize,
    end: usize,
    logits: LogitsWanted,
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
        let (lanes, owned, feeds, sampled, chosen) = Default::default();
        let mut generator =
            Generator { lanes, owned, end_tokens: end_tokens.to_vec(), feeds, sampled, chosen };
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
        let prompt_len = prompt.len();
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
                let sequence = runner.admit()?;
                self.owned.push(sequence);
                sequence
            }
        };
        let stream = tokenizer.map(|tokenizer| tokenizer.stream(true).after(&prompt));
        let (mut tokens, prompt) = (prompt, prompt_len);
        // Room for what may be generated, within reason: a token then allocates nothing.
        let most = runner.context().saturating_sub(prompt) + 1;
        tokens.reserve(options.max_tokens.unwrap_or(usize::MAX).min(most).min(RESERVED_TOKENS));
        self.lanes.push(Lane {
            sequence,
            prompt,
            tokens,
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
        self.plan(runner)?;
        if self.feeds.is_empty() {
            return Ok(());
        }
        let (vocab, context) = (runner.vocab(), runner.context());
        let lanes = &self.lanes;
        // Greedy decoding alone needs no logits on the host.
        let greedy = self.sampled.iter().all(|&index| lanes[index].sampler.params().is_plain_greedy());
        runner.forward_each(self.feeds.iter().map(|&LaneFeed { lane, start, end, logits }| {
            let lane = &lanes[lane];
            Feed { sequence: lane.sequence, tokens: &lane.tokens[start..end], logits }
        }))?;
        if self.sampled.is_empty() {
            // A part of a prompt: the pass computed no logits.
            return Ok(());
        }
        self.chosen.clear();
        if greedy {
            runner.argmax(&mut self.chosen)?;
        } else {
            for (&index, logits) in self.sampled.iter().zip(runner.logits()?.chunks_exact(vocab)) {
                let lane = &mut self.lanes[index];
                let step = (lane.tokens.len() - lane.prompt) as u64;
                self.chosen.push(lane.sampler.sample(logits, &lane.tokens, step)?);
            }
        }
        for (&index, &id) in self.sampled.iter().zip(&self.chosen) {
            self.lanes[index].accept(id, &self.end_tokens, context, |event| each(index, event));
        }
        Ok(())
    }

    /// Chooses what each sequence feeds in the next pass, and whose logits will be sampled.
    fn plan(&mut self, runner: &Runner) -> Result<(), EngineError> {
        self.feeds.clear();
        self.sampled.clear();
        let limits = runner.limits();
        let mut room = limits.max_tokens;
        for (index, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.finished) {
            let start = runner.len(lane.sequence)?;
            let pending = lane.tokens.len() - start;
            let count = pending.min(room);
            let last = count == pending;
            if count == 0 || (last && self.sampled.len() == limits.max_logits_rows) {
                continue;
            }
            room -= count;
            if last {
                self.sampled.push(index);
            }
            let logits = if last { LogitsWanted::Last } else { LogitsWanted::None };
            self.feeds.push(LaneFeed { lane: index, start, end: start + count, logits });
        }
        Ok(())
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
