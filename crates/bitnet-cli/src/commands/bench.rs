//! `bitnet bench`: speed beside the machine's own limits.

use anyhow::{Result, anyhow};
use bitnet_benchmarks::shape::{SHAPES, Shape};
use bitnet_benchmarks::speed::{self, Settings};
use bitnet_benchmarks::statistics::Summary;
use bitnet_benchmarks::{busy, kernels, synthetic};
use bitnet_core::backend::{LinearWeights, WeightStorage};
use bitnet_inference::Kv;
use bitnet_inference::model::{self, KvUse, LoadOptions, Model, ModelFiles};
use bitnet_kernels::probe::ComputeProbe;
use bitnet_kernels::{Isa, Kernels};
use serde::Serialize;

use crate::args::{BenchArgs, Suite};
use crate::output::{Out, SCHEMA, bytes, note, rate};
use crate::{failure, weights};

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
    /// What the share of prompts and warm products is one of.
    compute_probe: Option<&'static str>,
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
    gops_range: [f64; 2],
    gb_per_s: f64,
    /// Of the read bandwidth when cold, else of the compute probe.
    share: f64,
}

#[derive(Serialize)]
struct SpeedLine {
    threads: usize,
    kernels: String,
    prompt_tokens: usize,
    prompt_tok_per_s: f64,
    prompt_tok_per_s_range: [f64; 2],
    compute_ops_per_s: f64,
    prompt_share: f64,
    decode_tokens: usize,
    decode_tok_per_s: f64,
    decode_tok_per_s_range: [f64; 2],
    bytes_per_token: usize,
    weight_bytes_per_token: usize,
    kv_bytes_per_token: usize,
    bandwidth_bytes_per_s: f64,
    share: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    beside: Option<BesideLine>,
}

