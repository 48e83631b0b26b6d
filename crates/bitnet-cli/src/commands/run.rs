//! `bitnet run`: continue a prompt.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bitnet_core::backend::MemoryPart;
use bitnet_core::device::peak_resident_bytes;
use bitnet_core::files::AtomicFile;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_inference::chat::Message;
use bitnet_inference::{Engine, FinishReason, GenerateOptions, Kv, Piece};
use serde::Serialize;

use crate::args::RunArgs;
use crate::failure::{Interrupted, one_line};
use crate::output::{Out, SCHEMA, bytes, is_terminal, note, peak_memory, per_second, rate};
use crate::{input, interrupt, model};

/// Runs the command.
pub fn run(args: &RunArgs) -> Result<()> {
    let mut options = args.sampling.options(args.parse_special)?;
    let prompt = input::text(args.prompt.as_deref(), args.file.as_deref())?.prompt();
    let source = model::source_or_bundled(args.model.as_deref(), model::Need::All)?;
    let mut engine = model::load(&source, &args.engine, args.kv, args.sampling.max_tokens)?;
    let ids = if args.chat {
        encode_chat(&engine, args.system.as_deref(), &prompt, &mut options)?
    } else {
        engine.encode(&prompt, args.parse_special)?
    };
    let mut out = Out::new();
    let format = Format::of(args);
    if format == Format::Text && !args.chat && is_terminal() {
        out.text(&prompt)?;
        out.flush()?;
    }
    let generated = generate(&mut engine, &ids, &options, format, &mut out)?;
    generated.finish(format, engine.kv(), &mut out)?;
    out.flush()?;
    if let Some(file) = &args.memory_snapshot {
        save_memory(engine.pool(), file)?;
    }
    let memory = engine.memory();
    generated.summary(engine.runner().context(), engine.kv(), &memory);
    if generated.end == End::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

/// Writes what the pool knows, in the form that the file's name asks for.
fn save_memory(pool: &HybridMemoryPool, path: &Path) -> Result<()> {
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("pickle") => pool.snapshot_pickle(),
        Some("trace") => serde_json::to_vec(&pool.trace_json())?,
        _ => return Ok(pool.snapshot().save(path)?),
    };
    let mut file = AtomicFile::create(path)?;
    file.write(&bytes)?;
    Ok(file.commit()?)
}

/// What standard output gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Jsonl,
}

impl Format {
    fn of(args: &RunArgs) -> Self {
        match (args.json, args.jsonl) {
            (true, _) => Format::Json,
            (_, true) => Format::Jsonl,
            _ => Format::Text,
        }
    }
}

fn encode_chat(
    engine: &Engine,
    system: Option<&str>,
    prompt: &str,
    options: &mut GenerateOptions,
) -> Result<Vec<u32>> {
    announce_template(engine);
    options.stop.extend(engine.template().stop_strings().iter().map(ToString::to_string));
    let system = system.map(|text| Message::new("system", text));
    let messages: Vec<_> = system.into_iter().chain([Message::new("user", prompt)]).collect();
    Ok(engine.encode_chat(&messages)?)
}

/// Says so when the model has no chat template of its own.
pub fn announce_template(engine: &Engine) {
    if engine.template().is_plain() {
        note(&format!(
            "{}: no chat template: using a plain one (User: ... Assistant: ...)",
            one_line(engine.name())
        ));
    }
}

/// How a generation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Finished(FinishReason),
    Interrupted,
}

impl End {
    /// Returns the name that JSON prints.
    fn name(&self) -> &'static str {
        match self {
            End::Finished(reason) => reason.name(),
            End::Interrupted => "interrupted",
        }
    }

    fn describe(&self) -> String {
        match self {
            End::Finished(FinishReason::EndToken(id)) => format!("stop (end token {id})"),
            End::Finished(FinishReason::StopString(text)) => format!("stop (stop string {text:?})"),
            End::Finished(FinishReason::MaxTokens) => "length (--max-tokens)".into(),
            End::Finished(FinishReason::ContextFull) => "context (full)".into(),
            End::Interrupted => "interrupted".into(),
        }
    }
}

/// What a generation came to.
struct Generated {
    text: String,
    ids: Vec<u32>,
    end: End,
    prompt_tokens: usize,
    prefill: Duration,
    decode: Duration,
    seed: u64,
}

