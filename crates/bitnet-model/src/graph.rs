//! The decoder as a graph over a backend.
//!
//! ```text
//! x  = embedding[token]
//! q, k, v = in(x, input norm) -> projections;  rope, append to the cache, attention -> a
//! x += o(in(a, attention sub-norm or none))
//! gate, up = in(x, post-attention norm) -> projections;  m = activation(gate) * up
//! x += down(in(m, feed-forward sub-norm or none))
//! logits = head(final norm(x))
//! ```
//!
//! `in` is what a projection takes: int8 with the norm fused in front for a ternary matrix of a model with
//! quantised activations; normed floats for any other. Buffers are shared by all layers, and among inputs
//! of one width and kind, whose lifetimes never overlap.

use bitnet_core::backend::{
    AttentionShape, Backend, BitNetError, BufferId, BufferKind, BufferSpec, Graph, LinearId, LinearWeights,
    Norm, Op, WeightStorage,
};

use bitnet_kernels::scalar::rope;

use crate::config::ModelConfig;
use crate::family::ActivationMode;
use crate::weights::{Head, Layer, Model, NormWeights, Projection};

impl Model {
    /// Hands every matrix and norm to `backend` and returns the graph of the decoder.
    ///
    /// # Errors
    /// Whatever the backend refuses, with the name of the tensor; a mismatch when parts of the model do not
    /// fit each other.
    pub fn build(self, backend: &mut dyn Backend) -> Result<Graph, BitNetError> {
        let Model { config, activations, layers, embedding, head, final_norm, .. } = self;
        let mut builder = Builder::new(&config, activations, layers.len(), backend);
        let table = builder.linear(embedding)?;
        builder.push(Op::Embed { table, out: builder.buffers.x });
        for (index, layer) in layers.into_iter().enumerate() {
            builder.layer(index, layer).map_err(|error| error.context(format!("layer {index}")))?;
        }
        let weights = match head {
            Head::Tied => table,
            Head::Separate(weights) => builder.linear(weights)?,
        };
        let norm = builder.norm(&final_norm)?;
        builder.push(Op::Head { x: builder.buffers.x, norm, weights });
        Ok(builder.graph)
    }
}

/// The buffers that every layer uses.
struct Buffers {
    x: BufferId,
    q: BufferId,
    k: BufferId,
    v: BufferId,
    attention: BufferId,
    gate: BufferId,
    up: BufferId,
}

struct Builder<'b> {
    graph: Graph,
    buffers: Buffers,
    int8: bool,
    activation: bitnet_core::backend::Activation,
    backend: &'b mut dyn Backend,
}

/// What projections read, before the input form of each: a buffer and the norm it has to pass.
#[derive(Clone, Copy, PartialEq)]
struct Source {
    x: BufferId,
    norm: Option<Norm>,
}

/// A projection that the backend has adopted.
#[derive(Clone, Copy)]
struct Prepared {
    weights: LinearId,
    int8: bool,
    norm: Option<Norm>,
}

/// What the input buffers hold while projections of one source run.
#[derive(Default)]
struct Ready {
    /// The int8 form, with the norm of a projection's own that it passed.
    int8: Option<(BufferId, Option<Norm>)>,
    /// The normed floats.
    float: Option<BufferId>,
}

impl<'b> Builder<'b> {
    fn new(config: &ModelConfig, mode: ActivationMode, layers: usize, backend: &'b mut dyn Backend) -> Self {
        let attention = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        let mut rope_frequencies = vec![0.0; config.head_dim / 2];
        rope::inverse_frequencies(config.rope_theta, config.head_dim, &mut rope_frequencies);
        let (buffers, ops, vocab) = (Vec::new(), Vec::new(), config.vocab);
        let mut graph = Graph { buffers, ops, layers, attention, rope_frequencies, vocab };
        let mut float = |name, width| graph.buffer(name, width, BufferKind::F32);
        let buffers = Buffers {
            x: float("residual", config.hidden),
            q: float("query", config.q_width()),
            k: float("key", config.kv_width()),
            v: float("value", config.kv_width()),
            attention: float("attention", config.q_width()),
            gate: float("gate", config.intermediate),
            up: float("up", config.intermediate),
        };
        let int8 = mode == ActivationMode::Int8PerToken;
        Builder { graph, buffers, int8, activation: config.activation, backend }
    }

    fn push(&mut self, op: Op) {
        self.graph.ops.push(op);
    }

    fn linear(&mut self, weights: LinearWeights) -> Result<LinearId, BitNetError> {
        let name = weights.name.clone();
        weights.validate()?;
        self.backend.prepare_linear(weights).map_err(|error| error.context(name))
    }

    fn norm(&mut self, norm: &NormWeights) -> Result<Norm, BitNetError> {
        let weight = self.backend.prepare_vector(&norm.name, &norm.values);
        let weight = weight.map_err(|error| error.context(norm.name.clone()))?;
        Ok(Norm { weight, eps: norm.eps })
    }

    fn optional_norm(&mut self, norm: Option<&NormWeights>) -> Result<Option<Norm>, BitNetError> {
        norm.map(|norm| self.norm(norm)).transpose()
    }

