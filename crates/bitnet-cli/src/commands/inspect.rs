//! `bitnet inspect`: what a model consists of.

mod quality;
mod statistics;

use std::collections::HashMap;

use anyhow::Result;
use bitnet_core::backend::{Activation, KV_BLOCK_TOKENS};
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::Kv;
use bitnet_inference::model::{
    ActivationMode, Head, LoadOptions, Model, ModelConfig, ModelFiles, ModelSource, Precision, StoredAs,
    TensorInfo, load,
};
use serde::Serialize;

use self::quality::Quality;
use self::statistics::{MatrixStatistics, TernaryStatistics};
use crate::args::InspectArgs;
use crate::failure::{one_line, usage};
use crate::model;
use crate::output::{Out, SCHEMA, bytes, note};
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    family: &'static str,
    activations: &'static str,
    config: Config,
    assumptions: Vec<String>,
    /// What a .bitnet file records of the precision that it is to be run in.
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<Recorded>,
    tensors: Vec<Tensor>,
    totals: Totals,
    memory: Memory,
}

#[derive(Serialize)]
struct Config {
    architecture: String,
    model_type: String,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
    max_positions: usize,
    rope_theta: f32,
    rms_eps: f32,
    activation: &'static str,
    tied_head: bool,
    bos: Option<u32>,
    eos: Vec<u32>,
}

#[derive(Serialize)]
struct Recorded {
    embedding: String,
    head: String,
    kv: Option<&'static str>,
    kv_measure: Option<&'static str>,
}

impl Recorded {
    fn of(precision: &Precision) -> Self {
        let name = |dtype: Option<BitNetDType>| dtype.map(BitNetDType::name);
        Recorded {
            embedding: precision.embedding.clone(),
            head: precision.head.clone(),
            kv: name(precision.kv),
            kv_measure: name(precision.kv_measure),
        }
    }
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    /// Weights it stands for: packed codes count singly.
    elements: u64,
    /// Bytes in the file.
    bytes: u64,
    bits_per_weight: f64,
    kept_as: String,
    /// Bytes as it is kept; 0 for what is folded into another tensor or unused.
    kept_bytes: u64,
    #[serde(flatten)]
    ternary: Option<TernaryStatistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality: Option<Quality>,
}

#[derive(Serialize)]
struct Totals {
    tensors: usize,
    parameters: u64,
    ternary_parameters: u64,
    bytes: u64,
    bits_per_weight: f64,
    #[serde(flatten)]
    ternary: Option<TernaryStatistics>,
    /// What the ternary tensors take as kept, and the least they could.
    ternary_bytes: u64,
    ternary_entropy_bytes: Option<f64>,
}

#[derive(Serialize)]
struct Memory {
    parts: Vec<Part>,
    kv_type: &'static str,
    /// Who chose it: option, file or default.
    kv_by: &'static str,
    kv_bytes_per_token: u64,
    context: usize,
    kv_bytes_at_full_context: u64,
}

