//! `bitnet bench`: speed beside the machine's own limits.

mod report;

use anyhow::Result;
use bitnet_benchmarks::kernels::{Pages, Plan, Product};
use bitnet_benchmarks::rounds::Effort;
use bitnet_benchmarks::shape::{SHAPES, Shape};
use bitnet_benchmarks::speed::{self, Settings};
use bitnet_benchmarks::{busy, kernels, synthetic};
use bitnet_core::backend::{LinearWeights, WeightStorage};
use bitnet_core::cpu::TernaryLayout;
use bitnet_inference::Kv;
use bitnet_inference::model::{self, KvUse, LoadOptions, Model, ModelFiles};
use bitnet_kernels::probe::ComputeProbe;
use bitnet_kernels::{Isa, Kernels};

use self::report::{BesideLine, KernelLine, Report, SpeedLine, range};
use crate::args::{BenchArgs, Suite, WeightsArg};
use crate::output::{Out, SCHEMA, note};
use crate::{failure, weights};

/// Layers that are compared with the scalar tier.
const CHECKED_LAYERS: usize = 2;
const ROUNDS: usize = 3;
/// Tokens of a prompt, and to decode, where nothing is said.
const PROMPT: usize = 128;
const DECODE: usize = 64;

/// Says which options have no effect on the suite: every suite takes them, so that one line serves all in a script.
fn note_without_effect(args: &BenchArgs) {
    let (name, idle): (_, &[&str]) = match args.suite {
        None | Some(Suite::Decode) => return,
        Some(Suite::Kernels) => ("kernels", &["-p", "-n", "--model", "--kv"]),
        Some(Suite::Prefill) => ("prefill", &["-n"]),
    };
    let given = [
        ("-p", args.prompt.is_some()),
        ("-n", args.tokens.is_some()),
        ("--model", args.model.is_some()),
        ("--kv", args.kv.is_some()),
    ];
    for (option, _) in given.iter().filter(|(option, given)| *given && idle.contains(option)) {
        note(&format!("{option} has no effect on {name}"));
    }
}

/// Returns the tokens of the prompt and those to decode.
fn counts(args: &BenchArgs) -> Result<(usize, usize)> {
    if matches!(args.suite, Some(Suite::Kernels | Suite::Prefill)) && args.busy.is_some() {
        return Err(failure::usage("--busy: expected a suite that decodes, found kernels or prefill"));
    }
    if args.suite == Some(Suite::Kernels) && args.weights == WeightsArg::Shared {
        return Err(failure::usage("--weights: expected auto, mmap or copy with kernels, found shared"));
    }
    let (prompt, decode) = (args.prompt.unwrap_or(PROMPT), args.tokens.unwrap_or(DECODE));
    let counts = match args.suite {
        Some(Suite::Decode) => (args.prompt.unwrap_or(1), decode),
        Some(Suite::Prefill) => (prompt, 0),
        _ => (prompt, decode),
    };
    if counts.0 == 0 {
        return Err(failure::usage("-p: expected at least 1 token, found 0"));
    }
    if counts.1 == 0 && args.suite != Some(Suite::Kernels) {
        if args.assert {
            return Err(failure::usage("--assert: expected a suite that it judges, kernels or decode"));
        }
        if args.busy.is_some() || args.suite == Some(Suite::Decode) {
            return Err(failure::usage("-n: expected at least 1 token to decode, found 0"));
        }
    }
    Ok(counts)
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    let counts = counts(args)?;
    note_without_effect(args);
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
        report.kernels = products(args, Kernels::for_isa(isa)?, &mut report.model)?;
    } else {
        report.speed = speeds(args, counts, &mut report.model)?;
    }
    let mut out = Out::new();
    if args.json {
        out.json(&report)?;
    } else {
        report.print(&mut out)?;
    }
    out.flush()?;
    if args.assert { report.check() } else { Ok(()) }
}

fn products(args: &BenchArgs, kernels: &Kernels, name: &mut String) -> Result<Vec<KernelLine>> {
    let shape = shape(&args.shape)?;
    shape.name.clone_into(name);
    let mut products = vec![Product::from(TernaryLayout::from(args.layout))];
    products.extend(Product::of_head(args.head.into()));
    let pages = if args.weights == WeightsArg::Copy { Pages::Huge } else { Pages::Small };
    let (threads, effort) = (args.threads(), Effort::Full);
    let plan = Plan { shape, products: &products, pages, threads: &threads, effort };
    let mut lines = Vec::new();
    kernels::measure(kernels, &plan, |figure| lines.push(figure.into()))?;
    Ok(lines)
}

fn speeds(args: &BenchArgs, (prompt, decode): (usize, usize), name: &mut String) -> Result<Vec<SpeedLine>> {
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
    let found = prompt.saturating_add(decode);
    if found >= positions {
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
    let threads = args.threads();
    speed::check(&first, settings(1), &threads)?;
    let mut lines = Vec::new();
    for threads in threads {
        note(&format!("{threads} threads"));
        let speed = speed::measure(&model, settings(threads), (prompt, decode), ROUNDS)?;
        let beside = args.busy.map(|count| beside(&model, settings(threads), decode, count)).transpose()?;
        lines.push(SpeedLine::new(threads, (prompt, decode), speed, beside));
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
