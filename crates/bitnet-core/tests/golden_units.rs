//! The CPU backend, op by op, against vectors from `transformers`.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_core::backend::{
    Activation, AttentionShape, Backend, BitNetDType, BlockId, BufferId, BufferKind, Graph, LinearId,
    LinearWeights, LogitsWanted, Norm, Op, Step, StepLimits, TernaryWire, VectorId, WeightScale,
    WeightStorage,
};
use bitnet_core::cpu::{CpuBackend, CpuOptions};
use bitnet_kernels::scalar::rope;
use bitnet_kernels::{Isa, Kernels};
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::SafeTensors;

fn units(name: &str) -> SafeTensors {
    SafeTensors::read(&golden_dir("units").join(name))
}

fn tiers() -> Vec<&'static Kernels> {
    Isa::available().map(|isa| Kernels::for_isa(isa).unwrap()).collect()
}

fn assert_close(found: &[f32], expected: &[f32], relative: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f64, |max, &e| max.max(f64::from(e).abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(f) - f64::from(e)).abs();
        let bound = relative * f64::from(e).abs().max(1e-3 * scale);
        assert!(error <= bound, "{what}[{i}]: expected {e}, found {f}");
    }
}

#[test]
fn quantised_activations_are_bit_equal() {
    let golden = units("bitlinear.safetensors");
    let (x, scales) = (golden.f32s("x"), golden.f32s("x_scale"));
    for kernels in tiers() {
        let mut q = vec![0; x.len()];
        for (row, (x, q)) in x.chunks_exact(256).zip(q.chunks_exact_mut(256)).enumerate() {
            let quantized = (kernels.quantize)(x, q);
            assert_eq!(quantized.scale.to_bits(), scales[row].to_bits(), "{} row {row}", kernels.isa);
            assert_eq!(quantized.sum, q.iter().map(|&q| i32::from(q)).sum::<i32>());
        }
        assert_eq!(q, golden.i8s("x_int8"), "{}", kernels.isa);
    }
}

#[test]
fn integer_accumulators_are_exact() {
    let golden = units("bitlinear.safetensors");
    let (codes, x, expected) = (golden.u8s("w_packed_u8"), golden.i8s("x_int8"), golden.i32s("int32_acc"));
    let sums: Vec<i32> = x.chunks_exact(256).map(|x| x.iter().map(|&x| i32::from(x)).sum()).collect();
    for kernels in tiers() {
        for (quad, codes) in codes.chunks_exact(256).enumerate() {
            let mut out = [[0; 4]; 10];
            (kernels.row_quarters.i8)(codes, &x, &sums, &mut out);
            for (token, out) in out.iter().enumerate() {
                for (quarter, &acc) in out.iter().enumerate() {
                    assert_eq!(acc, expected[token * 48 + quarter * 12 + quad], "{}", kernels.isa);
                }
            }
        }
    }
}

/// A backend whose only layer is: embed a row of `x`, quantise (after a norm, if any), multiply.
fn bit_linear(scale: WeightScale, bias: Option<Vec<f32>>, norm: Option<Vec<f32>>) -> Vec<f32> {
    let golden = units("bitlinear.safetensors");
    let mut backend = CpuBackend::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let table = golden.get("x").bytes.clone().into();
    let dense = WeightStorage::Dense { dtype: BitNetDType::F32, bytes: table };
    let codes = golden.u8s("w_packed_u8").into();
    let ternary = WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes: codes, scale };
    let mut linear = |name: &str, rows, storage, bias| {
        backend.prepare_linear(LinearWeights { name: name.into(), rows, cols: 256, storage, bias }).unwrap()
    };
    let (table, weights) = (linear("x", 10, dense, None), linear("w", 48, ternary, bias));
    let norm =
        norm.map(|weight| Norm { weight: backend.prepare_vector("norm", &weight).unwrap(), eps: 1e-6 });
    let attention = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0 };
    let mut graph =
        Graph { buffers: vec![], ops: vec![], layers: 1, attention, rope_frequencies: vec![1.0], vocab: 10 };
    let x = graph.buffer("x", 256, BufferKind::F32);
    let q = graph.buffer("q", 256, BufferKind::Int8PerToken);
    let y = graph.buffer("y", 48, BufferKind::F32);
    graph.ops = vec![
        Op::Embed { table, out: x },
        Op::Quantize { x, norm, out: q },
        Op::Linear { x: q, weights, out: y, accumulate: false },
    ];
    backend.load_graph(graph, StepLimits { max_tokens: 10, max_logits_rows: 1 }).unwrap();
    backend.reserve_kv_blocks(1).unwrap();
    let mut step = Step::default();
    step.push_sequence(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 0, &[BlockId(0)], LogitsWanted::None);
    backend.forward(&step).unwrap();
    backend.read_buffer(y).unwrap()
}

