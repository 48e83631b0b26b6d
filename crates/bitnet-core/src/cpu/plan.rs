//! A graph's ops as stages of a pass, with barriers only where data passes between workers.

use bitnet_backend::{BufferId, BufferKind, BufferSpec, LinearId, Norm, Op};

use super::weights::{Elements, Matrix};

/// One stage: every worker does its share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// An op of the graph; `Head` is split into the two below.
    Op(Op),
    /// Norms the rows whose logits are wanted.
    HeadNorm {
        /// F32 in.
        x: BufferId,
        /// The final norm.
        norm: Norm,
        /// The matrix that the rows are for.
        weights: LinearId,
    },
    /// Multiplies them by the head.
    HeadProduct {
        /// Matrix `[vocab, width]`.
        weights: LinearId,
    },
    /// Computes the logits that may be the greatest again, after an int8 head.
    HeadRescore {
        /// Matrix `[vocab, width]`.
        weights: LinearId,
    },
    /// `RopeAppend` and `Attention` of one token of each sequence: who rotates a head attends with it.
    RopeAttention {
        /// Queries `[heads * head_dim]`.
        q: BufferId,
        /// Keys.
        k: BufferId,
        /// Values.
        v: BufferId,
        /// Layer.
        layer: u32,
        /// F32 out.
        out: BufferId,
    },
    /// All workers meet.
    Barrier,
}

/// What a stage reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Buffer(BufferId),
    Kv(u32),
    HeadRows,
    Logits,
}

/// Orders `ops` into stages.
///
/// A barrier stands before a stage that touches what an earlier one wrote, or writes what an earlier one
/// read, since the last barrier.
pub fn stages(ops: impl IntoIterator<Item = Op>) -> Vec<Stage> {
    order(ops, |_| false)
}

/// Orders `ops` into the stages of a step of one token.
///
/// Each worker computes the int8 rows, those of `buffers` of that kind, for itself, and who rotates a head
/// attends with it: both are less work than meeting the others for them.
pub fn stages_of_one(ops: &[Op], buffers: &[BufferSpec]) -> Vec<Stage> {
    let own = |id: BufferId| buffers[id.0 as usize].kind == BufferKind::Int8PerToken;
    let mut stages = order(ops.iter().copied(), own);
    let mut index = 0;
    while index + 3 <= stages.len() {
        if let [
            Stage::Op(Op::RopeAppend { q, k, v, layer }),
            Stage::Barrier,
            Stage::Op(Op::Attention { q: same, layer: cache, out }),
        ] = stages[index..index + 3]
            && (q, layer) == (same, cache)
        {
            stages.splice(index..index + 3, [Stage::RopeAttention { q, k, v, layer, out }]);
        }
        index += 1;
    }
    stages
}

/// As [`stages`]; what a worker keeps for its `own` makes nobody wait.
fn order(ops: impl IntoIterator<Item = Op>, own: impl Fn(BufferId) -> bool) -> Vec<Stage> {
    let mut out = Vec::new();
    let (mut read, mut written): (Vec<Resource>, Vec<Resource>) = (Vec::new(), Vec::new());
    let split = |op| match op {
        Op::Head { x, norm, weights } => {
            vec![
                Stage::HeadNorm { x, norm, weights },
                Stage::HeadProduct { weights },
                Stage::HeadRescore { weights },
            ]
        }
        op => vec![Stage::Op(op)],
    };
    for stage in ops.into_iter().flat_map(split) {
        let (mut reads, mut writes) = touches(&stage);
        let shared = |resource: &Resource| !matches!(*resource, Resource::Buffer(id) if own(id));
        reads.retain(shared);
        writes.retain(shared);
        let conflict = reads.iter().any(|r| written.contains(r))
            || writes.iter().any(|w| written.contains(w) || read.contains(w));
        if conflict {
            out.push(Stage::Barrier);
            read.clear();
            written.clear();
        }
        read.extend(reads);
        written.extend(writes);
        out.push(stage);
    }
    out
}