#[derive(Serialize)]
struct Part {
    part: &'static str,
    bytes: usize,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<()> {
    let source = model::source_or_bundled(args.model.as_deref(), model::Need::All)?;
    args.engine.check()?;
    if args.check {
        check_payloads(&source)?;
    }
    // The engine's own figures: what a run of this model holds.
    let memory = memory(&source, args)?;
    let report = describe(&source, args, memory)?;
    let mut out = Out::new();
    if args.json {
        out.json(&report)?
    } else {
        print(&report, &mut out)?
    }
    out.flush()
}

/// Compares the tensors of a `.bitnet` file with their checksums.
fn check_payloads(source: &ModelSource) -> Result<()> {
    let files = ModelFiles::open(source)?;
    match files.bitnet() {
        Some(file) => {
            file.check_payloads()?;
            let count = file.container().tensors().len();
            note(&format!("{}: {count} tensors match their checksums", files.root().display()));
            Ok(())
        }
        None => Err(usage(format!("--check: expected a .bitnet file, found {}", files.root().display()))),
    }
}

fn describe(source: &ModelSource, args: &InspectArgs, memory: Memory) -> Result<Report> {
    let files = ModelFiles::open(source)?;
    let mut bar = Progress::bytes();
    let mut progress = |now| bar.load(now);
    let (access, i2s_layout) = (args.engine.weights.into(), args.engine.i2s_layout.into());
    let mut options = LoadOptions { progress: Some(&mut progress), access, i2s_layout, pool: None };
    let model = load(&files, &mut options)?;
    let matrices: HashMap<_, _> =
        model.matrices().map(|matrix| (matrix.name.as_str(), MatrixStatistics::of(matrix))).collect();
    let mut tensors: Vec<_> =
        model.tensors.iter().map(|info| tensor(info, matrices.get(info.name.as_str()), args.why)).collect();
    if args.quality {
        let checkpoint = files.open_checkpoint(access)?;
        for tensor in tensors.iter_mut().filter(|tensor| tensor.ternary.is_some()) {
            tensor.quality = Quality::of(&checkpoint, &tensor.name)?;
        }
        if tensors.iter().all(|tensor| tensor.quality.is_none()) {
            note("--quality: no tensor of master weights is kept as ternary codes");
        }
    }
    let totals = totals(&tensors, matrices.values());
    Ok(Report {
        schema: SCHEMA,
        model: files.root().display().to_string(),
        family: model.family.name(),
        activations: match model.activations {
            ActivationMode::Int8PerToken => "int8 per token",
            ActivationMode::Float => "float",
        },
        config: config(&model),
        assumptions: model.assumptions.clone(),
        precision: files.bitnet().map(|file| Recorded::of(file.precision())),
        tensors,
        totals,
        memory,
    })
}

fn config(model: &Model) -> Config {
    let config: &ModelConfig = &model.config;
    Config {
        architecture: config.architecture.clone(),
        model_type: config.model_type.clone(),
        layers: config.layers,
        hidden: config.hidden,
        intermediate: config.intermediate,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocab: config.vocab,
        max_positions: config.max_positions,
        rope_theta: config.rope_theta,
        rms_eps: config.rms_eps,
        activation: match config.activation {
            Activation::SquaredRelu => "squared relu",
            Activation::Silu => "silu",
        },
        tied_head: matches!(model.head, Head::Tied),
        bos: config.bos,
        eos: config.eos.clone(),
    }
}

fn tensor(info: &TensorInfo, matrix: Option<&MatrixStatistics>, why: bool) -> Tensor {
    let stored: u64 = info.shape.iter().map(|&extent| extent as u64).product();
    let elements = matrix.map_or(stored, |matrix| matrix.elements);
    let kept_bytes = match info.stored_as {
        StoredAs::Vector => stored * 4,
        _ => matrix.map_or(0, |matrix| matrix.kept_bytes),
    };
    Tensor {
        name: info.name.clone(),
        dtype: info.dtype.clone(),
        shape: info.shape.clone(),
        elements,
        bytes: info.bytes,
        bits_per_weight: info.bytes as f64 * 8.0 / elements as f64,
        kept_as: info.stored_as.to_string(),
        kept_bytes,
        ternary: matrix.and_then(MatrixStatistics::ternary),
        rule: why.then_some(info.rule),
        quality: None,
    }
}

fn totals<'m>(tensors: &[Tensor], matrices: impl Iterator<Item = &'m MatrixStatistics>) -> Totals {
    let ternary: Vec<_> = matrices.filter(|matrix| matrix.ternary().is_some()).collect();
    let entropy: f64 =
        ternary.iter().filter_map(|m| Some(m.ternary()?.entropy_bits * m.elements as f64 / 8.0)).sum();
    let (parameters, bytes) =
        tensors.iter().fold((0, 0), |(n, b), tensor| (n + tensor.elements, b + tensor.bytes));
    Totals {
        tensors: tensors.len(),
        parameters,
        ternary_parameters: ternary.iter().map(|matrix| matrix.elements).sum(),
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / parameters as f64,
        ternary: MatrixStatistics::sum(&ternary).ternary(),
        ternary_bytes: ternary.iter().map(|matrix| matrix.kept_bytes).sum(),
        ternary_entropy_bytes: (!ternary.is_empty()).then_some(entropy),
    }
}