/// Decoding beside busy threads.
#[derive(Serialize)]
struct BesideLine {
    busy_threads: usize,
    idle_tok_per_s: f64,
    idle_tok_per_s_range: [f64; 2],
    busy_tok_per_s: f64,
    busy_tok_per_s_range: [f64; 2],
    share: f64,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.prompt == 0 {
        return Err(failure::usage("-p: expected at least 1 token, found 0"));
    }
    let decodes = args.suite != Some(Suite::Prefill) && args.tokens > 0;
    if args.assert && args.suite != Some(Suite::Kernels) && !decodes {
        return Err(failure::usage("--assert: expected a suite that it judges, kernels or decode"));
    }
    if args.busy.is_some() && (args.suite == Some(Suite::Kernels) || !decodes) {
        return Err(failure::usage("--busy: expected a suite that decodes, and tokens to decode"));
    }
    let isa = Isa::select().map_err(|error| failure::usage(error.to_string()))?;
    let mut report = Report {
        schema: SCHEMA,
        model: String::new(),
        isa: isa.name(),
        compute_probe: ComputeProbe::for_isa(isa).map(ComputeProbe::name),
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
    let (prompt, decode) = match args.suite {
        Some(Suite::Decode) => (1, args.tokens),
        Some(Suite::Prefill) => (args.prompt, 0),
        _ => (args.prompt, args.tokens),
    };
    let mut kv = Kv::choose(args.kv.map(Into::into), KvUse::Generate, None);
    let model = match &args.model {
        Some(path) => {
            *name = path.display().to_string();
            let source = crate::model::source(path, crate::model::Need::Weights)?;
            let files = ModelFiles::open(&source)?;
            kv = Kv::choose(args.kv.map(Into::into), KvUse::Generate, Some(&files));
            let access = weights::access(args.weights, args.layout, &source, decode);
            let i2s_layout = args.i2s_layout.into();
            model::load(&files, &mut LoadOptions { access, i2s_layout, ..LoadOptions::default() })?
        }
        None => {
            let shape = shape(&args.shape)?;
            *name = format!("{}, synthetic weights", shape.name);
            note(&format!("making {name}"));
            let model = synthetic::model(&shape, shape.layers, 0);
            let size = || Some(model.matrices().filter_map(stored_bytes).sum());
            let is_copied = weights::is_copied(args.weights, args.layout, decode, size);
            if is_copied { synthetic::copied(model)? } else { model }
        }
    };
    let positions = model.config.max_positions;
    if prompt + decode >= positions {
        let found = prompt + decode;
        return Err(failure::usage(format!(
            "-p and -n: expected fewer than {positions} tokens, found {found}"
        )));
    }
    let settings = |threads| Settings {
        threads,
        kv: kv.dtype,
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
        let beside = args.busy.map(|count| beside(&model, settings(threads), decode, count)).transpose()?;
        lines.push(SpeedLine {
            threads,
            prompt_tokens: prompt,
            prompt_tok_per_s: speed.prompt.median,
            prompt_tok_per_s_range: range(speed.prompt),
            compute_ops_per_s: speed.compute,
            prompt_share: speed.prompt_share,
            decode_tokens: decode,
            decode_tok_per_s: speed.decode.median,
            decode_tok_per_s_range: range(speed.decode),
            bytes_per_token: speed.weight_bytes + speed.kv_bytes,
            weight_bytes_per_token: speed.weight_bytes,
            kv_bytes_per_token: speed.kv_bytes,
            bandwidth_bytes_per_s: speed.bandwidth,
            share: speed.share,
            kernels: speed.kernels,
            beside,
        });
    }
    Ok(lines)
}

/// Returns the bytes of weights that are used where they lie.
fn stored_bytes(weights: &LinearWeights) -> Option<u64> {
    match &weights.storage {
        WeightStorage::Ternary { bytes, .. } | WeightStorage::Dense { bytes, .. } => Some(bytes.len() as u64),
        _ => None,
    }
}

fn beside(model: &Model, settings: Settings, tokens: usize, count: u16) -> Result<BesideLine> {
    let busy_threads = usize::from(count);
    let busy::Beside { idle, busy, share } = busy::measure(model, settings, tokens, busy_threads, ROUNDS)?;
    Ok(BesideLine {
        busy_threads,
        idle_tok_per_s: idle.median,
        idle_tok_per_s_range: range(idle),
        busy_tok_per_s: busy.median,
        busy_tok_per_s_range: range(busy),
        share,
    })
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
    let gb_per_s = gops.median / 8.0 / tokens as f64;
    KernelLine { rows, cols, tokens, cold, gops: gops.median, gops_range: range(gops), gb_per_s, share }
}

fn range(summary: Summary) -> [f64; 2] {
    [summary.min, summary.max]
}

fn print(report: &Report, out: &mut Out) -> Result<()> {
    out.line(&format!("model   {}", report.model))?;
    out.line(&format!("tier    {}", report.isa))?;
    for line in &report.kernels {
        let KernelLine { rows, cols, tokens, cold, gops, gb_per_s, share, .. } = line;
        let kind = if *cold { "cold" } else { "warm" };
        let share = match (cold, report.compute_probe) {
            (true, _) => format!("  {share:.2} of the read bandwidth"),
            (false, Some(probe)) => format!("  {share:.2} of {probe}"),
            (false, None) => String::new(),
        };
        out.line(&format!(
            "{rows:>5} x {cols:<5} {tokens:>4} tokens {kind}  {gops:>7.1} GOPS  {gb_per_s:>6.1} GB/s{share}"
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
        if let Some(probe) = report.compute_probe.filter(|_| !line.prompt_share.is_nan()) {
            out.line(&format!("           prompt: {:.2} of {probe}", line.prompt_share))?;
        }
        if let Some(beside) = &line.beside {
            out.line(&format!(
                "           decode beside {} busy threads {}, alone {}: {:.2} of it",
                beside.busy_threads,
                rate(beside.busy_tok_per_s),
                rate(beside.idle_tok_per_s),
                beside.share,
            ))?;
        }
        if line.share.is_nan() {
            continue;
        }
        out.line(&format!(
            "           {} a token of {:.1} GB/s read: decode: {:.2} of the roofline",
            bytes(line.bytes_per_token as u64),
            line.bandwidth_bytes_per_s / 1e9,
            line.share,
        ))?;
    }
    Ok(())
}

/// Holds the figures against the least shares. A share that is not a number has not reached one.
fn check(report: &Report) -> Result<()> {
    let short = |share: f64, least: f64| share.is_nan() || share < least;
    if let Some(line) = report.kernels.iter().find(|line| line.cold && short(line.share, KERNEL_SHARE)) {
        let (rows, cols, share) = (line.rows, line.cols, line.share);
        return Err(anyhow!(
            "cold product {rows} x {cols}: expected {KERNEL_SHARE} of the read bandwidth, found {share:.2}"
        ));
    }
    if let Some(line) = report.speed.iter().find(|line| short(line.share, DECODE_SHARE)) {
        let (threads, share) = (line.threads, line.share);
        return Err(anyhow!(
            "decoding with {threads} threads: expected {DECODE_SHARE} of the roofline, found {share:.2}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cold: f64, warm: f64, decode: Option<f64>) -> Report {
        let kernel = |cold, share| {
            let gops = Summary { median: 8.0, min: 7.0, max: 9.0 };
            kernel_line(kernels::Figure { rows: 4, cols: 8, tokens: 1, cold, gops, share })
        };
        let speed = decode.map(|share| SpeedLine {
            threads: 1,
            kernels: String::new(),
            prompt_tokens: 1,
            prompt_tok_per_s: 1.0,
            prompt_tok_per_s_range: [1.0; 2],
            compute_ops_per_s: f64::NAN,
            prompt_share: f64::NAN,
            decode_tokens: 1,
            decode_tok_per_s: 1.0,
            decode_tok_per_s_range: [1.0; 2],
            bytes_per_token: 1,
            weight_bytes_per_token: 1,
            kv_bytes_per_token: 0,
            bandwidth_bytes_per_s: 1.0,
            share,
            beside: None,
        });
        let kernels = vec![kernel(true, cold), kernel(false, warm)];
        let (model, speed) = (String::new(), speed.into_iter().collect());
        Report { schema: SCHEMA, model, isa: "scalar", compute_probe: None, kernels, speed }
    }

    #[test]
    fn shares_below_the_floors_and_shares_that_are_none_fail() {
        assert!(check(&report(KERNEL_SHARE, f64::NAN, None)).is_ok());
        assert!(check(&report(1.0, 0.0, Some(DECODE_SHARE))).is_ok());
        for (cold, decode) in [(0.69, 1.0), (f64::NAN, 1.0), (1.0, 0.49), (1.0, f64::NAN)] {
            let message = check(&report(cold, 1.0, Some(decode))).unwrap_err().to_string();
            assert!(message.contains("expected 0."), "{message}");
        }
    }

    #[test]
    fn bytes_of_weights_follow_from_operations() {
        let report = report(1.0, 1.0, None);
        assert_eq!((report.kernels[0].gb_per_s, report.kernels[0].gops_range), (1.0, [7.0, 9.0]));
    }
}
