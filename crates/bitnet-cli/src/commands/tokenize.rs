//! `bitnet tokenize`: text to ids, and what they decode to.

use std::path::Path;

use anyhow::{Result, anyhow};
use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_inference::ModelText;
use bitnet_inference::model::{ModelFiles, ModelSource};
use serde::Serialize;

use crate::args::TokenizeArgs;
use crate::output::{Out, SCHEMA};
use crate::{input, model};

#[derive(Serialize)]
struct Report {
    schema: u32,
    ids: Vec<u32>,
    text: String,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = input::text(args.text.as_deref(), args.file.as_deref())?.verbatim();
    let tokenizer = load(&model::source(&args.model)?)?;
    let options = EncodeOptions { add_special: !args.no_special, parse_special: args.parse_special };
    let ids = tokenizer.encode(&text, options)?;
    let text = tokenizer.decode(&ids, false)?;
    let mut out = Out::new();
    if args.json {
        out.json(&Report { schema: SCHEMA, ids, text })?;
    } else {
        let ids: Vec<_> = ids.iter().map(u32::to_string).collect();
        out.line(&ids.join(","))?;
        out.line(&text)?;
    }
    out.flush()
}

/// Loads the tokenizer alone: a file is one or has one, a folder has one.
fn load(source: &ModelSource) -> Result<Tokenizer> {
    let path = match source {
        ModelSource::Folder(path) if path.is_file() => path,
        _ => {
            let files = ModelFiles::open(source)?;
            return found(ModelText::load(&files)?, &files.path("tokenizer.json"));
        }
    };
    match extension(path).as_str() {
        "gguf" => found(ModelText::load_gguf(path)?, path),
        // Refused in the model crate's own words.
        "bitnet" => Err(ModelFiles::open(source).map_or_else(Into::into, |_| missing(path))),
        _ => Ok(bitnet_core::tokenizer::load_tokenizer(path)?),
    }
}

fn found(text: Option<ModelText>, place: &Path) -> Result<Tokenizer> {
    let text = text.ok_or_else(|| missing(place))?;
    for assumption in &text.assumptions {
        crate::output::note(&format!("assumed: {assumption}"));
    }
    Ok(text.tokenizer)
}

fn missing(place: &Path) -> anyhow::Error {
    anyhow!("{}: expected the model's tokenizer, found none", place.display())
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}