fn touches(stage: &Stage) -> (Vec<Resource>, Vec<Resource>) {
    use Resource::{Buffer, HeadRows, Kv, Logits};
    let op = match *stage {
        Stage::HeadNorm { x, .. } => return (vec![Buffer(x)], vec![HeadRows]),
        Stage::HeadProduct { .. } => return (vec![HeadRows], vec![Logits]),
        Stage::HeadRescore { .. } => return (vec![HeadRows, Logits], vec![Logits]),
        // Orders what is in it itself; made after the barriers.
        Stage::Barrier | Stage::RopeAttention { .. } => return (vec![], vec![]),
        Stage::Op(op) => op,
    };
    let touched = op.touched();
    let mut reads = touched.reads.map(Buffer).to_vec();
    let mut writes: Vec<_> = touched.writes.iter().flatten().copied().map(Buffer).collect();
    match op {
        Op::RopeAppend { layer, .. } => writes.push(Kv(layer)),
        Op::Attention { layer, .. } => reads.push(Kv(layer)),
        _ => {}
    }
    (reads, writes)
}

/// Says why the backend cannot run an op on these matrices; `None` when it can.
pub fn unsupported(op: &Op, matrices: &[Matrix]) -> Option<String> {
    let elements = |id: LinearId| matrices.get(id.0 as usize).map(|matrix| &matrix.elements);
    match *op {
        Op::Embed { table, .. } if !matches!(elements(table), None | Some(Elements::Dense(..))) => {
            Some("an embedding that is not dense".into())
        }
        Op::Head { weights, .. } if matches!(elements(weights), Some(Elements::Ternary(..))) => {
            Some("a head of ternary codes".into())
        }
        Op::Linear { weights, .. } if matches!(elements(weights), Some(Elements::Int8(..))) => {
            Some("int8 rows outside the head".into())
        }
        Op::Embed { .. }
        | Op::Norm { .. }
        | Op::Quantize { .. }
        | Op::Linear { .. }
        | Op::RopeAppend { .. }
        | Op::Attention { .. }
        | Op::Gate { .. }
        | Op::Head { .. } => None,
        other => Some(format!("the op {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_products_share_a_stretch_between_barriers() {
        let linear = |weights, out| Op::Linear {
            x: BufferId(0),
            weights: LinearId(weights),
            out: BufferId(out),
            accumulate: false,
        };
        let quantize = |x, out| Op::Quantize { x: BufferId(x), norm: None, out: BufferId(out) };
        let ops = [quantize(9, 0), linear(1, 1), linear(2, 2), quantize(1, 0), linear(3, 3)];
        let barriers: Vec<bool> = stages(ops).iter().map(|stage| *stage == Stage::Barrier).collect();
        assert_eq!(barriers, [false, true, false, false, true, false, true, false]);
    }

    #[test]
    fn one_token_waits_neither_for_int8_rows_nor_for_its_own_heads() {
        let id = BufferId;
        let buffer = |kind| BufferSpec { name: "b", width: 4, kind };
        let mut buffers = vec![buffer(BufferKind::F32); 6];
        buffers[1] = buffer(BufferKind::Int8PerToken);
        let linear = |out| Op::Linear { x: id(1), weights: LinearId(0), out: id(out), accumulate: false };
        let ops = [
            Op::Quantize { x: id(0), norm: None, out: id(1) },
            linear(2),
            linear(3),
            linear(4),
            Op::RopeAppend { q: id(2), k: id(3), v: id(4), layer: 0 },
            Op::Attention { q: id(2), layer: 0, out: id(5) },
            Op::Quantize { x: id(5), norm: None, out: id(1) },
        ];
        let barriers = |stages: &[Stage]| stages.iter().filter(|stage| **stage == Stage::Barrier).count();
        let one = stages_of_one(&ops, &buffers);
        assert_eq!((barriers(&stages(ops)), barriers(&one)), (4, 2));
        assert!(one.iter().any(|stage| matches!(stage, Stage::RopeAttention { layer: 0, .. })), "{one:?}");
    }
}
