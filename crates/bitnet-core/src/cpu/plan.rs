//! A graph's ops as stages of a pass, with barriers only where data passes between workers.

use std::ops::Range;

use bitnet_backend::{Activation, BufferId, BufferKind, BufferSpec, LinearId, Norm, Op};

use super::weights::{Elements, Matrix};

/// One stage: every worker does its share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stage {
    /// An op of the graph; `Head` is split into the three below.
    Op(Op),
    /// Cosines and sines of the tokens' positions.
    Angles,
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
    /// Computes the logits that may be the greatest again, after a narrow head.
    HeadRescore {
        /// Matrix `[vocab, width]`.
        weights: LinearId,
    },
    /// `Gate` and `Quantize` of what it gives, row by row.
    GateQuantize {
        /// F32 in.
        gate: BufferId,
        /// F32 in.
        up: BufferId,
        /// The op's F32 out, which is left as it is.
        gated: BufferId,
        /// The gate's function.
        activation: Activation,
        /// Norm before quantising.
        norm: Option<Norm>,
        /// Int8 out.
        out: BufferId,
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
    Angles,
    Kv(u32),
    HeadRows,
    Logits,
}

/// Orders the op into stages, with everything that it writes in its buffers.
pub fn stages_of_op(op: Op) -> Vec<Stage> {
    order(with_angles(split(op)), |_| false)
}

/// Orders the ops of a graph into stages.
///
/// A barrier stands before a stage that touches what an earlier one wrote, or writes what an earlier one
/// read, since the last barrier. Rows that only the next op reads stay in a worker's scratch.
pub fn stages(ops: &[Op]) -> Vec<Stage> {
    order(with_angles(fused(ops, |_| true)), |_| false)
}

/// Orders `ops` into the stages of a step of one token.
///
/// Each worker computes the int8 rows, those of `buffers` of that kind, for itself, and who rotates a head
/// attends with it: both are less work than meeting the others for them.
pub fn stages_of_one(ops: &[Op], buffers: &[BufferSpec]) -> Vec<Stage> {
    let own = |id: BufferId| buffers[id.0 as usize].kind == BufferKind::Int8PerToken;
    // Every worker gates the whole row: an exponential for each element is more than meeting the others.
    let mut stages = fused(ops, |activation| activation == Activation::SquaredRelu);
    let mut index = 0;
    while index + 2 <= stages.len() {
        if let [
            Stage::Op(Op::RopeAppend { q, k, v, layer }),
            Stage::Op(Op::Attention { q: same, layer: cache, out }),
        ] = stages[index..index + 2]
            && (q, layer) == (same, cache)
        {
            stages.splice(index..index + 2, [Stage::RopeAttention { q, k, v, layer, out }]);
        }
        index += 1;
    }
    order(with_angles(stages), own)
}

/// Puts the angles first where a stage rotates.
fn with_angles(mut stages: Vec<Stage>) -> Vec<Stage> {
    if stages.iter().any(|stage| touches(stage).0.contains(&Resource::Angles)) {
        stages.insert(0, Stage::Angles);
    }
    stages
}

/// Returns the stages of an op.
fn split(op: Op) -> Vec<Stage> {
    match op {
        Op::Head { x, norm, weights } => vec![
            Stage::HeadNorm { x, norm, weights },
            Stage::HeadProduct { weights },
            Stage::HeadRescore { weights },
        ],
        op => vec![Stage::Op(op)],
    }
}

/// Returns the stages of ops, a gate and the quantising of what it gives as one where `worth` says so and nothing
/// else reads that.
fn fused(ops: &[Op], worth: impl Fn(Activation) -> bool) -> Vec<Stage> {
    let (mut stages, mut rest) = (Vec::new(), ops);
    while let Some((&op, after)) = rest.split_first() {
        rest = after;
        if let (Op::Gate { gate, up, activation, out: gated }, Some((&Op::Quantize { x, norm, out }, after))) =
            (op, after.split_first())
            && x == gated
            && worth(activation)
            && is_dead(gated, after)
        {
            stages.push(Stage::GateQuantize { gate, up, gated, activation, norm, out });
            rest = after;
            continue;
        }
        stages.extend(split(op));
    }
    stages
}

