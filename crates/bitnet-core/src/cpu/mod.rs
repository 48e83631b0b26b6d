//! The CPU backend.
//!
//! [`CpuBackend`] runs a graph on a team of threads, entered once a pass, with the
//! kernels of the best instruction-set tier (or the one that `BITNET_ISA` names). Packed ternary codes and
//! aligned dense rows are used where the loader left them, a mapped file included; activations, scratch
//! and KV blocks come from a [`HybridMemoryPool`]. Logits are the same bits for any number of threads,
//! any tier, any chunking of a prompt and any batch.

#![allow(unsafe_code)]

mod buffers;
mod governor;
mod kv;
#[cfg(all(test, loom))]
mod loom_tests;
mod pass;
mod plan;
mod shared;
mod sync;
mod team;
#[cfg(all(test, not(loom)))]
mod tests;
mod turn;
mod weights;

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, PoisonError};

use bitnet_backend::{
    Backend, BackendInfo, BitNetDType, BitNetError, BufferId, BufferKind, Device, ErrorKind, Graph,
    KV_BLOCK_TOKENS, LinearId, LinearWeights, MemoryPart, Op, Result, Step, StepLimits, VectorId,
};
use bitnet_kernels::scalar::attention::MAX_HEAD_DIM;
use bitnet_kernels::{Isa, IsaError, Kernels};

use self::buffers::{Activations, HeadRows, Lent};
use self::kv::{KvCache, KvShape};
use self::pass::{Parts, Pass};
use self::plan::Stage;
use self::team::Team;
pub use self::weights::TernaryLayout;
use self::weights::{Elements, Matrix, NarrowWidth};
use crate::memory::{HybridMemoryPool, PoolBuffer, TagScope};

// A block of the cache is a block of the attention kernel.
const _: () = assert!(KV_BLOCK_TOKENS == bitnet_kernels::scalar::attention::BLOCK);

/// Name of this backend in errors and logs.
const NAME: &str = "cpu";

/// Settings of the CPU backend.
#[derive(Debug, Clone)]
pub struct CpuOptions {
    /// Worker threads; `None` takes every core that the process may use.
    pub threads: Option<usize>,
    /// Instruction-set tier; `None` follows `BITNET_ISA`, else takes the best.
    pub isa: Option<Isa>,
    /// Element type of the KV cache, `F16` or `F32`.
    pub kv: BitNetDType,
    /// Arithmetic of the language-model head.
    pub head: HeadPrecision,
    /// How ternary codes are kept.
    pub layout: TernaryLayout,
    /// Where activations, scratch and KV blocks come from; `None` makes a pool.
    pub pool: Option<HybridMemoryPool>,
}

impl Default for CpuOptions {
    fn default() -> Self {
        CpuOptions {
            threads: None,
            isa: None,
            kv: BitNetDType::F16,
            head: HeadPrecision::default(),
            layout: TernaryLayout::default(),
            pool: None,
        }
    }
}

/// How the language-model head is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadPrecision {
    /// As the file stores it, in f32 arithmetic.
    #[default]
    Stored,
    /// Rows in int8 with a step each, activations to about 13 bits, summed in integers: half the bytes of a
    /// 16-bit head. Every token that could be the likeliest, by a proven bound of the error of its logit, is
    /// computed again from the stored row: the likeliest token is always that of the stored head, before penalties.
    Int8,
    /// As `Int8` in six bits: three quarters of its bytes. The likeliest token is that of the stored head as well;
    /// the logits below it are coarser, which sampling at a temperature sees.
    Int6,
}

/// Runs graphs on the host processor.
pub struct CpuBackend {
    kernels: &'static Kernels,
    team: Team,
    pool: HybridMemoryPool,
    kv_dtype: BitNetDType,
    head: HeadPrecision,
    layout: TernaryLayout,
    matrices: Vec<Matrix>,
    vectors: Vec<PoolBuffer<f32>>,
    loaded: Option<Loaded>,
}

/// The stages of a pass, and the buffers as their order lets them share memory.
struct Order {
    stages: Vec<Stage>,
    activations: Activations,
}

