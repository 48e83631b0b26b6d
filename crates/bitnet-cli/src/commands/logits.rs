//! `bitnet logits`: the logits of every token, as a safetensors file.

use std::path::Path;

use anyhow::{Result, anyhow};
use bitnet_core::backend::LogitsWanted;
use bitnet_core::files::AtomicFile;
use bitnet_inference::EngineError;
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
    let mut engine = model::load_with(&source, &args.engine, args.kv.into(), model::Text::Unneeded, 0)?;
    let vocab = engine.config().vocab;
    input::check_ids(&ids, vocab, &place)?;
    let runner = engine.runner();
    if ids.len() > runner.context() {
        return Err(EngineError::ContextExceeded { limit: runner.context(), found: ids.len() }.into());
    }
    let mut file = AtomicFile::create(&args.out)?;
    file.write(&header(ids.len(), vocab)?)?;
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
fn write_rows(runner: &mut Runner, ids: &[u32], file: &mut AtomicFile) -> Result<()> {
    let _graceful = interrupt::graceful();
    let limits = runner.limits();
    let sequence = runner.start();
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

/// Makes the header of a file with the one tensor `logits`, padded so that the data is aligned to 8 bytes.
fn header(tokens: usize, vocab: usize) -> Result<Vec<u8>> {
    let bytes = (tokens as u64).checked_mul(vocab as u64).and_then(|count| count.checked_mul(4));
    let bytes = bytes.ok_or_else(|| anyhow!("logits [{tokens}, {vocab}]: too large for a file"))?;
    let header = serde_json::json!({
        "__metadata__": { "format": "pt" },
        "logits": { "dtype": "F32", "shape": [tokens, vocab], "data_offsets": [0, bytes] },
    });
    let mut json = header.to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    Ok([&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_states_its_own_length_and_the_tensor() {
        let header = header(3, 5).unwrap();
        let (length, json) = header.split_at(8);
        assert_eq!(u64::from_le_bytes(length.try_into().unwrap()), json.len() as u64);
        assert_eq!(header.len() % 8, 0);
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["logits"]["data_offsets"], serde_json::json!([0, 60]));
    }
}
