//! Every command and option. The doc comments here are the `--help` texts, and `docs/cli.md` is made of them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bitnet_core::cpu::{HeadPrecision, TernaryLayout};
use bitnet_core::device::Device;
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::model::convert::Target;
use bitnet_inference::model::ggml::GgmlType;
use bitnet_inference::model::{I2sLayout, WeightAccess};
use bitnet_inference::{GenerateOptions, SamplingParams};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::failure;

/// Runs, measures and inspects 1.58-bit language models.
///
/// A MODEL is a folder with config.json, *.safetensors and tokenizer.json, a .gguf or a .bitnet file; or, in a build
/// with the feature hub, hf:org/name, a /file or @revision after it where wanted, which is fetched into the cache of
/// the Hugging Face hub. The commands run, chat, eval and inspect use the bundled fairy-tale model when none is named.
///
/// Results go to standard output, progress and notes to standard error. The exit status is 0, 1 for a
/// failure, 2 for a usage error (an unavailable device or instruction set too), 130 after Ctrl-C. The
/// environment variable BITNET_ISA forces an instruction-set tier (see `bitnet doctor`).
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; their help is that of their arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(RunArgs),
    Chat(ChatArgs),
    Eval(EvalArgs),
    Logits(LogitsArgs),
    Tokenize(TokenizeArgs),
    Convert(ConvertArgs),
    Quantize(QuantizeArgs),
    Inspect(InspectArgs),
    Bench(BenchArgs),
    Doctor(DoctorArgs),
}

/// How to run a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine options")]
pub struct EngineArgs {
    /// Threads to use, 1 to 1024 [default: every core this process may use]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Device to run on: cpu, cuda:N, metal:N or mlx; `bitnet doctor` tells which are available
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,
    /// Longest sequence, in tokens [default: the model's own limit]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,
    /// Element type of the output matrix: as the file stores it, or in rows of eight or six bits, which are read in half
    /// the time and less; the likeliest token before penalties stays that of the stored matrix
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = HeadType::Stored)]
    pub head: HeadType,
    /// How weight files are brought into memory: mapped, copied, or what pays for the tokens to be decoded
    #[arg(long, value_name = "HOW", value_enum, default_value_t = WeightsArg::Auto)]
    pub weights: WeightsArg,
    /// How ternary weights are kept: two bits each as the file has them, or repacked to 1.6 bits
    #[arg(long, value_name = "LAYOUT", value_enum, default_value_t = LayoutArg::Quarters)]
    pub layout: LayoutArg,
    /// Order of the elements in I2_S tensors of GGUF files, which depends on the machine that wrote them and stands
    /// in no file
    #[arg(long = "i2_s-layout", value_name = "ORDER", value_enum, default_value_t = I2sArg::X86)]
    pub i2s_layout: I2sArg,
}

impl EngineArgs {
    /// Refuses what this build cannot do.
    pub fn check(&self) -> Result<()> {
        match self.weights {
            WeightsArg::Mmap if cfg!(not(feature = "mmap")) => {
                Err(failure::usage("--weights mmap: not available in this build: the feature `mmap` is off"))
            }
            WeightsArg::Shared if cfg!(not(all(feature = "mmap", target_os = "linux"))) => {
                Err(failure::usage("--weights shared: needs Linux and a build with the feature `mmap`"))
            }
            _ if cfg!(not(feature = "parallel")) && self.threads.is_some_and(|threads| threads > 1) => {
                Err(failure::usage("--threads: expected 1 (the feature `parallel` is off in this build)"))
            }
            _ => Ok(()),
        }
    }
}

/// Order of the elements in I2_S tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum I2sArg {
    /// Groups of 128: the published files.
    X86,
    /// Groups of 64.
    Arm,
}

impl From<I2sArg> for I2sLayout {
    fn from(order: I2sArg) -> Self {
        match order {
            I2sArg::X86 => I2sLayout::X86,
            I2sArg::Arm => I2sLayout::Arm,
        }
    }
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    /// Half precision: half the memory.
    F16,
    /// Single precision.
    F32,
}

impl From<KvType> for BitNetDType {
    fn from(kv: KvType) -> Self {
        match kv {
            KvType::F16 => BitNetDType::F16,
            KvType::F32 => BitNetDType::F32,
        }
    }
}

