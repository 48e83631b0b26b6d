//! `bitnet eval`: the loss on given tokens.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bitnet_inference::Engine;
use bitnet_inference::model::KvUse;
use bitnet_inference::score::window_nll;
use serde::Serialize;

use crate::args::EvalArgs;
use crate::failure;
use crate::output::{Out, SCHEMA, note, peak_memory, per_second, rate};
use crate::progress::Progress;
use crate::{input, interrupt, model};

/// Longest window by default.
const WINDOW: usize = 512;

#[derive(Serialize)]
struct Report {
    schema: u32,
    mean_nll: f64,
    ppl: f64,
    tokens: usize,
    windows: usize,
    nll_per_window: Vec<f64>,
    tok_per_s: f64,
}

/// Runs the command.
pub fn run(args: &EvalArgs) -> Result<()> {
    let (need, text) = match args.tokens {
        Some(_) => (model::Need::Weights, model::Text::Unneeded),
        None => (model::Need::All, model::Text::Needed),
    };
    let source = model::source_or_bundled(args.model.as_deref(), need)?;
    let mut engine = model::load_with(&source, &args.engine, (args.kv, KvUse::Measure), text, 0)?;
    let context = engine.runner().context();
    let window = args.window.unwrap_or(WINDOW.min(context));
    if window == 0 || window > context {
        return Err(failure::usage(format!(
            "--window: expected 1 to {context} (the context), found {window}"
        )));
    }
    let (ids, file) = tokens(args, &engine)?;
    if ids.len() <= window {
        let found = ids.len();
        return Err(anyhow!(
            "{}: expected at least {} tokens for one window, found {found}",
            file.display(),
            window + 1
        ));
    }
    input::check_ids(&ids, engine.config().vocab, &file.display().to_string())?;
    let report = measure(&mut engine, &ids, window)?;
    let mut out = Out::new();
    if args.json {
        out.json(&report)?;
    } else {
        out.line(&format!("mean nll   {:.5} nats a token", report.mean_nll))?;
        out.line(&format!("perplexity {:.4}", report.ppl))?;
        out.line(&format!("tokens     {} in {} windows of {window}", report.tokens, report.windows))?;
    }
    out.flush()?;
    note(&format!(
        "{} tokens, {} | kv {} ({}) | peak memory {}",
        report.tokens,
        rate(report.tok_per_s),
        engine.kv().dtype.name(),
        engine.kv().by.name(),
        peak_memory()
    ));
    Ok(())
}

fn tokens<'a>(args: &'a EvalArgs, engine: &Engine) -> Result<(Vec<u32>, &'a Path)> {
    match (&args.tokens, &args.text) {
        (Some(file), _) => Ok((input::read_token_file(file, args.tokens_type)?, file)),
        (None, Some(file)) => Ok((engine.encode(&input::read_text(file)?, false)?, file)),
        (None, None) => Err(failure::usage("expected --text or --tokens")),
    }
}

/// Measures every full window; the next one starts where the targets of the last one ended.
fn measure(engine: &mut Engine, ids: &[u32], window: usize) -> Result<Report> {
    let _graceful = interrupt::graceful();
    let windows = (ids.len() - 1) / window;
    let (started, mut progress) = (Instant::now(), Progress::windows());
    let mut nll_per_window = Vec::with_capacity(windows);
    for index in 0..windows {
        interrupt::check()?;
        let inputs = &ids[index * window..(index + 1) * window];
        let targets = &ids[index * window + 1..(index + 1) * window + 1];
        nll_per_window.push(window_nll(engine.runner(), inputs, targets)?);
        progress.update(index as u64 + 1, windows as u64);
    }
    // The windows are of one length, so the mean over them is the mean over all tokens.
    let mean_nll = nll_per_window.iter().sum::<f64>() / windows as f64;
    let tokens = windows * window;
    let tok_per_s = per_second(tokens, started.elapsed().as_secs_f64());
    Ok(Report { schema: SCHEMA, mean_nll, ppl: mean_nll.exp(), tokens, windows, nll_per_window, tok_per_s })
}