fn memory(source: &ModelSource, args: &InspectArgs) -> Result<Memory> {
    let mut engine = model::load(source, &args.engine, args.kv, 0)?;
    let parts = engine.memory().into_iter().map(|part| Part { part: part.part, bytes: part.bytes }).collect();
    let Kv { dtype: kv, by } = engine.kv();
    let context = engine.runner().context();
    let config = engine.config();
    let kv_bytes_per_token =
        kv.size_bytes(2 * config.layers * config.kv_width()).unwrap_or(usize::MAX) as u64;
    let blocks = context.div_ceil(KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS;
    let kv_bytes_at_full_context = kv_bytes_per_token * blocks as u64;
    let (kv_type, kv_by) = (kv.name(), by.name());
    Ok(Memory { parts, kv_type, kv_by, kv_bytes_per_token, context, kv_bytes_at_full_context })
}

fn print(report: &Report, out: &mut Out) -> Result<()> {
    let Report { config, totals, memory, .. } = report;
    out.line(&format!("model         {}", one_line(&report.model)))?;
    out.line(&format!("family        {} ({} activations)", report.family, report.activations))?;
    let model_type = match config.model_type.as_str() {
        "" => String::new(),
        model_type => format!(" (model_type {})", one_line(model_type)),
    };
    out.line(&format!("architecture  {}{model_type}", one_line(&config.architecture)))?;
    out.line(&format!(
        "shape         {} layers, width {}, feed-forward {} ({}), {} heads of {}, {} key/value heads",
        config.layers,
        config.hidden,
        config.intermediate,
        config.activation,
        config.heads,
        config.head_dim,
        config.kv_heads,
    ))?;
    let head = if config.tied_head { "the embedding" } else { "a matrix of its own" };
    let begin = config.bos.map_or("none".into(), |id| id.to_string());
    out.line(&format!(
        "vocabulary    {} tokens, the head is {head}, begin token {begin}, end tokens {:?}",
        config.vocab, config.eos
    ))?;
    out.line(&format!(
        "context       {} tokens, rotary base {}, norm epsilon {:e}",
        config.max_positions, config.rope_theta, config.rms_eps
    ))?;
    for assumption in &report.assumptions {
        out.line(&format!("assumed       {}", one_line(assumption)))?;
    }
    if let Some(Recorded { embedding, head, kv, kv_measure }) = &report.precision {
        out.line(&format!(
            "recorded      embedding {embedding}, head {head}, KV cache {}, {} to measure",
            kv.unwrap_or("open"),
            kv_measure.unwrap_or("open")
        ))?;
    }
    out.line("")?;
    print_tensors(&report.tensors, out)?;
    out.line("")?;
    out.line(&format!(
        "total         {} tensors, {} parameters, {}, {:.3} bits per weight",
        totals.tensors,
        totals.parameters,
        bytes(totals.bytes),
        totals.bits_per_weight
    ))?;
    if let (Some(ternary), Some(bound)) = (&totals.ternary, totals.ternary_entropy_bytes) {
        out.line(&format!(
            "ternary       {} parameters, {}, kept in {}, entropy bound {}",
            totals.ternary_parameters,
            ternary.describe(),
            bytes(totals.ternary_bytes),
            bytes(bound as u64)
        ))?;
    }
    for part in &memory.parts {
        out.line(&format!("memory        {:<12} {}", part.part, bytes(part.bytes as u64)))?;
    }
    out.line(&format!(
        "KV cache      {} a token as {} ({}), {} for {} tokens",
        bytes(memory.kv_bytes_per_token),
        memory.kv_type,
        memory.kv_by,
        bytes(memory.kv_bytes_at_full_context),
        memory.context
    ))
}

fn print_tensors(tensors: &[Tensor], out: &mut Out) -> Result<()> {
    let width = tensors.iter().map(|tensor| one_line(&tensor.name).len()).max().unwrap_or(0);
    for tensor in tensors {
        let mut line = format!(
            "{:<width$}  {:<5} {:<14} {:>11}  {:>6.3} bits  {}",
            one_line(&tensor.name),
            tensor.dtype,
            format!("{:?}", tensor.shape),
            bytes(tensor.bytes),
            tensor.bits_per_weight,
            tensor.kept_as,
        );
        if let Some(ternary) = &tensor.ternary {
            line.push_str(&format!(": {}", ternary.describe()));
        }
        if let Some(quality) = &tensor.quality {
            line.push_str(&format!("; {}", quality.describe()));
        }
        if let Some(rule) = tensor.rule {
            line.push_str(&format!(" | {rule}"));
        }
        out.line(&line)?;
    }
    Ok(())
}