/// Element type of the output matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HeadType {
    /// As the file stores it.
    Stored,
    /// Rows of int8 with a step each, made when the model is loaded.
    I8,
    /// The same in six bits: a quarter less to read; below the likeliest token probabilities are coarser.
    I6,
}

impl From<HeadType> for HeadPrecision {
    fn from(head: HeadType) -> Self {
        match head {
            HeadType::Stored => HeadPrecision::Stored,
            HeadType::I8 => HeadPrecision::Int8,
            HeadType::I6 => HeadPrecision::Int6,
        }
    }
}

/// How ternary weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    /// Four rows a byte, two bits a weight: used where the file left them.
    Quarters,
    /// Five rows a byte, 1.6 bits a weight: repacked when the model is loaded.
    Fifths,
}

impl From<LayoutArg> for TernaryLayout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Quarters => TernaryLayout::RowQuarters,
            LayoutArg::Fifths => TernaryLayout::RowFifths,
        }
    }
}

impl From<WeightsArg> for WeightAccess {
    fn from(weights: WeightsArg) -> Self {
        match weights {
            WeightsArg::Mmap => WeightAccess::Map,
            WeightsArg::Copy => WeightAccess::Copy,
            WeightsArg::Shared => WeightAccess::Shared,
            WeightsArg::Auto => WeightAccess::Auto,
        }
    }
}

/// How weight files are brought into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WeightsArg {
    /// Mapped: read when first touched, shared between processes.
    Mmap,
    /// Read into memory once, on huge pages where the system has them.
    Copy,
    /// Read once into memory that all processes of this user share while one of them runs (Linux).
    Shared,
    /// Copied for 512 tokens to decode and more (a chat counts four replies), where weights are used as the file
    /// has them and leave half of the free memory; else mapped, where the build can.
    Auto,
}

/// How to choose tokens, and when to stop.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generation options")]
pub struct SamplingArgs {
    /// Generate at most this many tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Divide the logits by this; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = SamplingParams::default().temperature, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Choose among this many likeliest tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = SamplingParams::default().top_k)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together have this probability; 1 is off
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().top_p, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Choose among tokens at least this likely, relative to the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = SamplingParams::default().min_p, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Divide the positive logits of the last 64 tokens by this, multiply the negative ones; 1 is off
    #[arg(long, value_name = "R", default_value_t = SamplingParams::default().repeat_penalty, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
    /// End before this text; may be given several times [default: none]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Seed of the random choices: the same seed gives the same text, whatever the threads [default: from the clock]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// Checks the values and makes the options of a generation, drawing a seed where none was given.
    pub fn options(&self, parse_special: bool) -> Result<GenerateOptions> {
        let sampling = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            seed: self.seed.unwrap_or_else(seed_of_the_clock),
            ..SamplingParams::default()
        };
        sampling.validate().map_err(|error| failure::usage(error.to_string()))?;
        Ok(GenerateOptions {
            sampling,
            max_tokens: Some(self.max_tokens),
            stop: self.stop.clone(),
            parse_special,
        })
    }
}

/// Returns a seed short enough to type again.
fn seed_of_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    // The low bits change fast, but not in every digit: a multiplication spreads them.
    (now.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32
}

/// Continue a prompt.
///
/// The text streams to standard output, followed by a line break; a summary goes to standard error. Special
/// tokens spelled in the prompt are ordinary characters unless --parse-special is given.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Text to continue; `-` reads standard input, as does leaving it out when that is not a terminal, and
    /// drops one line break at its end. An empty prompt is the model's begin token
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// Read the prompt from a file, and drop one line break at its end
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// Model to run [default: the bundled fairy-tale model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Lay the prompt out as a user's message with the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// System message [default: none]
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Let special tokens spelled in the prompt act as such
    #[arg(long, conflicts_with = "chat")]
    pub parse_special: bool,
    /// Print one JSON object at the end instead of text
    #[arg(long, conflicts_with = "jsonl")]
    pub json: bool,
    /// Print one JSON object for each token, and one for the end
    #[arg(long)]
    pub jsonl: bool,
    /// Write the state of the memory pool after the run to this file, as JSON: settings, totals, live blocks; FILE.pickle
    /// gets what PyTorch's memory_viz opens, FILE.trace what Perfetto opens
    #[arg(long, value_name = "FILE")]
    pub memory_snapshot: Option<PathBuf>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Element type of the KV cache [default: what a .bitnet file records, else f16]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Engine options")]
    pub kv: Option<KvType>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Talk with a model.