/// Reports whether no op reads a buffer before it is written again.
fn is_dead(buffer: BufferId, ops: &[Op]) -> bool {
    let touching = ops.iter().map(Op::touched).find(|touched| {
        touched.reads.contains(&buffer) || touched.writes.is_some_and(|writes| writes.contains(&buffer))
    });
    touching.is_none_or(|touched| !touched.reads.contains(&buffer))
}

/// Puts barriers between stages; what a worker keeps for its `own` makes nobody wait.
fn order(stages: Vec<Stage>, own: impl Fn(BufferId) -> bool) -> Vec<Stage> {
    let mut out = Vec::new();
    let (mut read, mut written): (Vec<Resource>, Vec<Resource>) = (Vec::new(), Vec::new());
    for stage in stages {
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

/// Returns, for each of `buffers` buffers, the stretches between barriers during which its contents matter.
///
/// A stretch of life begins where the buffer is written without being read and ends where it is read last
/// before the next such write. What no op reads any more is kept to the end, for whoever looks then.
pub fn lifetimes(stages: &[Stage], buffers: usize) -> Vec<Vec<Range<usize>>> {
    let mut lives: Vec<Vec<Range<usize>>> = vec![Vec::new(); buffers];
    let mut awaits_reader = vec![false; buffers];
    let mut stretch = 0;
    for stage in stages {
        if *stage == Stage::Barrier {
            stretch += 1;
            continue;
        }
        let (mut reads, writes) = touches(stage);
        // An embedding reads nothing, whatever stands in the places for it.
        if matches!(stage, Stage::Op(Op::Embed { .. })) {
            reads.clear();
        }
        let ids = |resources: &[Resource]| -> Vec<usize> {
            let id = |resource: &Resource| match resource {
                Resource::Buffer(id) => Some(id.0 as usize),
                _ => None,
            };
            resources.iter().filter_map(id).collect()
        };
        let (reads, mut writes) = (ids(&reads), ids(&writes));
        // Unused places repeat the first.
        writes.dedup();
        for &id in &reads {
            match lives[id].last_mut() {
                Some(life) => life.end = life.end.max(stretch + 1),
                // It comes from before the pass.
                None => lives[id].push(0..stretch + 1),
            }
            awaits_reader[id] = false;
        }
        for &id in &writes {
            if reads.contains(&id) {
                lives[id].last_mut().into_iter().for_each(|life| life.end = stretch + 1);
            } else {
                lives[id].push(stretch..stretch + 1);
            }
            awaits_reader[id] = true;
        }
    }
    for (lives, awaits_reader) in lives.iter_mut().zip(awaits_reader) {
        if let (true, Some(life)) = (awaits_reader, lives.last_mut()) {
            life.end = stretch + 1;
        }
    }
    lives
}

fn touches(stage: &Stage) -> (Vec<Resource>, Vec<Resource>) {
    use Resource::{Angles, Buffer, HeadRows, Kv, Logits};
    let op = match *stage {
        Stage::Angles => return (vec![], vec![Angles]),
        Stage::HeadNorm { x, .. } => return (vec![Buffer(x)], vec![HeadRows]),
        Stage::HeadProduct { .. } => return (vec![HeadRows], vec![Logits]),
        Stage::HeadRescore { .. } => return (vec![HeadRows, Logits], vec![Logits]),
        Stage::GateQuantize { gate, up, gated, out, .. } => {
            return (vec![Buffer(gate), Buffer(up)], vec![Buffer(gated), Buffer(out)]);
        }
        Stage::RopeAttention { q, k, v, layer, out } => {
            let reads = vec![Buffer(q), Buffer(k), Buffer(v), Angles];
            return (reads, vec![Buffer(q), Buffer(k), Kv(layer), Buffer(out)]);
        }
        Stage::Barrier => return (vec![], vec![]),
        Stage::Op(op) => op,
    };
    let touched = op.touched();
    let mut reads = touched.reads.map(Buffer).to_vec();
    let mut writes: Vec<_> = touched.writes.iter().flatten().copied().map(Buffer).collect();
    match op {
        Op::RopeAppend { layer, .. } => {
            reads.push(Angles);
            writes.push(Kv(layer));
        }
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
        Op::Linear { weights, .. } if matches!(elements(weights), Some(Elements::Narrow(..))) => {
            Some("narrow rows outside the head".into())
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
        let barriers: Vec<bool> = stages(&ops).iter().map(|stage| *stage == Stage::Barrier).collect();
        assert_eq!(barriers, [false, true, false, false, true, false, true, false]);
    }

    #[test]
    fn a_gate_is_quantised_at_once_when_nothing_else_reads_it() {
        let id = BufferId;
        let gate = |activation| Op::Gate { gate: id(0), up: id(1), activation, out: id(0) };
        let quantize = Op::Quantize { x: id(0), norm: None, out: id(2) };
        let linear = |x, out| Op::Linear { x: id(x), weights: LinearId(0), out: id(out), accumulate: false };
        let spec = |kind| BufferSpec { name: "b", width: 4, kind };
        let mut buffers = vec![spec(BufferKind::F32); 4];
        buffers[2] = spec(BufferKind::Int8PerToken);
        let is_fused =
            |stages: &[Stage]| stages.iter().any(|stage| matches!(stage, Stage::GateQuantize { .. }));
        for (activation, fused_alone) in [(Activation::SquaredRelu, true), (Activation::Silu, false)] {
            // Written again before it is read.
            let ops = [linear(3, 1), gate(activation), quantize, linear(2, 3), linear(2, 0), linear(0, 3)];
            assert!(is_fused(&stages(&ops)));
            let one = stages_of_one(&ops, &buffers);
            assert_eq!(is_fused(&one), fused_alone);
            assert_eq!(one[1], Stage::Barrier, "the product comes first: {one:?}");
            // Read again.
            let ops = [gate(activation), quantize, linear(2, 3), linear(0, 3)];
            assert!(!is_fused(&stages(&ops)) && !is_fused(&stages_of_one(&ops, &buffers)));
        }
        assert_eq!(stages_of_op(gate(Activation::Silu)), [Stage::Op(gate(Activation::Silu))]);
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
        assert_eq!((barriers(&stages(&ops)), barriers(&one)), (4, 2));
        assert!(one.iter().any(|stage| matches!(stage, Stage::RopeAttention { layer: 0, .. })), "{one:?}");
    }

    #[test]
    fn what_overwrites_a_head_waits_for_those_who_still_rotate_and_attend() {
        let id = BufferId;
        let buffer = |kind| BufferSpec { name: "b", width: 4, kind };
        let mut buffers = vec![buffer(BufferKind::F32); 6];
        buffers[1] = buffer(BufferKind::Int8PerToken);
        for out in [2, 3, 4] {
            let ops = [
                Op::RopeAppend { q: id(2), k: id(3), v: id(4), layer: 0 },
                Op::Attention { q: id(2), layer: 0, out: id(5) },
                Op::Linear { x: id(1), weights: LinearId(0), out: id(out), accumulate: false },
            ];
            let one = stages_of_one(&ops, &buffers);
            let (after, rotated) = (&one[one.len() - 2..], &one[..one.len() - 2]);
            assert_eq!(rotated[..2], [Stage::Angles, Stage::Barrier]);
            assert!(matches!(rotated[2..], [Stage::RopeAttention { .. }]), "{one:?}");
            assert!(matches!(after, [Stage::Barrier, Stage::Op(..)]), "{one:?}");
        }
    }

    #[test]
    fn lives_end_with_the_last_reader_and_begin_with_each_writer() {
        let linear = |x, out, accumulate| Op::Linear {
            x: BufferId(x),
            weights: LinearId(0),
            out: BufferId(out),
            accumulate,
        };
        let ops = [
            Op::Embed { table: LinearId(9), out: BufferId(0) },
            linear(0, 1, false),
            linear(1, 2, false),
            linear(2, 0, true),
            linear(0, 1, false),
        ];
        let lives = lifetimes(&stages(&ops), 3);
        // The second life of buffer 1 has no reader and lasts to the end; buffer 0 is read by the last op.
        let once = |life: Range<usize>| Vec::from([life]);
        assert_eq!(lives, [once(0..5), vec![1..3, 4..5], once(2..4)]);
    }
}