#[test]
fn bit_linear_outputs_agree_in_both_senses_of_the_scale() {
    let golden = units("bitlinear.safetensors");
    let multiply = WeightScale::Multiply(golden.f32s("w_mean_abs")[0]);
    let divide = WeightScale::Divide(golden.f32s("w_inv_mean_abs")[0]);
    let bias = Some(golden.f32s("bias"));
    let exact: Vec<f32> = golden.f64s("y_exact_f64").iter().map(|&y| y as f32).collect();
    assert_close(&bit_linear(multiply, None, None), &exact, 1e-6, "multiply");
    assert_close(&bit_linear(divide, None, None), &exact, 1e-6, "divide");
    assert_close(&bit_linear(divide, None, None), &golden.f32s("y_bitlinear_div_f32"), 1e-6, "divide");
    assert_close(&bit_linear(divide, bias, None), &golden.f32s("y_bitlinear_div_bias_f32"), 1e-6, "bias");
}

#[test]
fn bit_linear_with_its_own_norm_agrees() {
    let golden = units("bitlinear.safetensors");
    let divide = WeightScale::Divide(golden.f32s("w_inv_mean_abs")[0]);
    let found = bit_linear(divide, None, Some(golden.f32s("rms_norm_weight")));
    let expected = golden.f32s("y_bitlinear_rmsnorm_f32");
    // The norm's own rounding may move one activation across a half, which is one unit of one product.
    let flips =
        found.iter().zip(&expected).filter(|(f, e)| (*f - *e).abs() > 1e-6 * e.abs().max(1e-3)).count();
    assert_eq!(flips, 0, "outputs that differ");
}

#[test]
fn norm_gate_and_rotation_agree() {
    let golden = units("ops.safetensors");
    let x = golden.f32s("x");
    for kernels in tiers() {
        let ones = vec![1.0; x.len()];
        let mut out = vec![0.0; x.len()];
        for (x, out) in x.chunks_exact(64).zip(out.chunks_exact_mut(64)) {
            (kernels.rms_norm)(x, &golden.f32s("norm_w"), 1e-5, out);
        }
        assert_close(&out, &golden.f32s("rmsnorm_1e-5"), 1e-6, "rms_norm");
        (kernels.squared_relu)(&x, &ones, &mut out);
        assert_close(&out, &golden.f32s("relu2"), 0.0, "relu2");
        (kernels.silu)(&x, &ones, &mut out);
        assert_close(&out, &golden.f32s("silu"), 1e-6, "silu");
        for theta in [10_000.0f32, 500_000.0] {
            let (mut frequencies, mut cos, mut sin) = ([0.0; 32], [0.0; 32], [0.0; 32]);
            rope::inverse_frequencies(theta, 64, &mut frequencies);
            let mut out = x.clone();
            for (row, position) in out.chunks_exact_mut(64).zip(golden.i32s("rope_positions")) {
                rope::angles(position as u32, &frequencies, &mut cos, &mut sin);
                (kernels.rotate)(row, 64, &cos, &sin);
            }
            assert_close(&out, &golden.f32s(&format!("rope_split_half_theta{theta}")), 2e-6, "rope");
        }
    }
}

#[test]
fn what_the_backend_cannot_run_is_refused_when_the_graph_is_loaded() {
    let attention = AttentionShape { heads: 2, kv_heads: 1, head_dim: 1024, scale: 1.0 };
    let limits = StepLimits { max_tokens: 1, max_logits_rows: 1 };
    let mut backend = CpuBackend::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap();
    let graph = Graph {
        buffers: vec![],
        ops: vec![],
        layers: 1,
        attention,
        rope_frequencies: vec![1.0; 512],
        vocab: 1,
    };
    let message = backend.load_graph(graph.clone(), limits).unwrap_err().to_string();
    assert!(message.contains("head_dim 1024"), "{message}");
    let small = AttentionShape { head_dim: 64, ..attention };
    let mut graph = Graph { attention: small, rope_frequencies: vec![1.0; 32], ..graph };
    let x = graph.buffer("x", 8, BufferKind::F32);
    graph.ops = vec![Op::Gate { gate: x, up: x, activation: Activation::Silu, out: x }];
    let message = backend.load_graph(graph.clone(), limits).unwrap_err().to_string();
    assert!(message.contains("none of the inputs"), "{message}");
    graph.ops = vec![Op::Embed { table: LinearId(7), out: BufferId(0) }];
    assert!(backend.load_graph(graph.clone(), limits).unwrap_err().to_string().contains("matrix id"));
    let out = graph.buffer("y", 8, BufferKind::F32);
    graph.ops = vec![Op::Norm { x, norm: Norm { weight: VectorId(0), eps: 1e-5 }, out }];
    assert!(backend.load_graph(graph, limits).unwrap_err().to_string().contains("vector id"));
}