///
/// Lines that begin with / are commands; /help lists them. Ctrl-C stops an answer; on an empty line it
/// leaves, as Ctrl-D does. When standard input is not a terminal, each of its lines is a message.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Model to talk with [default: the bundled fairy-tale model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// System message [default: none]
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Element type of the KV cache [default: what a .bitnet file records, else f16]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Engine options")]
    pub kv: Option<KvType>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Measure the loss on a text.
///
/// The tokens are cut into consecutive windows that do not overlap. Each starts with an empty cache and
/// predicts its tokens 1 to N, the last with one token of look-ahead; a last partial window is dropped.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Model to measure [default: the bundled fairy-tale model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Text to measure on, encoded with the special tokens that the tokenizer puts around a text
    #[arg(long, value_name = "FILE", required_unless_present = "tokens", conflicts_with = "tokens")]
    pub text: Option<PathBuf>,
    /// Token ids to measure on, little-endian binary; nothing is inserted, and no tokenizer is needed
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Type of the ids in the --tokens file
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = IdType::U16)]
    pub tokens_type: IdType,
    /// Tokens that a window predicts [default: the context, at most 512]
    #[arg(long, value_name = "N")]
    pub window: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Element type of the KV cache [default: what a .bitnet file records for measuring, else f32]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Engine options")]
    pub kv: Option<KvType>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Type of binary token ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdType {
    /// Two bytes an id.
    U16,
    /// Four bytes an id.
    U32,
}

/// Write the logits of every token to a file.
///
/// The file gets one tensor, `logits`, f32 [tokens, vocabulary]: row i is what the model says after token
/// i. It appears whole or not at all. No tokenizer is needed.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// Model to run
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Token ids, separated by commas
    #[arg(
        long,
        value_name = "1,2,3",
        value_delimiter = ',',
        required_unless_present = "ids_file",
        conflicts_with = "ids_file"
    )]
    pub ids: Vec<u32>,
    /// Read the ids from a text file: decimal, separated by commas or white space, brackets allowed
    #[arg(long, value_name = "FILE")]
    pub ids_file: Option<PathBuf>,
    /// File to write, in safetensors format
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Print what was written as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Element type of the KV cache [default: what a .bitnet file records for measuring, else f32]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Engine options")]
    pub kv: Option<KvType>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// Turn text into token ids.
///
/// Prints the ids separated by commas, then the text that they decode to, special tokens included. Special
/// tokens spelled in the text are ordinary characters unless --parse-special is given.
#[derive(Debug, Args)]
pub struct TokenizeArgs {
    /// Text to encode; `-` reads standard input, as does leaving it out when that is not a terminal
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Read the text from a file
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Model, GGUF file with a vocabulary alone, tokenizer.json or tokenizer.model; weights are not read
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Leave out the special tokens that the tokenizer puts around a text
    #[arg(long)]
    pub no_special: bool,
    /// Let special tokens spelled in the text act as such
    #[arg(long)]
    pub parse_special: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A format that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetArg {
    /// Folder: packed codes with scales, as transformers loads them.
    HfPacked,
    /// Folder: ternary values as floats with scales.
    HfMaster,
    /// GGUF for bitnet.cpp.
    #[value(name = "gguf-i2_s")]
    GgufI2s,
    /// GGUF for llama.cpp, 1.69 bits a weight.
    #[value(name = "gguf-tq1_0")]
    GgufTq1,
    /// GGUF for llama.cpp, 2.06 bits a weight.
    #[value(name = "gguf-tq2_0")]
    GgufTq2,
    /// GGUF of half-precision floats.
    GgufF16,
    /// Our own file, which runs in place.
    Bitnet,
}

impl From<TargetArg> for Target {
    fn from(target: TargetArg) -> Self {
        match target {
            TargetArg::HfPacked => Target::HfPacked,
            TargetArg::HfMaster => Target::HfMaster,
            TargetArg::GgufI2s => Target::Gguf(GgmlType::I2_S),
            TargetArg::GgufTq1 => Target::Gguf(GgmlType::TQ1_0),
            TargetArg::GgufTq2 => Target::Gguf(GgmlType::TQ2_0),
            TargetArg::GgufF16 => Target::Gguf(GgmlType::F16),
            TargetArg::Bitnet => Target::Bitnet,
        }
    }
}

/// Type of embedding and head in a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmbeddingArg {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32 in 8 bits.
    #[value(name = "q8_0")]
    Q8,
    /// Blocks of 256 in 6 bits.
    #[value(name = "q6_k")]
    Q6,
}

