//! From `--model` and its companions to a loaded engine.

use anyhow::{Result, anyhow};
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::Engine;
use bitnet_inference::model::ModelSource;

use crate::args::EngineArgs;
use crate::progress::Progress;

/// Returns the model that was named, or else the bundled one, saying so.
pub fn source_or_bundled(model: Option<&str>) -> Result<ModelSource> {
    model.map_or_else(bundled, source)
}

/// Returns the model of a name: a folder today, checked when it is opened.
pub fn source(model: &str) -> Result<ModelSource> {
    if model.starts_with("hf:") {
        return Err(anyhow!(
            "{model}: fetching models needs the feature `hub`, which this build does not have"
        ));
    }
    Ok(ModelSource::Folder(model.into()))
}

#[cfg(feature = "fairytales")]
fn bundled() -> Result<ModelSource> {
    use bitnet_model_fairytales::{CONFIG, NAME, TOKENIZER, weights};
    crate::output::note(&format!("no model given: using the bundled model {NAME}"));
    Ok(ModelSource::Embedded { name: NAME, config: CONFIG, weights: weights(), tokenizer: TOKENIZER })
}

#[cfg(not(feature = "fairytales"))]
fn bundled() -> Result<ModelSource> {
    Err(crate::failure::usage(
        "--model: expected a model (this build bundles none: the feature `fairytales` is off)",
    ))
}

/// Loads a model, with a progress bar when it takes long.
pub fn load(source: &ModelSource, args: &EngineArgs, kv: BitNetDType) -> Result<Engine> {
    args.check()?;
    let mut bar = Progress::bytes();
    let mut progress = |now| bar.load(now);
    let builder = Engine::builder().device(args.device).threads(args.threads.map(usize::from));
    let builder = builder.kv(kv).context(args.ctx).weights(args.weights.into()).progress(&mut progress);
    let engine = builder.load_source(source)?;
    for assumption in engine.assumptions() {
        crate::output::note(&format!("assumed: {assumption}"));
    }
    Ok(engine)
}
