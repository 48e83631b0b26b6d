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
    let tokenizer = load(&model::source(&args.model, model::Need::Text)?)?;
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
    if let ModelSource::Folder(path) = source
        && path.is_file()
        && !is_own_format(path)
    {
        return Ok(bitnet_core::tokenizer::load_tokenizer(path)?);
    }
    let files = ModelFiles::open(source)?;
    let text = ModelText::load(&files)?.ok_or_else(|| {
        let place = files.path("tokenizer.json");
        anyhow!("{}: expected the model's tokenizer, found none", place.display())
    })?;
    for assumption in &text.assumptions {
        crate::output::note(&format!("assumed: {assumption}"));
    }
    Ok(text.tokenizer)
}

/// Reports whether the name is that of our own model files, which the model crate refuses in its own words.
fn is_own_format(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bitnet"))
}