impl From<EmbeddingArg> for GgmlType {
    fn from(embedding: EmbeddingArg) -> Self {
        match embedding {
            EmbeddingArg::F32 => GgmlType::F32,
            EmbeddingArg::F16 => GgmlType::F16,
            EmbeddingArg::Bf16 => GgmlType::BF16,
            EmbeddingArg::Q8 => GgmlType::Q8_0,
            EmbeddingArg::Q6 => GgmlType::Q6_K,
        }
    }
}

/// Write a model in another format.
///
/// Ternary values are kept bit for bit, scales as they are or, in TQ and F16, rounded to half precision. The result
/// appears whole or not at all. Memory holds the largest tensor and one layer, whatever the size of the model.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub conversion: ConversionArgs,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub to: TargetArg,
}

/// Quantise master weights and write them.
///
/// Each projection becomes ternary by the mean of its magnitudes, as the training of BitNet b1.58 defines it. A model
/// that is quantised already is refused: `bitnet convert` takes any.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    #[command(flatten)]
    pub conversion: ConversionArgs,
    /// Format to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = TargetArg::HfPacked)]
    pub to: TargetArg,
}

/// What `convert` and `quantize` have in common.
#[derive(Debug, Args)]
pub struct ConversionArgs {
    /// Model to read
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// File or folder to write; a folder has to be absent or empty
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Type of embedding and head in a GGUF file; other formats keep them as stored
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = EmbeddingArg::F16)]
    pub embedding: EmbeddingArg,
    /// Element type of the KV cache that a .bitnet file asks to be run with, whatever for [default: what the source
    /// records, else f16, and f32 for eval and logits]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub kv: Option<KvType>,
    /// Name of the rule by which the tokenizer cuts text, for a GGUF file [default: recognised by its pattern]
    #[arg(long, value_name = "NAME")]
    pub tokenizer_pre: Option<String>,
    /// Run both models before the result gets its name, and fail when they differ too much
    #[arg(long)]
    pub verify: bool,
    /// Text to verify on [default: a built-in one, or ids where there is no tokenizer]
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub text: Option<PathBuf>,
    /// Greatest difference of the two losses that passes, in nats a token
    #[arg(long, value_name = "NATS", default_value_t = 0.01)]
    pub max_loss_change: f64,
    /// Order of the elements in I2_S tensors of the model that is read
    #[arg(long = "i2_s-layout", value_name = "ORDER", value_enum, default_value_t = I2sArg::X86)]
    pub i2s_layout: I2sArg,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Show what a model consists of.
///
/// Prints architecture, configuration, every tensor with its share of -1, 0 and +1 where it is ternary, and
/// memory by part. The entropy bound is the fewest bits that the values could be stored in; the best packing is the
/// fastest to unpack within one per cent of the smallest for these shares.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model to show [default: the bundled fairy-tale model]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Compare every tensor of a .bitnet file with its checksum first
    #[arg(long, requires = "model")]
    pub check: bool,
    /// Show the rule by which each tensor is kept as it is
    #[arg(long)]
    pub why: bool,
    /// Measure what quantising each tensor of master weights loses
    #[arg(long)]
    pub quality: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Element type of the KV cache [default: what a .bitnet file records, else f16]
    #[arg(long, value_name = "TYPE", value_enum, help_heading = "Engine options")]
    pub kv: Option<KvType>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Products alone: of ternary weights, and of the output matrix.
    Kernels,
    /// Decoding after a prompt of `-p` tokens, one where nothing is said.
    Decode,
    /// A prompt.
    Prefill,
}

