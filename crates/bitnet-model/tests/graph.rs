//! The graph of each family: its order of operations, its widths, and what it computes.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

#[path = "support/naive.rs"]
mod naive;
mod support;

use bitnet_core::backend::{BufferKind, Graph, Op};
use bitnet_model::Model;
use bitnet_quant::packing::row_quarters;
use bitnet_testing::golden::{GOLDEN_MODELS, golden_dir};
use bitnet_testing::safetensors::{Dtype, SafeTensors};
use naive::{Naive, Run};
use serde_json::json;
use support::{Draft, bf16, load_folder};

fn build(model: Model) -> (Naive, Graph) {
    let mut backend = Naive::default();
    let graph = model.build(&mut backend).unwrap();
    graph.validate(|id| backend.shape(id), |id| backend.length(id)).unwrap();
    (backend, graph)
}

fn golden(name: &str) -> (Naive, Graph) {
    build(load_folder(&golden_dir(name)).unwrap())
}

/// Names the ops with the buffers that they write.
fn listing(graph: &Graph) -> Vec<String> {
    let name = |id: &bitnet_core::backend::BufferId| graph.spec(*id).unwrap().name;
    let line = |op: &Op| match op {
        Op::Embed { out, .. } => format!("embed > {}", name(out)),
        Op::Norm { x, out, .. } => format!("norm {} > {}", name(x), name(out)),
        Op::Quantize { x, norm, out } => {
            format!("quantize{} {} > {}", if norm.is_some() { " norm" } else { "" }, name(x), name(out))
        }
        Op::Linear { x, out, accumulate, .. } => {
            format!("linear {} {} {}", name(x), if *accumulate { ">>" } else { ">" }, name(out))
        }
        Op::RopeAppend { layer, .. } => format!("rope {layer}"),
        Op::Attention { layer, out, .. } => format!("attention {layer} > {}", name(out)),
        Op::Gate { out, .. } => format!("gate > {}", name(out)),
        Op::Head { x, .. } => format!("head {}", name(x)),
        other => panic!("{other:?}"),
    };
    graph.ops.iter().map(line).collect()
}

