//! Synthetic checkpoints: true shapes with seeded random weights, for loading and speed without a download.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bitnet_testing::model::{Activation, ModelShape, SyntheticFamily, SyntheticModel};
use bitnet_testing::{shapes, tokenizer};
use clap::ValueEnum;

/// Options of the step.
#[derive(clap::Args)]
pub struct Args {
    /// Shape of a published model, or a small one of ours
    #[arg(long, default_value = "2b-4t", value_parser = clap::builder::PossibleValuesParser::new(shapes::NAMES))]
    shape: String,
    /// How configuration and weights are stored; the shape's own family when absent
    #[arg(long)]
    family: Option<Family>,
    /// Folder to write, absent or empty
    #[arg(long)]
    out: PathBuf,
    /// Seed of every weight
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Layers, instead of the shape's
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    layers: Option<u16>,
    /// Write a small tokenizer of the shape's vocabulary too
    #[arg(long)]
    tokenizer: bool,
    /// Weight files
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Spell config.json as transformers 5 does
    #[arg(long)]
    transformers5: bool,
}

/// A family on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum Family {
    /// BitNetForCausalLM, packed, the scale multiplies
    BitnetPacked,
    /// BitNetForCausalLM, bf16 master weights
    BitnetMaster,
    /// LlamaForCausalLM with BitLinear, packed, the scale divides
    LlamaBitlinear,
    /// BitnetForCausalLM of the 1bitLLM layout, f16 master weights
    OneBitLlm,
    /// Plain LlamaForCausalLM with ternary values
    Trilm,
}

impl From<Family> for SyntheticFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::BitnetPacked => SyntheticFamily::BitNetPacked,
            Family::BitnetMaster => SyntheticFamily::BitNetMaster,
            Family::LlamaBitlinear => SyntheticFamily::LlamaBitLinear,
            Family::OneBitLlm => SyntheticFamily::OneBitLlm,
            Family::Trilm => SyntheticFamily::TriLm,
        }
    }
}

/// Writes the folder.
///
/// # Errors
/// An output folder that holds something, or what the file system reports.
pub fn run(args: &Args) -> Result<()> {
    let shown = args.out.display();
    if std::fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{shown}: expected an absent or empty folder, found files");
    }
    let (shape, own) = shapes::by_name(&args.shape).with_context(|| format!("no shape {}", args.shape))?;
    let family = args.family.map_or(own, SyntheticFamily::from);
    let mut shape = if family == own { shape } else { adapted(shape, family) };
    if let Some(layers) = args.layers {
        shape.layers = layers.into();
    }
    let vocab = shape.vocab;
    let mut model = SyntheticModel::new(shape, family, args.seed).with_shards(args.shards.into());
    if args.transformers5 {
        model = model.with_transformers5();
    }
    model.write_folder(&args.out).with_context(|| format!("cannot write {shown}"))?;
    if args.tokenizer {
        tokenizer::write_tokenizer(&args.out, vocab).with_context(|| format!("cannot write {shown}"))?;
    }
    println!("{shown}: {} bytes", folder_bytes(args)?);
    Ok(())
}

/// Gives a shape the switches that another family demands, keeping its dimensions.
fn adapted(shape: ModelShape, family: SyntheticFamily) -> ModelShape {
    let sub_norms = !matches!(family, SyntheticFamily::LlamaBitLinear | SyntheticFamily::TriLm);
    let activation = match family {
        SyntheticFamily::BitNetPacked | SyntheticFamily::BitNetMaster => Activation::Relu2,
        _ => Activation::Silu,
    };
    ModelShape { sub_norms, activation, use_rms_norm: false, ..shape }
}

fn folder_bytes(args: &Args) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(&args.out)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use bitnet_testing::temp::TempDir;

    use super::*;

    fn args(out: PathBuf, family: Option<Family>) -> Args {
        let (shape, shards, layers) = ("tiny".into(), 2, Some(3));
        Args { shape, family, out, seed: 1, layers, tokenizer: true, shards, transformers5: true }
    }

    #[test]
    fn every_family_can_be_written_in_one_shape() {
        let folder = TempDir::new("synth");
        for family in Family::value_variants() {
            let name = SyntheticFamily::from(*family);
            let out = folder.path().join(format!("{name:?}"));
            run(&args(out.clone(), Some(*family))).unwrap();
            for file in ["config.json", "model.safetensors.index.json", "tokenizer.json"] {
                assert!(out.join(file).is_file(), "{name:?}: {file}");
            }
        }
    }

    #[test]
    fn a_folder_that_holds_something_is_left_alone() {
        let folder = TempDir::new("synth-full");
        std::fs::write(folder.path().join("notes"), "mine").unwrap();
        let error = run(&args(folder.path().into(), None)).unwrap_err().to_string();
        assert!(error.contains("expected an absent or empty folder"), "{error}");
    }
}
