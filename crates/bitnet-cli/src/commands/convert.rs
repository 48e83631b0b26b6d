//! `bitnet convert` and `bitnet quantize`: a model in another format.

use std::io;
use std::path::Path;

use anyhow::Result;
use bitnet_core::files::{AtomicFile, AtomicFolder};
use bitnet_inference::model::convert::{
    ConvertError, ConvertOptions, ConvertReport, Output, OutputFile, Target, convert,
};
use bitnet_inference::model::{LoadOptions, LoadProgress, ModelFiles, ModelSource};
use serde::Serialize;

use super::verify::{self, Verdict};
use crate::args::{ConversionArgs, ConvertArgs, QuantizeArgs};
use crate::failure::{one_line, usage};
use crate::model;
use crate::output::{Out, SCHEMA, bytes, note, peak_memory};
use crate::progress::Progress;

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    out: &'a Path,
    format: &'static str,
    family: &'static str,
    tensors: usize,
    bytes: u64,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    verify: Option<Verdict>,
}

/// Runs `convert`.
pub fn run(args: &ConvertArgs) -> Result<()> {
    write(&args.conversion, args.to.into(), false)
}

/// Runs `quantize`.
pub fn quantize(args: &QuantizeArgs) -> Result<()> {
    write(&args.conversion, args.to.into(), true)
}

/// The destination: a file, or a folder, that has no name yet.
enum Destination {
    File(AtomicFile),
    Folder(AtomicFolder),
}

impl Output for Destination {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn OutputFile + '_>> {
        match self {
            Destination::File(file) => Ok(Box::new(file)),
            Destination::Folder(folder) => Ok(Box::new(folder.file(name)?)),
        }
    }
}

impl Destination {
    fn create(out: &Path, target: Target) -> Result<Self> {
        Ok(match target.is_folder() {
            true => Destination::Folder(AtomicFolder::create(out)?),
            false => Destination::File(AtomicFile::create(out)?),
        })
    }

    /// Returns the result as a model, before it has its name.
    fn model(&mut self, target: Target) -> Result<ModelSource> {
        Ok(match self {
            Destination::Folder(folder) => ModelSource::Folder(folder.laid_out()?.into()),
            Destination::File(file) => match target {
                Target::Bitnet => ModelSource::Bitnet(file.flushed()?.into()),
                _ => ModelSource::Gguf(file.flushed()?.into()),
            },
        })
    }

    fn commit(self) -> Result<()> {
        match self {
            Destination::File(file) => file.commit()?,
            Destination::Folder(folder) => folder.commit()?,
        }
        Ok(())
    }
}

fn write(args: &ConversionArgs, target: Target, masters_only: bool) -> Result<()> {
    if args.kv.is_some() && target != Target::Bitnet {
        return Err(usage(format!("--kv: expected --to bitnet, which records it, found --to {target}")));
    }
    let source = model::source(&args.input, model::Need::All)?;
    let files = ModelFiles::open(&source)?;
    let mut destination = Destination::create(&args.out, target)?;
    let report = {
        let mut bar = Progress::converting();
        let mut progress = |now: LoadProgress| bar.load(now);
        let i2s_layout = args.i2s_layout.into();
        let load = LoadOptions { progress: Some(&mut progress), i2s_layout, ..LoadOptions::default() };
        let embedding = args.embedding.into();
        let pre = args.tokenizer_pre.clone();
        let kv = args.kv.map(Into::into);
        let mut options =
            ConvertOptions { embedding, pre, kv, masters_only, load, ..ConvertOptions::new(target) };
        convert(&files, &mut options, &mut destination).map_err(|error| match error {
            // The destination is known there as a part of it, here by its place.
            ConvertError::Write { .. } => anyhow::Error::new(error).context(args.out.display().to_string()),
            error => error.into(),
        })?
    };
    for assumption in &report.assumptions {
        note(&format!("assumed: {}", one_line(assumption)));
    }
    for text in &report.notes {
        note(&format!("note: {}", one_line(text)));
    }
    let converted = peak_memory();
    let verdict = match args.verify {
        true => Some(verify::compare(&source, &destination.model(target)?, args)?),
        false => None,
    };
    destination.commit()?;
    print(args, target, &report, verdict)?;
    note(&format!("peak memory {converted}"));
    Ok(())
}

fn print(
    args: &ConversionArgs,
    target: Target,
    report: &ConvertReport,
    verify: Option<Verdict>,
) -> Result<()> {
    let ConvertReport { family, tensors, bytes: size, ref notes, .. } = *report;
    let mut out = Out::new();
    if args.json {
        let (out_path, format, family) = (args.out.as_path(), target.name(), family.name());
        out.json(&Report {
            schema: SCHEMA,
            out: out_path,
            format,
            family,
            tensors,
            bytes: size,
            notes,
            verify,
        })?;
    } else {
        out.line(&format!(
            "{}: {target}, {tensors} tensors, {}",
            one_line(&args.out.display().to_string()),
            bytes(size)
        ))?;
        if let Some(verdict) = verify {
            out.line(&verdict.line())?;
        }
    }
    out.flush()
}