#[test]
fn bitnet_fuses_each_norm_with_its_quantisation() {
    let (backend, graph) = golden("bitnet_packed");
    let layer = |index: usize| {
        [
            "quantize norm residual > int8",
            "linear int8 > query",
            "linear int8 > key",
            "linear int8 > value",
            &format!("rope {index}"),
            &format!("attention {index} > attention"),
            "quantize norm attention > int8",
            "linear int8 >> residual",
            "quantize norm residual > int8",
            "linear int8 > gate",
            "linear int8 > up",
            "gate > gate",
            "quantize norm gate > int8",
            "linear int8 >> residual",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let expected =
        [vec!["embed > residual".into()], layer(0), layer(1), vec!["head residual".into()]].concat();
    assert_eq!(listing(&graph), expected);
    // Seven float buffers, and one int8 buffer for each of the widths 256 and 512.
    assert_eq!(graph.buffers.len(), 9);
    let embeddings = backend.names.iter().filter(|name| *name == "model.embed_tokens.weight");
    assert_eq!(embeddings.count(), 1, "the tied head shares the embedding");
    let table =
        graph.ops.iter().find_map(|op| if let Op::Embed { table, .. } = op { Some(*table) } else { None });
    assert!(matches!(graph.ops.last(), Some(Op::Head { weights, .. }) if Some(*weights) == table));
}

#[test]
fn a_projections_own_norm_comes_after_that_of_the_layer() {
    let (_, graph) = golden("llama_rmsnorm_bitlinear");
    let expected = [
        "embed > residual",
        "norm residual > normed",
        "quantize norm normed > int8",
        "linear int8 > query",
        "quantize norm normed > int8",
        "linear int8 > key",
        "quantize norm normed > int8",
        "linear int8 > value",
        "rope 0",
        "attention 0 > attention",
        "quantize norm attention > int8",
        "linear int8 >> residual",
        "norm residual > normed",
        "quantize norm normed > int8",
        "linear int8 > gate",
        "quantize norm normed > int8",
        "linear int8 > up",
        "gate > gate",
        "quantize norm gate > int8",
        "linear int8 >> residual",
        "head residual",
    ];
    assert_eq!(listing(&graph), expected);
}

/// Greatest root-mean-square difference of a position's logits, relative to theirs.
fn distances(name: &str) -> Vec<f64> {
    let (backend, graph) = golden(name);
    let expected = SafeTensors::read(&golden_dir(name).join("expected.safetensors"));
    let logits = expected.f32s("logits_int8_exact");
    let mut run = Run::new(&backend, &graph);
    let ids = expected.token_ids("input_ids");
    let rows = ids.iter().enumerate().map(|(position, &token)| {
        let wanted = &logits[position * graph.vocab..][..graph.vocab];
        let found = run.token(token, position);
        let square = |v: f64| v * v;
        let difference: f64 = found.iter().zip(wanted).map(|(a, b)| square(a - f64::from(*b))).sum();
        (difference / wanted.iter().map(|v| square(f64::from(*v))).sum::<f64>()).sqrt()
    });
    rows.collect()
}

#[test]
fn every_golden_model_computes_the_expected_logits() {
    for name in GOLDEN_MODELS {
        let mut distances = distances(name);
        distances.sort_by(f64::total_cmp);
        let (median, worst) = (distances[distances.len() / 2], distances[distances.len() - 1]);
        // A rounding that falls the other way moves a position by some 1e-3.
        assert!(median < 1e-5 && worst < 5e-3, "{name}: median {median:e}, worst {worst:e}");
    }
}

#[test]
fn matrices_that_stay_float_take_float_inputs() {
    let kept = json!({
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
        "modules_to_not_convert": ["k_proj", "o_proj", "model.layers.1"]
    });
    let draft = Draft::golden("bitnet_master").field("quantization_config", kept);
    let (_, graph) = build(draft.load());
    let listing = listing(&graph);
    let expected = [
        "quantize norm residual > int8",
        "linear int8 > query",
        "norm residual > normed",
        "linear normed > key",
        "linear int8 > value",
        "rope 0",
        "attention 0 > attention",
        "norm attention > normed",
        "linear normed >> residual",
    ];
    assert_eq!(listing[1..10], expected);
    let second = listing.iter().position(|line| line == "rope 1").unwrap();
    assert!(listing[second..].iter().all(|line| !line.contains("int8")), "{listing:?}");
}

#[test]
fn float_activations_are_never_quantised() {
    let mut draft = Draft::golden("llama_bitlinear").field("quantization_config", json!(null));
    for (spec, packed) in
        Draft::golden("llama_bitlinear").tensors.iter().filter(|(s, _)| s.dtype == Dtype::U8)
    {
        let (rows, cols) = (spec.shape[0] * 4, spec.shape[1]);
        let mut codes = vec![0i8; rows * cols];
        row_quarters::unpack(packed, rows, cols, &mut codes);
        let values: Vec<f32> = codes.iter().map(|&code| f32::from(code) * 0.0625).collect();
        draft = draft.remove(&format!("{}_scale", spec.name));
        draft = draft.set(&spec.name, Dtype::BF16, &[rows, cols], bf16(&values));
    }
    let (_, graph) = build(draft.load());
    assert!(graph.buffers.iter().all(|spec| spec.kind == BufferKind::F32));
    let expected = [
        "norm residual > normed",
        "linear normed > query",
        "linear normed > key",
        "linear normed > value",
        "rope 0",
        "attention 0 > attention",
        "linear attention >> residual",
        "norm residual > normed",
        "linear normed > gate",
        "linear normed > up",
        "gate > gate",
        "linear gate >> residual",
    ];
    assert_eq!(listing(&graph)[1..13], expected);
}

#[test]
fn a_refusal_of_the_backend_names_layer_and_tensor() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut backend = Naive::default();
    backend.refuse = Some(name);
    let error = load_folder(&golden_dir("bitnet_packed")).unwrap().build(&mut backend).unwrap_err();
    assert_eq!(error.to_string(), format!("layer 1: {name}: memory: expected some, found none"));
}
