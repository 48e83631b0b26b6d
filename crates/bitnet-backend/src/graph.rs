//! A model as data: the fused steps of a decoder over a backend's own buffers.
//!
//! An architecture builds one [`Graph`] when it loads; a [`Backend`](crate::Backend) runs it for every
//! [`Step`](crate::Step). Since the whole pass is data, a backend may run it op by op, enter its thread
//! pool once for all of it, or record it (a CUDA graph) and replay it.

use crate::{BitNetError, Result};

/// A prepared matrix of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinearId(pub u32);

/// A prepared vector of a backend (a norm's weight).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VectorId(pub u32);

/// An activation buffer of a graph: an index into [`Graph::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// What an activation buffer holds, one row a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferKind {
    /// `width` f32 values.
    F32,
    /// `width` int8 values with the row's scale `127 / absmax` and the sum of the values.
    Int8PerToken,
}

/// One activation buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferSpec {
    /// Name for reports.
    pub name: &'static str,
    /// Elements a row.
    pub width: usize,
    /// Element form.
    pub kind: BufferKind,
}

/// A root-mean-square norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The prepared weight.
    pub weight: VectorId,
    /// Added to the mean square.
    pub eps: f32,
}

/// The gate of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(g, 0)^2`.
    SquaredRelu,
    /// `g / (1 + exp(-g))`.
    Silu,
}

/// Head counts and sizes shared by all layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; query head `j` reads key/value head `j / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Factor of the scores, `1 / sqrt(head_dim)` in every published model so far.
    pub scale: f32,
}

impl AttentionShape {
    /// Returns the width of the queries, or `None` when it does not fit.
    pub fn q_width(&self) -> Option<usize> {
        self.heads.checked_mul(self.head_dim)
    }

    /// Returns the width of the keys and of the values, or `None` when it does not fit.
    pub fn kv_width(&self) -> Option<usize> {
        self.kv_heads.checked_mul(self.head_dim)
    }
}

/// One fused step of the decoder. Rows are the tokens of the current [`Step`](crate::Step).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// `out = table[token]`.
    Embed {
        /// Embedding matrix `[vocab, width]`.
        table: LinearId,
        /// F32 out.
        out: BufferId,
    },
    /// `out = norm(x)`.
    Norm {
        /// F32 in.
        x: BufferId,
        /// The norm.
        norm: Norm,
        /// F32 out.
        out: BufferId,
    },
    /// `out = int8_per_token(norm(x))`, or of `x` itself without a norm.
    Quantize {
        /// F32 in.
        x: BufferId,
        /// Applied first.
        norm: Option<Norm>,
        /// Int8 out.
        out: BufferId,
    },
    /// `out = W x + bias`, or `out += W x + bias`.
    ///
    /// Ternary weights with an `Int8PerToken` input accumulate exactly in integers; with an F32 input
    /// they, like dense weights, accumulate in f32.
    Linear {
        /// In, of either kind.
        x: BufferId,
        /// The matrix.
        weights: LinearId,
        /// F32 out.
        out: BufferId,
        /// Add to what `out` holds (the residual stream).
        accumulate: bool,
    },
    /// Rotates `q` and `k` in place, and appends `k` and `v` to the layer's KV cache.
    RopeAppend {
        /// F32 `[heads * head_dim]`, rotated in place.
        q: BufferId,
        /// F32 `[kv_heads * head_dim]`, rotated in place.
        k: BufferId,
        /// F32 `[kv_heads * head_dim]`.
        v: BufferId,
        /// Layer of the cache.
        layer: u32,
    },
    /// `out = softmax(q K^T / sqrt(head_dim)) V`, each token over positions `0..=position` of its sequence.
    Attention {
        /// F32 `[heads * head_dim]`.
        q: BufferId,
        /// Layer of the cache.
        layer: u32,
        /// F32 out `[heads * head_dim]`.
        out: BufferId,
    },
    /// `out = activation(gate) * up`.
    Gate {
        /// F32 in.
        gate: BufferId,
        /// F32 in.
        up: BufferId,
        /// The gate's function.
        activation: Activation,
        /// F32 out; may be `gate` itself.
        out: BufferId,
    },
    /// Writes the logits of [`Step::logits_rows`](crate::Step::logits_rows): `W norm(x)`.
    Head {
        /// F32 in.
        x: BufferId,
        /// The final norm.
        norm: Norm,
        /// Matrix `[vocab, width]`.
        weights: LinearId,
    },
}