#[derive(Serialize)]
struct TokenEvent<'a> {
    schema: u32,
    event: &'static str,
    /// Null for text that had been held back until the end.
    id: Option<u32>,
    text: &'a str,
}

/// The end of a generation: the object of `--json`, the last event of `--jsonl`.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a [u32]>,
    finish_reason: &'static str,
    prompt_tokens: usize,
    generated_tokens: usize,
    prompt_tok_per_s: f64,
    decode_tok_per_s: f64,
    peak_memory_bytes: Option<u64>,
    kv_type: &'static str,
    /// Who chose it: option, file or default.
    kv_by: &'static str,
    seed: u64,
}

fn generate(
    engine: &mut Engine,
    prompt: &[u32],
    options: &GenerateOptions,
    format: Format,
    out: &mut Out,
) -> Result<Generated> {
    let _graceful = interrupt::graceful();
    let mut tokens = engine.tokens_of(prompt, options)?;
    let (mut text, mut ids, mut interrupted) = (String::new(), Vec::new(), false);
    for piece in &mut tokens {
        let Piece { id, text: new } = piece?;
        ids.extend(id);
        match format {
            // A part of the prompt was read.
            _ if id.is_none() && new.is_empty() => {}
            Format::Text => out.text(&new)?,
            Format::Jsonl => out.json(&TokenEvent { schema: SCHEMA, event: "token", id, text: &new })?,
            Format::Json => {}
        }
        if (id.is_some() || !new.is_empty()) && format != Format::Json {
            out.flush()?;
        }
        text.push_str(&new);
        if interrupt::pending() {
            interrupted = true;
            break;
        }
    }
    let (prefill, decode) = tokens.times();
    let end = match tokens.finish_reason() {
        Some(reason) if !interrupted => End::Finished(reason.clone()),
        _ => End::Interrupted,
    };
    let seed = options.sampling.seed;
    Ok(Generated { text, ids, end, prompt_tokens: prompt.len(), prefill, decode, seed })
}

impl Generated {
    /// Without a first token the prompt was not read to its end, and there is no rate.
    fn prompt_rate(&self) -> f64 {
        let sampled = !self.ids.is_empty() || matches!(self.end, End::Finished(FinishReason::EndToken(_)));
        per_second(if sampled { self.prompt_tokens } else { 0 }, self.prefill.as_secs_f64())
    }

    /// The first token belongs to the prompt's time; an end token is not among the ids, but took its pass.
    fn decode_rate(&self) -> f64 {
        let end = usize::from(matches!(self.end, End::Finished(FinishReason::EndToken(_))));
        per_second((self.ids.len() + end).saturating_sub(1), self.decode.as_secs_f64())
    }

    fn finish(&self, format: Format, kv: Kv, out: &mut Out) -> Result<()> {
        let jsonl = format == Format::Jsonl;
        match format {
            Format::Text => out.text("\n"),
            Format::Json | Format::Jsonl => out.json(&Report {
                schema: SCHEMA,
                event: jsonl.then_some("finish"),
                text: (!jsonl).then_some(&self.text),
                ids: (!jsonl).then_some(&self.ids),
                finish_reason: self.end.name(),
                prompt_tokens: self.prompt_tokens,
                generated_tokens: self.ids.len(),
                prompt_tok_per_s: self.prompt_rate(),
                decode_tok_per_s: self.decode_rate(),
                peak_memory_bytes: peak_resident_bytes(),
                kv_type: kv.dtype.name(),
                kv_by: kv.by.name(),
                seed: self.seed,
            }),
        }
    }

    fn summary(&self, context: usize, kv: Kv, memory: &[MemoryPart]) {
        let describe = |part: &MemoryPart| match part.part {
            "kv" => format!("kv {} as {} ({})", bytes(part.bytes as u64), kv.dtype.name(), kv.by.name()),
            other => format!("{other} {}", bytes(part.bytes as u64)),
        };
        let parts: Vec<_> = memory.iter().map(describe).collect();
        note(&format!(
            "prompt {} tokens, {} | decode {} tokens, {} | peak memory {} ({}) | {} | seed {}",
            self.prompt_tokens,
            rate(self.prompt_rate()),
            self.ids.len(),
            rate(self.decode_rate()),
            peak_memory(),
            parts.join(", "),
            self.end.describe(),
            self.seed,
        ));
        if self.end == End::Finished(FinishReason::ContextFull) {
            note(&format!("the context is full: prompt and text together are limited to {context} tokens"));
        }
    }
}
