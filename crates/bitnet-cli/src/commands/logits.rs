//! `bitnet logits`: the logits of every token, as a safetensors file.

use std::path::Path;

use anyhow::Result;
use bitnet_core::backend::LogitsWanted;
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_core::memory::tensor::file::{TensorSpec, TensorWriter};
use bitnet_inference::EngineError;
use bitnet_inference::model::KvUse;
use bitnet_inference::runner::{Feed, Runner};
use serde::Serialize;

use crate::args::LogitsArgs;
use crate::output::{Out, SCHEMA, note, peak_memory};
use crate::{input, interrupt, model};

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    out: &'a Path,
    tokens: usize,
    vocab: usize,
}

/// Runs the command.
pub fn run(args: &LogitsArgs) -> Result<()> {
    let (ids, place) = match &args.ids_file {
        Some(file) => (input::read_id_list(file)?, file.display().to_string()),
        None => (args.ids.clone(), "--ids".to_owned()),
    };
    let source = model::source(&args.model, model::Need::Weights)?;
    let kv = (args.kv, KvUse::Measure);
    let mut engine = model::load_with(&source, &args.engine, kv, model::Text::Unneeded, 0)?;
    let vocab = engine.config().vocab;
    input::check_ids(&ids, vocab, &place)?;
    let runner = engine.runner();
    if ids.len() > runner.context() {
        return Err(EngineError::ContextExceeded { limit: runner.context(), found: ids.len() }.into());
    }
    let spec = TensorSpec::new("logits", BitNetDType::F32, &[ids.len(), vocab]);
    let mut file = TensorWriter::create(&args.out, &[spec])?;
    write_rows(runner, &ids, &mut file)?;
    file.commit()?;
    let mut out = Out::new();
    if args.json {
        out.json(&Report { schema: SCHEMA, out: &args.out, tokens: ids.len(), vocab })?;
    }
    out.flush()?;
    note(&format!("{}: logits [{}, {vocab}] | peak memory {}", args.out.display(), ids.len(), peak_memory()));
    Ok(())
}

/// Computes the rows a pass at a time and writes them as they come.
fn write_rows(runner: &mut Runner, ids: &[u32], file: &mut TensorWriter) -> Result<()> {
    let _graceful = interrupt::graceful();
    let limits = runner.limits();
    let sequence = runner.admit()?;
    let mut bytes = Vec::new();
    for tokens in ids.chunks(limits.max_tokens.min(limits.max_logits_rows)) {
        interrupt::check()?;
        runner.forward(&[Feed { sequence, tokens, logits: LogitsWanted::All }])?;
        bytes.clear();
        bytes.extend(runner.logits()?.iter().flat_map(|logit| logit.to_le_bytes()));
        file.write(&bytes)?;
    }
    runner.release(sequence);
    Ok(())
}