/// Activation buffers that an op touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Read; unused places repeat the first.
    pub reads: [BufferId; 3],
    /// Written; unused places repeat the first. Empty for the head, which writes the logits.
    pub writes: Option<[BufferId; 2]>,
}

impl Op {
    /// Returns the buffers that the op reads and writes: what a backend orders ops by.
    pub fn touched(&self) -> Touched {
        let touched = |reads, writes| Touched { reads, writes };
        match *self {
            Op::Embed { out, .. } => touched([out; 3], Some([out; 2])),
            Op::Norm { x, out, .. } | Op::Quantize { x, out, .. } => touched([x; 3], Some([out; 2])),
            Op::Linear { x, out, accumulate, .. } => {
                touched(if accumulate { [x, out, x] } else { [x; 3] }, Some([out; 2]))
            }
            Op::RopeAppend { q, k, v, .. } => touched([q, k, v], Some([q, k])),
            Op::Attention { q, out, .. } => touched([q; 3], Some([out; 2])),
            Op::Gate { gate, up, out, .. } => touched([gate, up, gate], Some([out; 2])),
            Op::Head { x, .. } => touched([x; 3], None),
        }
    }

    /// Reports whether an output is an input in a way that the op's meaning does not allow.
    fn overlaps(&self) -> bool {
        match *self {
            Op::Embed { .. } | Op::Head { .. } => false,
            Op::Norm { x, out, .. } | Op::Quantize { x, out, .. } | Op::Linear { x, out, .. } => x == out,
            Op::Attention { q, out, .. } => q == out,
            Op::RopeAppend { q, k, v, .. } => q == k || k == v || q == v,
            Op::Gate { gate, up, out, .. } => up == out || gate == up,
        }
    }
}

/// A decoder: its buffers and the ops of one pass, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Activation buffers that the ops name.
    pub buffers: Vec<BufferSpec>,
    /// The pass.
    pub ops: Vec<Op>,
    /// Layers of the KV cache.
    pub layers: usize,
    /// Attention heads.
    pub attention: AttentionShape,
    /// Angle by which each position turns the pair `(i, i + head_dim / 2)`, `head_dim / 2` of them.
    pub rope_frequencies: Vec<f32>,
    /// Rows of the embedding and the head.
    pub vocab: usize,
}

impl Graph {
    /// Adds a buffer and returns its id.
    pub fn buffer(&mut self, name: &'static str, width: usize, kind: BufferKind) -> BufferId {
        self.buffers.push(BufferSpec { name, width, kind });
        BufferId((self.buffers.len() - 1) as u32)
    }

    /// Returns the specification of a buffer.
    ///
    /// # Errors
    /// A mismatch when the graph has no such buffer.
    pub fn spec(&self, id: BufferId) -> Result<BufferSpec> {
        self.buffers.get(id.0 as usize).copied().ok_or_else(|| {
            BitNetError::mismatch("graph buffer", format_args!("an id below {}", self.buffers.len()), id.0)
        })
    }

    /// Checks buffer kinds and widths of every op, given the shape `[rows, cols]` of each matrix and
    /// the length of each vector.
    ///
    /// # Errors
    /// A mismatch naming the op and the buffer.
    pub fn validate(
        &self,
        linear: impl Fn(LinearId) -> Option<(usize, usize)>,
        vector: impl Fn(VectorId) -> Option<usize>,
    ) -> Result<()> {
        let checker = Checker { graph: self, linear: &linear, vector: &vector };
        let shape = self.attention;
        if shape.heads == 0 || shape.kv_heads == 0 || !shape.heads.is_multiple_of(shape.kv_heads) {
            let found = format!("{} query and {} key/value heads", shape.heads, shape.kv_heads);
            return Err(BitNetError::mismatch("attention heads", "a multiple of the key/value heads", found));
        }
        if shape.head_dim == 0 || !shape.head_dim.is_multiple_of(2) {
            return Err(BitNetError::mismatch("head_dim", "a positive even number", shape.head_dim));
        }
        if self.rope_frequencies.len() != shape.head_dim / 2 {
            let found = self.rope_frequencies.len();
            return Err(BitNetError::mismatch("rotary frequencies", shape.head_dim / 2, found));
        }
        if self.ops.iter().filter(|op| matches!(op, Op::Head { .. })).count() > 1 {
            return Err(BitNetError::mismatch("heads of the graph", "at most one", "several"));
        }
        for (index, op) in self.ops.iter().enumerate() {
            checker.op(op).map_err(|error| error.context(format!("graph op {index}")))?;
        }
        Ok(())
    }
}