/// Measure speed beside the machine's own limits.
///
/// Without a suite, a prompt and decoding after it. Weights are synthetic in a published shape unless a model
/// is named. Before anything is timed, logits of the first two layers (a prompt of 70 tokens and one after it, with each
/// number of threads) and every product are compared with the scalar tier, bit for bit. Figures are medians over rounds,
/// with limits of the machine measured between the rounds on as many threads. The roofline of decoding and of cold
/// products is the read bandwidth: the best of up to four ways of reading the very bytes that were worked on, with and without
/// prefetch, one stream or two. Prompts and warm ternary products stand beside a probe that multiplies in registers with
/// the instructions of the tier. Billions of operations a second (GOPS) count ternary products, two for a weight and
/// token.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure [default: prefill and decode]
    #[arg(value_name = "SUITE", value_enum)]
    pub suite: Option<Suite>,
    /// Model to measure
    #[arg(long, value_name = "MODEL", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Shape of the synthetic model: 2b-4t, large, 3b or tiny
    #[arg(long, value_name = "SHAPE", default_value = "2b-4t")]
    pub shape: String,
    /// Tokens of the prompt; not with kernels or decode [default: 128]
    #[arg(short = 'p', value_name = "N")]
    pub prompt: Option<usize>,
    /// Tokens to decode; not with kernels or prefill [default: 64]
    #[arg(short = 'n', value_name = "N")]
    pub tokens: Option<usize>,
    /// Thread counts to measure, one after the other [default: 1 and every core this process may use; with kernels 1]
    #[arg(short = 't', long = "threads", value_name = "N,...", value_delimiter = ',', value_parser = value_parser!(u16).range(1..=1024))]
    pub thread_counts: Vec<u16>,
    /// Decode beside this many busy threads too, in turn with decoding alone, and print the share of its speed
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub busy: Option<u16>,
    /// Fail when decoding reaches less than 0.5 of the roofline, a cold product less than 0.7, or decoding beside busy
    /// threads less than 0.4 of decoding alone
    #[arg(long)]
    pub assert: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Element type of the KV cache; not with kernels [default: what a .bitnet file records, else f16]
    #[arg(long, value_name = "TYPE", value_enum)]
    pub kv: Option<KvType>,
    /// Element type of the output matrix
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = HeadType::Stored)]
    pub head: HeadType,
    /// How ternary weights are kept
    #[arg(long, value_name = "LAYOUT", value_enum, default_value_t = LayoutArg::Quarters)]
    pub layout: LayoutArg,
    /// How the weight files of a named model are brought into memory; synthetic weights are made in memory, and
    /// copied to huge pages for `copy`, or for `auto` by the same rule. With kernels `copy` puts those weights on huge
    /// pages that a model has in its file; those that loading makes are there always
    #[arg(long, value_name = "HOW", value_enum, default_value_t = WeightsArg::Auto)]
    pub weights: WeightsArg,
    /// Order of the elements in I2_S tensors of a named GGUF file
    #[arg(long = "i2_s-layout", value_name = "ORDER", value_enum, default_value_t = I2sArg::X86)]
    pub i2s_layout: I2sArg,
}

impl BenchArgs {
    /// Returns the thread counts to measure.
    pub fn threads(&self) -> Vec<usize> {
        if !self.thread_counts.is_empty() {
            return self.thread_counts.iter().map(|&threads| usize::from(threads)).collect();
        }
        if self.suite == Some(Suite::Kernels) {
            return vec![1];
        }
        let most = match cfg!(feature = "parallel") {
            true => std::thread::available_parallelism().map_or(1, usize::from),
            false => 1,
        };
        if most == 1 { vec![1] } else { vec![1, most] }
    }
}

/// Show what this machine and this build can do.
///
/// Prints machine, instruction-set tiers, devices and why not, measured memory bandwidth, environment
/// variables and features. The measurement takes a few seconds.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sampling_values_are_checked_before_a_model_is_loaded() {
        for (option, value) in
            [("--temperature", "-1"), ("--top-p", "1.5"), ("--min-p", "NaN"), ("--repeat-penalty", "0")]
        {
            let cli = Cli::try_parse_from(["bitnet", "run", "x", option, value]).unwrap();
            let Command::Run(args) = cli.command else { panic!("{option}") };
            let error = args.sampling.options(false).unwrap_err();
            assert!(error.is::<failure::Usage>() && error.to_string().contains(&option[2..5]), "{error}");
        }
    }
}
