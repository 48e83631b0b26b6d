//! `bitnet bench`: speed beside the machine's own limits.

use anyhow::{Result, anyhow};
use bitnet_benchmarks::shape::{SHAPES, Shape};
use bitnet_benchmarks::speed::{self, Settings, Speed};
use bitnet_benchmarks::{kernels, synthetic};
use bitnet_inference::model::{self, LoadOptions, Model, ModelFiles, ModelSource};
use bitnet_kernels::{Isa, Kernels};
use serde::Serialize;

use crate::args::{BenchArgs, Suite};
use crate::failure;
use crate::output::{Out, SCHEMA, bytes, note, rate};

/// Layers that are compared with the scalar tier.
const CHECKED_LAYERS: usize = 2;
const ROUNDS: usize = 3;
/// Least shares that `--assert` demands.
const DECODE_SHARE: f64 = 0.5;
const KERNEL_SHARE: f64 = 0.7;

#[derive(Serialize)]
struct Report {
    schema: u32,
    model: String,
    isa: &'static str,
    kernels: Vec<KernelLine>,
    speed: Vec<SpeedLine>,
}

#[derive(Serialize)]
struct KernelLine {
    rows: usize,
    cols: usize,
    tokens: usize,
    cold: bool,
    gops: f64,
    gb_per_s: f64,
    share: f64,
}

#[derive(Serialize)]
struct SpeedLine {
    threads: usize,
    kernels: String,
    prompt_tokens: usize,
    prompt_tok_per_s: f64,
    decode_tokens: usize,
    decode_tok_per_s: f64,
    bytes_per_token: usize,
    bandwidth_bytes_per_s: f64,
    share: f64,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.prompt == 0 {
        return Err(failure::usage("-p: expected at least 1 token, found 0"));
    }
    let isa = Isa::select().map_err(|error| failure::usage(error.to_string()))?;
    let mut report = Report {
        schema: SCHEMA,
        model: String::new(),
        isa: isa.name(),
        kernels: Vec::new(),
        speed: Vec::new(),
    };
    if args.suite == Some(Suite::Kernels) {
        "2560 x 2560, 6912 x 2560, 2560 x 6912".clone_into(&mut report.model);
        report.kernels = kernels::measure(Kernels::for_isa(isa)?).into_iter().map(kernel_line).collect();
    } else {
        report.speed = speeds(args, &mut report.model)?;
    }
    let mut out = Out::new();
    if args.json {
        out.json(&report)?;
    } else {
        print(&report, &mut out)?;
    }
    out.flush()?;
    if args.assert { check(&report) } else { Ok(()) }
}

fn speeds(args: &BenchArgs, name: &mut String) -> Result<Vec<SpeedLine>> {
    let model = match &args.model {
        Some(path) => {
            *name = path.display().to_string();
            let files = ModelFiles::open(&ModelSource::Folder(path.clone()))?;
            model::load(&files, &mut LoadOptions { access: args.weights.into(), progress: None })?
        }
        None => {
            let shape = shape(&args.shape)?;
            *name = format!("{}, synthetic weights", shape.name);
            note(&format!("making {name}"));
            synthetic::model(&shape, shape.layers, 0)
        }
    };
    let positions = model.config.max_positions;
    let (prompt, decode) = match args.suite {
        Some(Suite::Decode) => (1, args.tokens),
        Some(Suite::Prefill) => (args.prompt, 0),
        _ => (args.prompt, args.tokens),
    };
    if prompt + decode >= positions {
        let found = prompt + decode;
        return Err(failure::usage(format!(
            "-p and -n: expected fewer than {positions} tokens, found {found}"
        )));
    }
    let settings = |threads| Settings {
        threads,
        kv: args.kv.into(),
        head: args.head.into(),
        layout: args.layout.into(),
        isa: None,
    };
    let first =
        Model { layers: model.layers.iter().take(CHECKED_LAYERS).cloned().collect(), ..model.clone() };
    speed::check(&first, settings(1))?;
    let mut lines = Vec::new();
    for threads in args.threads() {
        note(&format!("{threads} threads"));
        let speed = speed::measure(&model, settings(threads), (prompt, decode), ROUNDS)?;
        let Speed { prompt: prompt_rate, decode: decode_rate, bytes_per_token, bandwidth, share, kernels } =
            speed;
        lines.push(SpeedLine {
            threads,
            kernels,
            prompt_tokens: prompt,
            prompt_tok_per_s: prompt_rate,
            decode_tokens: decode,
            decode_tok_per_s: decode_rate,
            bytes_per_token,
            bandwidth_bytes_per_s: bandwidth,
            share,
        });
    }
    Ok(lines)
}

fn shape(name: &str) -> Result<Shape> {
    Shape::by_name(name).ok_or_else(|| {
        let names = SHAPES.map(|shape| shape.name).join(", ");
        failure::usage(format!("--shape: expected one of {names}, found {name:?}"))
    })
}

fn kernel_line(figure: kernels::Figure) -> KernelLine {
    let kernels::Figure { rows, cols, tokens, cold, gops, share } = figure;
    // Two bits a weight, two operations a weight and token.
    KernelLine { rows, cols, tokens, cold, gops, gb_per_s: gops / 8.0 / tokens as f64, share }
}

fn print(report: &Report, out: &mut Out) -> Result<()> {
    out.line(&format!("model   {}", report.model))?;
    out.line(&format!("tier    {}", report.isa))?;
    for line in &report.kernels {
        let KernelLine { rows, cols, tokens, cold, gops, gb_per_s, share } = line;
        let (kind, limit) = if *cold { ("cold", "read bandwidth") } else { ("warm", "the compute probe") };
        out.line(&format!(
            "{rows:>5} x {cols:<5} {tokens:>4} tokens {kind}  {gops:>7.1} GOPS  {gb_per_s:>6.1} GB/s  {share:.2} of {limit}"
        ))?;
    }
    for line in &report.speed {
        out.line(&format!(
            "threads {}: prompt {} tokens {}, decode {} tokens {}",
            line.threads,
            line.prompt_tokens,
            rate(line.prompt_tok_per_s),
            line.decode_tokens,
            rate(line.decode_tok_per_s),
        ))?;
        if line.share.is_nan() {
            continue;
        }
        out.line(&format!(
            "           {} a token of {:.1} GB/s read: {:.2} of the roofline",
            bytes(line.bytes_per_token as u64),
            line.bandwidth_bytes_per_s / 1e9,
            line.share,
        ))?;
    }
    Ok(())
}

/// Holds the figures against the least shares; one that was not measured is no failure.
fn check(report: &Report) -> Result<()> {
    for line in report.kernels.iter().filter(|line| line.cold && line.share < KERNEL_SHARE) {
        let (rows, cols, share) = (line.rows, line.cols, line.share);
        return Err(anyhow!(
            "cold product {rows} x {cols}: expected {KERNEL_SHARE} of the read bandwidth, found {share:.2}"
        ));
    }
    for line in report.speed.iter().filter(|line| line.share < DECODE_SHARE) {
        let (threads, share) = (line.threads, line.share);
        return Err(anyhow!(
            "decoding with {threads} threads: expected {DECODE_SHARE} of the roofline, found {share:.2}"
        ));
    }
    Ok(())
}