/// Looks up the shapes that an op refers to.
struct Checker<'a, L, V> {
    graph: &'a Graph,
    linear: &'a L,
    vector: &'a V,
}

impl<L, V> Checker<'_, L, V>
where
    L: Fn(LinearId) -> Option<(usize, usize)>,
    V: Fn(VectorId) -> Option<usize>,
{
    fn op(&self, op: &Op) -> Result<()> {
        use BufferKind::{F32, Int8PerToken};
        let shape = self.graph.attention;
        let (Some(q_width), Some(kv_width)) = (shape.q_width(), shape.kv_width()) else {
            return Err(BitNetError::mismatch(
                "attention width",
                "one that fits memory",
                format_args!("{shape:?}"),
            ));
        };
        if op.overlaps() {
            return Err(BitNetError::mismatch("output buffer", "none of the inputs", format_args!("{op:?}")));
        }
        match *op {
            Op::Embed { table, out } => {
                let (rows, cols) = self.linear(table)?;
                self.expect("vocabulary of the embedding", self.graph.vocab, rows)?;
                self.buffer(out, F32, cols)
            }
            Op::Norm { x, norm, out } => {
                let width = self.norm(norm)?;
                self.buffer(x, F32, width)?;
                self.buffer(out, F32, width)
            }
            Op::Quantize { x, norm, out } => {
                let width = match norm {
                    Some(norm) => self.norm(norm)?,
                    None => self.graph.spec(x)?.width,
                };
                self.buffer(x, F32, width)?;
                self.buffer(out, Int8PerToken, width)
            }
            Op::Linear { x, weights, out, .. } => {
                let (rows, cols) = self.linear(weights)?;
                self.expect("input width", cols, self.graph.spec(x)?.width)?;
                self.buffer(out, F32, rows)
            }
            Op::RopeAppend { q, k, v, layer } => {
                self.layer(layer)?;
                self.buffer(q, F32, q_width)?;
                self.buffer(k, F32, kv_width)?;
                self.buffer(v, F32, kv_width)
            }
            Op::Attention { q, layer, out } => {
                self.layer(layer)?;
                self.buffer(q, F32, q_width)?;
                self.buffer(out, F32, q_width)
            }
            Op::Gate { gate, up, out, .. } => {
                let width = self.graph.spec(gate)?.width;
                self.buffer(gate, F32, width)?;
                self.buffer(up, F32, width)?;
                self.buffer(out, F32, width)
            }
            Op::Head { x, norm, weights } => {
                let (rows, cols) = self.linear(weights)?;
                self.expect("vocabulary of the head", self.graph.vocab, rows)?;
                self.expect("norm width", cols, self.norm(norm)?)?;
                self.buffer(x, F32, cols)
            }
        }
    }

    fn linear(&self, id: LinearId) -> Result<(usize, usize)> {
        (self.linear)(id).ok_or_else(|| BitNetError::mismatch("matrix id", "a prepared matrix", id.0))
    }

    fn norm(&self, norm: Norm) -> Result<usize> {
        (self.vector)(norm.weight)
            .ok_or_else(|| BitNetError::mismatch("vector id", "a prepared vector", norm.weight.0))
    }

    fn layer(&self, layer: u32) -> Result<()> {
        if (layer as usize) < self.graph.layers {
            return Ok(());
        }
        Err(BitNetError::mismatch("layer", format_args!("below {}", self.graph.layers), layer))
    }

    fn buffer(&self, id: BufferId, kind: BufferKind, width: usize) -> Result<()> {
        let spec = self.graph.spec(id)?;
        if spec.kind != kind {
            let what = format!("kind of buffer {}", spec.name);
            return Err(BitNetError::mismatch(
                what,
                format_args!("{kind:?}"),
                format_args!("{:?}", spec.kind),
            ));
        }
        self.expect(spec.name, width, spec.width)
    }

    fn expect(&self, what: &str, expected: usize, found: usize) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(BitNetError::mismatch(format!("width of {what}"), expected, found))
    }
}