/// A graph with its memory.
struct Loaded {
    graph: Graph,
    limits: StepLimits,
    /// Of any step, and of one token alone, where the buffers have a row for each worker.
    many: Order,
    one: Order,
    /// Whether the last pass was one of one token, and its buffers thus those of `one`.
    last_was_one: bool,
    /// Pieces taken of each stage of a pass.
    taken: Vec<AtomicUsize>,
    parts: Parts,
    kv: KvCache,
    cos: Lent<f32>,
    sin: Lent<f32>,
    head: HeadRows,
    logits: Lent<f32>,
    /// Elements of `logits` that the last pass wrote.
    logits_len: usize,
    /// Tokens of the last pass.
    tokens: usize,
    scratch: Lent<f32>,
    scratch_width: usize,
    /// Pass in which each KV block was last written, to find two writers of one block.
    writer: Vec<u64>,
    passes: u64,
}

impl CpuBackend {
    /// Starts the backend.
    ///
    /// # Errors
    /// A tier that is not available, a KV type that is not `F16` or `F32`, more than one thread without
    /// the feature `parallel`, or threads that the system refuses.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let kernels = match options.isa {
            Some(isa) => Kernels::for_isa(isa),
            None => Kernels::select(),
        }
        .map_err(isa_error)?;
        if !matches!(options.kv, BitNetDType::F16 | BitNetDType::F32) {
            return Err(BitNetError::mismatch("KV cache type", "f16 or f32", options.kv));
        }
        let threads = thread_count(options.threads)?;
        let team = Team::new(threads).map_err(|error| {
            BitNetError::mismatch("worker threads", format_args!("{threads} threads"), error)
        })?;
        let pool = match options.pool {
            Some(pool) => pool,
            None => HybridMemoryPool::new()?,
        };
        #[cfg(feature = "tracing")]
        tracing::debug!(isa = %kernels.isa, threads, kv = %options.kv, "cpu backend started");
        Ok(CpuBackend {
            kernels,
            team,
            pool,
            kv_dtype: options.kv,
            head: options.head,
            layout: options.layout,
            matrices: Vec::new(),
            vectors: Vec::new(),
            loaded: None,
        })
    }

    /// Returns the bytes of the loaded graph's buffers as planned, and the bound below which no plan gets.
    pub fn activation_plan(&self) -> Option<(usize, usize)> {
        let activations = &self.loaded.as_ref()?.many.activations;
        Some((activations.bytes(), activations.lower_bound()))
    }

    fn unsupported(&self, operation: impl Into<String>, reason: impl Into<String>) -> BitNetError {
        ErrorKind::Unsupported { backend: NAME, operation: operation.into(), reason: reason.into() }.into()
    }

    /// Checks what the kernels assume beyond [`Graph::validate`].
    fn check_graph(&self, graph: &Graph) -> Result<()> {
        graph.validate(
            |id| self.matrices.get(id.0 as usize).map(|matrix| (matrix.rows, matrix.cols)),
            |id| self.vectors.get(id.0 as usize).map(|vector| vector.len()),
        )?;
        if graph.attention.head_dim > MAX_HEAD_DIM {
            let reason = format!("heads are at most {MAX_HEAD_DIM} wide");
            return Err(self.unsupported(format!("head_dim {}", graph.attention.head_dim), reason));
        }
        for op in &graph.ops {
            if let Some(operation) = plan::unsupported(op, &self.matrices) {
                return Err(self.unsupported(operation, "no kernel for it"));
            }
            let biased = |id: LinearId| self.matrices[id.0 as usize].bias.is_some();
            match *op {
                Op::Embed { table: weights, .. } | Op::Head { weights, .. } if biased(weights) => {
                    let name = &self.matrices[weights.0 as usize].name;
                    return Err(
                        self.unsupported(format!("{name} with a bias"), "neither embedding nor head has one")
                    );
                }
                Op::Linear { x, weights, .. }
                    if graph.spec(x)?.kind == BufferKind::Int8PerToken
                        && !matches!(self.matrices[weights.0 as usize].elements, Elements::Ternary(..)) =>
                {
                    let name = &self.matrices[weights.0 as usize].name;
                    return Err(
                        self.unsupported(format!("dense {name} with int8 activations"), "no kernel for it")
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts a narrow form of the head's matrix in the place of a dense one, which stays beside it: its rows
    /// are the embedding's, or decide between the likeliest tokens.
    fn narrow_head(&mut self, graph: &mut Graph, width: NarrowWidth) -> Result<()> {
        let _scope = TagScope::enter("weights");
        for op in &mut graph.ops {
            let Op::Head { weights, .. } = op else { continue };
            let matrix = &self.matrices[weights.0 as usize];
            let narrow = matrix.to_narrow(width, *weights, self.kernels, &self.pool, &mut self.team)?;
            if let Some(narrow) = narrow {
                *weights = LinearId(self.matrices.len() as u32);
                self.matrices.push(narrow);
            }
        }
        Ok(())
    }

    fn run(&mut self, step: &Step, only: Option<&Op>) -> Result<()> {
        let Some(loaded) = &mut self.loaded else {
            return Err(BitNetError::mismatch("forward pass", "a loaded graph", "none"));
        };
        loaded.check(step)?;
        let single;
        let one = step.len() == 1 && only.is_none();
        let order = if one { &mut loaded.one } else { &mut loaded.many };
        let stages = match only {
            None => &order.stages,
            Some(op) if loaded.graph.ops.contains(op) => {
                single = plan::stages_of_op(*op);
                &single
            }
            Some(op) => {
                return Err(BitNetError::mismatch("op", "one of the loaded graph", format_args!("{op:?}")));
            }
        };
        loaded.last_was_one = one;
        loaded.tokens = step.len();
        if step.is_empty() {
            loaded.logits_len = 0;
            return Ok(());
        }
        let computes_logits = stages.iter().any(|stage| matches!(stage, Stage::HeadProduct { .. }));
        loaded.logits_len = if computes_logits { step.logits_rows.len() * loaded.graph.vocab } else { 0 };
        loaded.taken.iter_mut().for_each(|taken| *taken.get_mut() = 0);
        let pass = Pass {
            kernels: self.kernels,
            step,
            attention: loaded.graph.attention,
            matrices: &self.matrices,
            vectors: &self.vectors,
            buffers: order.activations.lend(),
            kv: loaded.kv.lend(),
            unheld: Mutex::new(None),
            frequencies: &loaded.graph.rope_frequencies,
            cos: loaded.cos.lend(),
            sin: loaded.sin.lend(),
            head: loaded.head.lend(),
            logits: loaded.logits.lend(),
            scratch: loaded.scratch.lend(),
            scratch_width: loaded.scratch_width,
            parts: loaded.parts.lend(),
            taken: &loaded.taken,
            alone: one,
        };
        self.team.run_step(step.len(), &|worker| pass.run(stages, worker));
        let unheld = pass.unheld.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(unheld) = unheld {
            loaded.logits_len = 0;
            let (seq, position) = (step.seq_of_token[unheld.token], step.positions[unheld.token]);
            return Err(unheld.error(self.kv_dtype, seq, position));
        }
        Ok(())
    }
}

impl Loaded {
    /// Checks a step against the graph, the limits and the cache.
    fn check(&mut self, step: &Step) -> Result<()> {
        step.validate(self.graph.vocab, self.kv.len())?;
        let limit = |what: &str, limit: usize, found: usize| {
            if found <= limit {
                return Ok(());
            }
            Err(BitNetError::mismatch(what, format_args!("at most {limit}"), found))
        };
        limit("tokens of a step", self.limits.max_tokens, step.len())?;
        limit("logits rows of a step", self.limits.max_logits_rows, step.logits_rows.len())?;
        // Workers append to the cache at once: no block may have two writers.
        self.passes += 1;
        self.writer.resize(self.kv.len(), 0);
        for (seq, bounds) in step.cu_seqlens.windows(2).enumerate() {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            if start == end {
                continue;
            }
            let first = step.positions[start] as usize / KV_BLOCK_TOKENS;
            let last = step.positions[end - 1] as usize / KV_BLOCK_TOKENS;
            for block in &step.block_tables[seq][first..=last] {
                let writer = &mut self.writer[block.0 as usize];
                if *writer == self.passes {
                    let what = format!("KV block {} of sequence {seq}", block.0);
                    return Err(BitNetError::mismatch(what, "one writer in a step", "two"));
                }
                *writer = self.passes;
            }
        }
        Ok(())
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: NAME,
            device: Device::Cpu,
            kernels: format!("{}-ternary-i8", self.kernels.isa),
            threads: self.team.size(),
        }
    }

    fn prepare_linear(&mut self, weights: LinearWeights) -> Result<LinearId> {
        let _scope = TagScope::enter("weights");
        self.matrices.push(Matrix::prepare(weights, self.layout, &self.pool, &mut self.team)?);
        Ok(LinearId((self.matrices.len() - 1) as u32))
    }

    fn prepare_vector(&mut self, name: &str, values: &[f32]) -> Result<VectorId> {
        let _scope = TagScope::enter("weights");
        let mut vector = PoolBuffer::zeroed(&self.pool, values.len(), &Device::Cpu, name)?;
        vector.copy_from_slice(values);
        self.vectors.push(vector);
        Ok(VectorId((self.vectors.len() - 1) as u32))
    }

    fn load_graph(&mut self, mut graph: Graph, limits: StepLimits) -> Result<()> {
        self.check_graph(&graph)?;
        match self.head {
            HeadPrecision::Stored => {}
            HeadPrecision::Int8 => self.narrow_head(&mut graph, NarrowWidth::Eight)?,
            HeadPrecision::Int6 => self.narrow_head(&mut graph, NarrowWidth::Six)?,
        }
        #[cfg(feature = "tracing")]
        tracing::debug!(ops = graph.ops.len(), layers = graph.layers, ?limits, "graph loaded");
        let (pool, tokens, rows) = (&self.pool, limits.max_tokens, limits.max_logits_rows);
        let size = |what: &str, a: usize, b: usize| {
            a.checked_mul(b).ok_or_else(|| {
                BitNetError::mismatch(what, "a size that fits memory", format_args!("{a} x {b}"))
            })
        };
        let half = graph.attention.head_dim / 2;
        let angles = size("rotary angles", tokens, half)?;
        let widest = graph.buffers.iter().map(|buffer| buffer.width).max().unwrap_or(0);
        // A gated row and its norm lie beside each other.
        let scratch_width = (2 * widest).max(pass::scratch(graph.attention));
        let head = graph.ops.iter().find_map(|op| match op {
            Op::Head { weights, .. } => Some(&self.matrices[weights.0 as usize]),
            _ => None,
        });
        let _scope = TagScope::enter("activations");
        let order = |stages: Vec<Stage>, rows: usize| -> Result<Order> {
            Ok(Order { activations: Activations::new(pool, &graph, &stages, rows)?, stages })
        };
        let many = order(plan::stages(&graph.ops), tokens)?;
        let one = order(plan::stages_of_one(&graph.ops, &graph.buffers), self.team.size())?;
        #[cfg(feature = "tracing")]
        tracing::debug!(
            bytes = many.activations.bytes(),
            bound = many.activations.lower_bound(),
            "activations planned"
        );
        let head = HeadRows::new(pool, rows, head, self.team.size())?;
        let logits = Lent::zeroed(pool, size("logits", rows, graph.vocab)?, "logits")?;
        let parts = Parts::new(pool, graph.attention, self.team.size())?;
        let _scope = TagScope::enter("scratch");
        self.loaded = Some(Loaded {
            limits,
            taken: (0..many.stages.len().max(one.stages.len())).map(|_| AtomicUsize::new(0)).collect(),
            many,
            one,
            last_was_one: false,
            parts,
            kv: KvCache::new(KvShape { layers: graph.layers, attention: graph.attention }, self.kv_dtype),
            cos: Lent::zeroed(pool, angles, "rotary cosines")?,
            sin: Lent::zeroed(pool, angles, "rotary sines")?,
            head,
            logits,
            logits_len: 0,
            tokens: 0,
            scratch: Lent::zeroed(
                pool,
                size("scratch", scratch_width, self.team.size())?,
                "scratch of the workers",
            )?,
            scratch_width,
            writer: Vec::new(),
            passes: 0,
            graph,
        });
        Ok(())
    }

    fn reserve_kv_blocks(&mut self, count: usize) -> Result<()> {
        let _scope = TagScope::enter("kv");
        match &mut self.loaded {
            Some(loaded) => loaded.kv.reserve(&self.pool, count),
            None => Err(BitNetError::mismatch("KV cache", "a loaded graph", "none")),
        }
    }

    fn release_kv_blocks(&mut self, count: usize) {
        if let Some(loaded) = &mut self.loaded {
            loaded.kv.truncate(count);
        }
    }

    fn weights(&self, logits: bool) -> Vec<&[u8]> {
        let ops = self.loaded.iter().flat_map(|loaded| &loaded.graph.ops);
        let read = ops.filter_map(|op| match *op {
            Op::Linear { weights, .. } => Some(weights),
            Op::Head { weights, .. } if logits => Some(weights),
            _ => None,
        });
        read.flat_map(|id| self.matrices[id.0 as usize].slices()).collect()
    }

    fn execute(&mut self, op: &Op, step: &Step) -> Result<()> {
        self.run(step, Some(op))
    }

    fn forward(&mut self, step: &Step) -> Result<()> {
        self.run(step, None)
    }

    fn sync(&mut self) -> Result<()> {
        // A pass has finished when `forward` returns, and its errors were returned there.
        Ok(())
    }

    fn vocab(&self) -> Result<usize> {
        match &self.loaded {
            Some(loaded) => Ok(loaded.graph.vocab),
            None => Err(BitNetError::mismatch("vocabulary", "a loaded graph", "none")),
        }
    }

    fn logits(&mut self) -> Result<&[f32]> {
        match &self.loaded {
            Some(loaded) if loaded.logits_len == 0 => {
                Err(BitNetError::mismatch("logits", "a pass that computed some", "none"))
            }
            Some(loaded) => Ok(&loaded.logits.values()[..loaded.logits_len]),
            None => Err(BitNetError::mismatch("logits", "a loaded graph", "none")),
        }
    }

    fn read_buffer(&mut self, buffer: BufferId) -> Result<Vec<f32>> {
        let Some(loaded) = &mut self.loaded else {
            return Err(BitNetError::mismatch("buffer", "a loaded graph", "none"));
        };
        let spec = loaded.graph.spec(buffer)?;
        let order = if loaded.last_was_one { &mut loaded.one } else { &mut loaded.many };
        match order.activations.rows(buffer, loaded.tokens) {
            Some(rows) => Ok(rows.to_vec()),
            None => Err(BitNetError::mismatch(format!("buffer {}", spec.name), "f32 values", "int8")),
        }
    }

    fn memory(&self) -> Vec<MemoryPart> {
        let weights = self.matrices.iter().flat_map(Matrix::slices).map(<[u8]>::len).sum::<usize>()
            + self.vectors.iter().map(|vector| vector.len() * 4).sum::<usize>();
        let mut parts = vec![MemoryPart { part: "weights", bytes: weights }];
        if let Some(loaded) = &self.loaded {
            let activations = loaded.many.activations.bytes()
                + loaded.one.activations.bytes()
                + loaded.head.bytes()
                + loaded.parts.bytes()
                + loaded.logits.bytes();
            let angles = loaded.cos.bytes() + loaded.sin.bytes();
            parts.push(MemoryPart { part: "kv", bytes: loaded.kv.bytes() });
            parts.push(MemoryPart { part: "activations", bytes: activations });
            parts.push(MemoryPart { part: "scratch", bytes: loaded.scratch.bytes() + angles });
        }
        parts
    }
}

/// Returns the kernels of the tier that `BITNET_ISA` forces, or of the best one here.
///
/// # Errors
/// `IsaUnavailable` when a tier is forced that is not here.
pub(crate) fn select_kernels() -> Result<&'static Kernels> {
    Kernels::select().map_err(isa_error)
}

fn isa_error(error: IsaError) -> BitNetError {
    match error {
        IsaError::Unavailable { isa, reason } => {
            ErrorKind::IsaUnavailable { isa: isa.name().into(), reason: reason.into() }.into()
        }
        IsaError::Unknown { name, known } => {
            ErrorKind::IsaUnavailable { isa: name, reason: format!("expected one of {known}") }.into()
        }
        other => ErrorKind::IsaUnavailable { isa: "?".into(), reason: other.to_string() }.into(),
    }
}

/// Resolves the number of threads.
fn thread_count(threads: Option<usize>) -> Result<usize> {
    /// More threads than any machine has cores is a slip, not a wish.
    const MOST: usize = 1024;
    match threads {
        Some(n) if n == 0 || n > MOST => {
            Err(BitNetError::mismatch("threads", format_args!("1 to {MOST}"), n))
        }
        Some(n) if n > 1 && cfg!(not(feature = "parallel")) => Err(ErrorKind::Unsupported {
            backend: NAME,
            operation: format!("{n} threads"),
            reason: "this build has the feature `parallel` off".into(),
        }
        .into()),
        Some(n) => Ok(n),
        None if cfg!(not(feature = "parallel")) => Ok(1),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from).min(MOST)),
    }
}
