//! From `--model` and its companions to a loaded engine.

use std::path::Path;

use anyhow::Result;
use bitnet_inference::Engine;
use bitnet_inference::model::{KvUse, ModelSource};

use crate::args::{EngineArgs, KvType};
use crate::failure::usage;
use crate::progress::Progress;
use crate::weights;

/// What of a model a command is going to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Weights and tokenizer.
    All,
    /// Weights, on token ids.
    Weights,
    /// The tokenizer alone.
    Text,
}

/// Returns the model that was named, or else the bundled one, saying so.
pub fn source_or_bundled(model: Option<&Path>, need: Need) -> Result<ModelSource> {
    model.map_or_else(bundled, |model| source(model, need))
}

/// Returns the model of a name, a folder or a file, checked when it is opened, or what `hf:` fetches.
pub fn source(model: &Path, need: Need) -> Result<ModelSource> {
    if model.as_os_str().is_empty() {
        return Err(usage("--model: expected a folder or a file, found an empty name"));
    }
    if model.as_os_str().as_encoded_bytes().starts_with(b"hf:") {
        return Ok(ModelSource::at(fetched(&model.to_string_lossy(), need)?));
    }
    Ok(ModelSource::at(model))
}

#[cfg(feature = "hub")]
fn fetched(name: &str, need: Need) -> Result<std::path::PathBuf> {
    crate::hub::fetch(name, need)
}

#[cfg(not(feature = "hub"))]
fn fetched(name: &str, _: Need) -> Result<std::path::PathBuf> {
    Err(usage(format!(
        "{name}: this build cannot fetch models: build it with `cargo build --release -p bitnet-cli --features hub`"
    )))
}

#[cfg(feature = "fairytales")]
fn bundled() -> Result<ModelSource> {
    use bitnet_model_fairytales::{CONFIG, NAME, TOKENIZER, weights};
    crate::output::note(&format!("no model given: using the bundled model {NAME}"));
    Ok(ModelSource::Embedded { name: NAME, config: CONFIG, weights: weights(), tokenizer: TOKENIZER })
}

#[cfg(not(feature = "fairytales"))]
fn bundled() -> Result<ModelSource> {
    Err(usage("--model: expected a model (this build bundles none: the feature `fairytales` is off)"))
}

/// Loads a model that will decode up to `tokens` tokens, with a progress bar when it takes long.
pub fn load(source: &ModelSource, args: &EngineArgs, kv: Option<KvType>, tokens: usize) -> Result<Engine> {
    load_with(source, args, (kv, KvUse::Generate), Text::Needed, tokens)
}

/// Whether a command turns ids into text or text into ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// The tokenizer is read.
    Needed,
    /// It is not even looked at.
    Unneeded,
}

/// Loads a model, with its tokenizer only where it is needed, and the KV cache that was asked for or suits its use.
pub fn load_with(
    source: &ModelSource,
    args: &EngineArgs,
    (kv, kv_use): (Option<KvType>, KvUse),
    text: Text,
    tokens: usize,
) -> Result<Engine> {
    args.check()?;
    let access = weights::access(args.weights, args.layout, source, tokens);
    let mut bar = Progress::bytes();
    let mut progress = |now| bar.load(now);
    let builder = Engine::builder().device(args.device).threads(args.threads.map(usize::from));
    let builder = builder
        .kv(kv.map(Into::into))
        .kv_use(kv_use)
        .context(args.ctx)
        .weights(access)
        .progress(&mut progress);
    let builder = builder.head(args.head.into()).layout(args.layout.into());
    let builder = builder.i2s_layout(args.i2s_layout.into()).tokenizer(text == Text::Needed);
    let engine = builder.load_source(source)?;
    for assumption in engine.assumptions() {
        crate::output::note(&format!("assumed: {assumption}"));
    }
    Ok(engine)
}