    fn prepare(&mut self, projection: Projection) -> Result<Prepared, BitNetError> {
        let int8 = self.int8 && matches!(projection.weights.storage, WeightStorage::Ternary { .. });
        let norm = self.optional_norm(projection.norm.as_ref())?;
        Ok(Prepared { weights: self.linear(projection.weights)?, int8, norm })
    }

    fn layer(&mut self, index: usize, layer: Layer) -> Result<(), BitNetError> {
        let Buffers { x, q, k, v, attention, gate, up } = self.buffers;
        let (cache, activation) = (index as u32, self.activation);

        let input = Source { x, norm: Some(self.norm(&layer.input_norm)?) };
        let [wq, wk, wv] = [self.prepare(layer.q)?, self.prepare(layer.k)?, self.prepare(layer.v)?];
        self.project(input, &[(wq, q), (wk, k), (wv, v)], false)?;
        self.push(Op::RopeAppend { q, k, v, layer: cache });
        self.push(Op::Attention { q, layer: cache, out: attention });

        let attended = Source { x: attention, norm: self.optional_norm(layer.attn_sub_norm.as_ref())? };
        let wo = self.prepare(layer.o)?;
        self.project(attended, &[(wo, x)], true)?;

        let middle = Source { x, norm: Some(self.norm(&layer.post_norm)?) };
        let [wg, wu] = [self.prepare(layer.gate)?, self.prepare(layer.up)?];
        self.project(middle, &[(wg, gate), (wu, up)], false)?;
        self.push(Op::Gate { gate, up, activation, out: gate });

        let gated = Source { x: gate, norm: self.optional_norm(layer.ffn_sub_norm.as_ref())? };
        let wd = self.prepare(layer.down)?;
        self.project(gated, &[(wd, x)], true)
    }

    /// Runs projections of one source, sharing input forms where they are the same.
    fn project(
        &mut self,
        source: Source,
        projections: &[(Prepared, BufferId)],
        accumulate: bool,
    ) -> Result<(), BitNetError> {
        let mut ready = Ready::default();
        for &(projection, out) in projections {
            let x = match projection.int8 {
                true => self.int8_input(source, projection.norm, &mut ready)?,
                false => self.float_input(source, &mut ready)?,
            };
            self.push(Op::Linear { x, weights: projection.weights, out, accumulate });
        }
        Ok(())
    }

    /// Returns the normed floats of a source; the source itself where there is no norm.
    fn float_input(&mut self, source: Source, ready: &mut Ready) -> Result<BufferId, BitNetError> {
        let Some(norm) = source.norm else { return Ok(source.x) };
        if let Some(out) = ready.float {
            return Ok(out);
        }
        let out = shared(&mut self.graph, "normed", source.x, BufferKind::F32)?;
        self.push(Op::Norm { x: source.x, norm, out });
        ready.float = Some(out);
        Ok(out)
    }

    /// Returns the int8 form of a source, past a projection's own norm where it has one.
    fn int8_input(
        &mut self,
        source: Source,
        own: Option<Norm>,
        ready: &mut Ready,
    ) -> Result<BufferId, BitNetError> {
        match ready.int8 {
            Some((out, held)) if held == own => return Ok(out),
            _ => {}
        }
        let (x, norm) = match own {
            Some(own) => (self.float_input(source, ready)?, Some(own)),
            None => (source.x, source.norm),
        };
        let out = shared(&mut self.graph, "int8", x, BufferKind::Int8PerToken)?;
        self.push(Op::Quantize { x, norm, out });
        ready.int8 = Some((out, own));
        Ok(out)
    }
}

/// Returns the buffer of this name and kind that is as wide as `like`.
fn shared(
    graph: &mut Graph,
    name: &'static str,
    like: BufferId,
    kind: BufferKind,
) -> Result<BufferId, BitNetError> {
    let wanted = BufferSpec { name, width: graph.spec(like)?.width, kind };
    match graph.buffers.iter().position(|spec| *spec == wanted) {
        Some(index) => Ok(BufferId(index as u32)),
        None => Ok(graph.buffer(name, wanted.width, kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_shared_by_name_width_and_kind() {
        let attention = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0 };
        let (buffers, ops, rope_frequencies) = (Vec::new(), Vec::new(), vec![1.0]);
        let mut graph = Graph { buffers, ops, layers: 1, attention, rope_frequencies, vocab: 4 };
        let narrow = graph.buffer("x", 8, BufferKind::F32);
        let wide = graph.buffer("y", 16, BufferKind::F32);
        let mut get = |name, like, kind| shared(&mut graph, name, like, kind).unwrap();
        let first = get("input", narrow, BufferKind::F32);
        assert_eq!(get("input", narrow, BufferKind::F32), first);
        let others = [
            get("input", narrow, BufferKind::Int8PerToken),
            get("input", wide, BufferKind::F32),
            get("other", narrow, BufferKind::F32),
        ];
        assert!(!others.contains(&first), "{others:?}");
        assert_eq!(graph.buffers.len(), 6);
    }
}
