//! Models in GGUF files: architectures, the traps of the format one by one, storage types, and damage.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use bitnet_core::backend::{Activation, BitNetDType, LinearWeights, WeightScale, WeightStorage};
use bitnet_model::{
    ActivationMode, Family, Head, I2sLayout, LoadError, LoadErrorKind as Kind, LoadOptions, Model,
    ModelFiles, ModelSource, StoredAs, WeightAccess,
};
use bitnet_quant::ggml::{GgmlType, TernaryRows, dequantize, quantize};
use bitnet_quant::packing::row_quarters;
use bitnet_testing::gguf::{GgufFile, Value};
use bitnet_testing::golden_dir;
use bitnet_testing::rng::Rng;
use bitnet_testing::temp::TempDir;

const Q: &str = "blk.0.attn_q.weight";
const DOWN: &str = "blk.0.ffn_down.weight";

fn golden(name: &str) -> GgufFile {
    GgufFile::read(&golden_dir("gguf").join(format!("{name}.gguf")))
}

fn i2s() -> GgufFile {
    golden("bitnet_b158-i2_s-x86")
}

fn tq2() -> GgufFile {
    golden("bitnet_b158-tq2_0")
}

fn llama() -> GgufFile {
    golden("llama-f16")
}

fn load_at(path: &Path, access: WeightAccess, i2s_layout: I2sLayout) -> Result<Model, LoadError> {
    let files = ModelFiles::open(&ModelSource::at(path))?;
    bitnet_model::load(&files, &mut LoadOptions { access, i2s_layout, ..LoadOptions::default() })
}

fn attempt(file: &GgufFile, access: WeightAccess, layout: I2sLayout) -> Result<Model, LoadError> {
    let dir = TempDir::new("gguf-model");
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file.to_bytes()).unwrap();
    load_at(&path, access, layout)
}

fn load(file: &GgufFile) -> Model {
    attempt(file, WeightAccess::Auto, I2sLayout::X86).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refuse(file: &GgufFile, kind: Kind, text: &str) {
    for access in [WeightAccess::Auto, WeightAccess::Copy] {
        let error = attempt(file, access, I2sLayout::X86).expect_err(text);
        let line = error.to_string();
        assert_eq!(error.kind(), kind, "{line}");
        assert!(line.contains("m.gguf: ") && line.contains("expected ") && line.contains("found"), "{line}");
        assert!(!line.contains('\n') && line.contains(text), "{line}\nlacks {text}");
    }
}

fn codes(weights: &LinearWeights) -> (Vec<i8>, WeightScale) {
    let WeightStorage::Ternary { bytes, scale, .. } = &weights.storage else { panic!("{weights:?}") };
    let mut out = vec![0; weights.rows * weights.cols];
    row_quarters::unpack(bytes, weights.rows, weights.cols, &mut out);
    (out, *scale)
}

fn dense(weights: &LinearWeights) -> (BitNetDType, Vec<f32>) {
    let WeightStorage::Dense { dtype, bytes } = &weights.storage else { panic!("{weights:?}") };
    let ty = match dtype {
        BitNetDType::F32 => GgmlType::F32,
        BitNetDType::BF16 => GgmlType::BF16,
        _ => GgmlType::F16,
    };
    let mut out = vec![0.0; weights.rows * weights.cols];
    dequantize(ty, bytes, &mut out).unwrap();
    (*dtype, out)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Encodes floats as a type.
fn encode(ty: GgmlType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; ty.row_bytes(values.len()).unwrap()];
    quantize(ty, values, &mut out).unwrap();
    out
}

/// Decodes a tensor of a file.
fn decode(file: &mut GgufFile, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).clone();
    let ty = GgmlType::from_id(tensor.kind).unwrap();
    let count = tensor.extents.iter().product::<u64>() as usize;
    let bytes = ty.tensor_bytes(1, count).unwrap();
    let mut out = vec![0.0; count];
    dequantize(ty, &tensor.bytes[..bytes], &mut out).unwrap();
    out
}

/// Stores a tensor as another type.
fn store(mut file: GgufFile, name: &str, ty: GgmlType) -> GgufFile {
    let (values, extents) = (decode(&mut file, name), file.tensor(name).extents.clone());
    file.with(name, &extents, ty.id(), encode(ty, &values))
}

#[test]
fn architectures_decide_gate_norms_head_and_activations() {
    let int8 = ActivationMode::Int8PerToken;
    for (file, family, activation, mode, tied) in [
        (i2s(), Family::BitNetB158Packed, Activation::SquaredRelu, int8, true),
        (
            i2s().architecture("bitnet-b1.58", "bitnet-25"),
            Family::BitNetB158Packed,
            Activation::SquaredRelu,
            int8,
            true,
        ),
        (tq2(), Family::BitNetB158Packed, Activation::SquaredRelu, int8, true),
        (golden("bitnet_silu-tq2_0"), Family::OneBitLlm, Activation::Silu, int8, true),
        (llama(), Family::TriLm, Activation::Silu, ActivationMode::Float, false),
    ] {
        let model = load(&file);
        assert_eq!((model.family, model.config.activation, model.activations), (family, activation, mode));
        assert_eq!(matches!(model.head, Head::Tied), tied);
        assert_eq!(model.layers[0].attn_sub_norm.is_some(), family != Family::TriLm);
        assert_eq!(model.tensors.len(), file.tensors.len());
    }
    let error =
        attempt(&llama().architecture("llama", "qwen2"), WeightAccess::Auto, I2sLayout::X86).unwrap_err();
    assert_eq!(error.kind(), Kind::UnsupportedArchitecture);
    let text =
        "field general.architecture: expected bitnet, bitnet-25, bitnet-b1.58 or llama, found \"qwen2\"";
    assert!(error.to_string().ends_with(text), "{error}");
    refuse(&i2s().without_key("general.architecture"), Kind::UnsupportedArchitecture, "found nothing");
}

/// Trap: the gate goes by the architecture's name, whatever else the file says of BitNet.
#[test]
fn the_same_tensors_get_silu_as_bitnet_and_squared_relu_as_bitnet_b158() {
    let silu = load(&tq2().architecture("bitnet-b1.58", "bitnet"));
    assert_eq!((silu.config.activation, silu.family), (Activation::Silu, Family::OneBitLlm));
    let relu2 = load(&golden("bitnet_silu-tq2_0").architecture("bitnet", "bitnet-b1.58"));
    assert_eq!(relu2.config.activation, Activation::SquaredRelu);
}

#[test]
fn configuration_comes_from_metadata_and_the_embedding() {
    let config = load(&i2s()).config;
    assert_eq!((config.hidden, config.intermediate, config.layers), (256, 512, 2));
    assert_eq!((config.heads, config.kv_heads, config.head_dim, config.vocab), (4, 1, 64, 320));
    assert_eq!((config.rope_theta, config.rms_eps, config.max_positions), (500_000.0, 1e-5, 128));
    assert_eq!((config.bos, config.eos.as_slice()), (Some(315), &[316][..]));
    assert_eq!(load(&tq2()).config.eos, [316, 319]);
    let prefix = |key: &str| format!("bitnet-b1.58.{key}");
    let without = |key: &str| i2s().without_key(&prefix(key));
    let with = |key: &str, value| i2s().key(&prefix(key), value);
    let model = load(&with("vocab_size", Value::u32(999)));
    assert_eq!(model.config.vocab, 320);
    assert!(
        model
            .assumptions
            .iter()
            .any(|note| note.contains("vocab_size is 999, but the embedding has 320 rows"))
    );
    assert_eq!(load(&without("vocab_size")).config.vocab, 320);
    let model = load(&without("rope.freq_base"));
    assert_eq!((model.config.rope_theta, model.assumptions.len()), (10_000.0, 1));
    let none = i2s().key("tokenizer.ggml.bos_token_id", Value::u32(u32::MAX));
    assert_eq!(load(&none).config.bos, None);
    // Writers differ in the width of integers.
    load(&with("block_count", Value::new(10, 2u64.to_le_bytes())));
    load(&with("rope.scaling.type", Value::str("linear")));
    load(&with("rope.scaling.factor", Value::f32(1.0)));
    load(&with("attention.key_length", Value::u32(64)));
    for (file, kind, text) in [
        (
            without("block_count"),
            Kind::Config,
            "block_count: expected an integer from 1 to 1024, found nothing",
        ),
        (
            without("attention.layer_norm_rms_epsilon"),
            Kind::Config,
            "rms_epsilon: expected a float, found nothing",
        ),
        (with("block_count", Value::u32(1025)), Kind::Config, "found 1025"),
        (with("block_count", Value::str("2")), Kind::Config, "found \"2\""),
        (with("embedding_length", Value::u32(u32::MAX)), Kind::Config, "an integer from 1 to 1048576"),
        (with("attention.head_count_kv", Value::u32(3)), Kind::Config, "a divisor of the 4 heads, found 3"),
        (
            with("attention.head_count", Value::array(4, 1, &[4, 0, 0, 0])),
            Kind::Config,
            "found an array of 1 u32",
        ),
        (with("attention.head_count", Value::u32(3)), Kind::Config, "an even number up to 512, stated or"),
        (
            with("attention.layer_norm_rms_epsilon", Value::f32(0.0)),
            Kind::Config,
            "expected a number from 1e-12",
        ),
        (with("rope.freq_base", Value::f32(f32::NAN)), Kind::Config, "rope.freq_base: expected a number"),
        (
            with("attention.value_length", Value::u32(32)),
            Kind::UnsupportedArchitecture,
            "64, the length of a key",
        ),
        (
            with("rope.dimension_count", Value::u32(32)),
            Kind::UnsupportedArchitecture,
            "64: all of a head is rotated, found 32",
        ),
        (with("rope.scaling.type", Value::str("yarn")), Kind::UnsupportedArchitecture, "found \"yarn\""),
        (
            with("rope.scaling.factor", Value::f32(2.0)),
            Kind::UnsupportedArchitecture,
            "expected 1, found 2.0",
        ),
        (
            with("expert_count", Value::u32(8)),
            Kind::UnsupportedArchitecture,
            "no mixture of experts, found 8",
        ),
        (
            with("attention.causal", Value::bool(false)),
            Kind::UnsupportedArchitecture,
            "expected true, found false",
        ),
        (with("attention.scale", Value::f32(0.1)), Kind::UnsupportedArchitecture, "expected 0, found 0.1"),
        (
            i2s().key("split.count", Value::new(2, [2, 0])),
            Kind::Format,
            "expected a name that ends in -00001-of-00002.gguf",
        ),
        (
            i2s().key("general.type", Value::str("adapter")),
            Kind::UnsupportedArchitecture,
            "found \"adapter\"",
        ),
        (
            i2s().key("tokenizer.ggml.eos_token_id", Value::u32(320)),
            Kind::Config,
            "a token id below 320, found 320",
        ),
        (
            i2s().without("token_embd.weight"),
            Kind::MissingTensor,
            "tensor token_embd.weight: expected a float matrix",
        ),
        (
            i2s().without(Q),
            Kind::MissingTensor,
            "tensor blk.0.attn_q.weight: expected the weight of a projection [256, 256]",
        ),
        (
            i2s().without("blk.1.attn_sub_norm.weight"),
            Kind::MissingTensor,
            "tensor blk.1.attn_sub_norm.weight",
        ),
        (
            with("block_count", Value::u32(1)),
            Kind::UnsupportedArchitecture,
            "no such tensor in a bitnet-b1.58 packed model of 1 layers",
        ),
        (
            with("feed_forward_length", Value::u32(256)),
            Kind::Shape,
            "ffn_gate.weight: expected shape [256, 256], found [512, 256]",
        ),
    ] {
        refuse(&file, kind, text);
    }
}

/// Trap: `output.weight` is there, and the graph multiplies by the embedding all the same.
#[test]
fn a_stored_head_is_used_by_llamas_alone() {
    let mut file = i2s();
    let embedding = file.tensor("token_embd.weight").clone();
    let model = load(&file.with("output.weight", &embedding.extents, 1, embedding.bytes));
    assert!(matches!(model.head, Head::Tied));
    let info = model.tensors.iter().find(|info| info.name == "output.weight").unwrap();
    assert_eq!(info.stored_as, StoredAs::Unused);
    assert!(model.assumptions.iter().any(|note| note.contains("the stored output.weight is not used")));
    assert!(matches!(load(&llama().without("output.weight")).head, Head::Tied));
}

/// Trap: rows of query and key are permuted in the architecture `llama`, and in no other.
#[test]
fn query_and_key_rows_of_llamas_are_put_back() {
    let expected =
        bitnet_testing::safetensors::SafeTensors::read(&golden_dir("gguf").join("expected.safetensors"));
    let first_rows =
        |name: &str| expected.f32s(&format!("{name}.deq.blk.0.attn_k.weight first 16 rows in HF row order"));
    for (name, cols) in [("bitnet_b158-tq2_0", 256), ("bitnet_silu-tq2_0", 256), ("llama-f16", 128)] {
        let (values, scale) = codes(&load(&golden(name)).layers[0].k.weights);
        let found: Vec<f32> =
            values[..16 * cols].iter().map(|&value| f32::from(value) * scale.value()).collect();
        assert_eq!(found, first_rows(&format!("{name}.gguf")), "{name}");
    }
    // A dense matrix, and a bias, in the same order.
    let rows: Vec<f32> =
        (0..32).flat_map(|row| (0..128).map(move |col| row as f32 + col as f32 / 256.0)).collect();
    let bias: Vec<f32> = (0..32).map(|row| row as f32).collect();
    let file = llama().with("blk.0.attn_k.weight", &[128, 32], 0, f32s(&rows)).with(
        "blk.0.attn_k.bias",
        &[32],
        0,
        f32s(&bias),
    );
    let model = load(&file);
    let (dtype, found) = dense(&model.layers[0].k.weights);
    let starts: Vec<f32> = found.chunks(128).map(|row| row[0]).collect();
    let order: Vec<f32> =
        (0..16).map(|pair| 2.0 * pair as f32).chain((0..16).map(|pair| 2.0 * pair as f32 + 1.0)).collect();
    assert_eq!((dtype, &starts), (BitNetDType::F32, &order));
    assert_eq!(model.layers[0].k.weights.bias.as_ref(), Some(&order));
    let value = llama().with("blk.0.attn_v.weight", &[128, 32], 0, f32s(&rows));
    assert_eq!(dense(&load(&value).layers[0].v.weights).1, rows);
}

/// Trap: the scale of I2_S stands once behind all rows; what follows it is rubbish.
#[test]
fn the_scale_of_i2s_is_the_first_float_behind_the_codes() {
    let mut file = i2s();
    let (expected, scale) = codes(&load(&file).layers[0].q.weights);
    let tensor = file.tensor(Q);
    let stored = f32::from_le_bytes(tensor.bytes[16_384..16_388].try_into().unwrap());
    assert_eq!(scale, WeightScale::Multiply(stored));
    tensor.bytes[16_388..16_416].fill(0xff);
    assert_eq!(codes(&load(&file).layers[0].q.weights), (expected.clone(), scale));
    file.tensor(Q).bytes[16_384..16_388].copy_from_slice(&3.5f32.to_le_bytes());
    assert_eq!(codes(&load(&file).layers[0].q.weights), (expected, WeightScale::Multiply(3.5)));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        file.tensor(Q).bytes[16_384..16_388].copy_from_slice(&bad.to_le_bytes());
        refuse(&file, Kind::Values, "tensor blk.0.attn_q.weight: row 0, block 0: expected a finite scale");
    }
    let mut invalid = i2s();
    invalid.tensor(Q).bytes[77] = 0xff;
    refuse(&invalid, Kind::Values, "expected codes 0, 1 and 2, found 3");
}

/// Trap: nothing in a file tells the order of I2_S elements, so the caller does.
#[test]
fn i2s_of_arm_machines_is_read_where_asked_for() {
    let (expected, scale) = codes(&load(&i2s()).layers[0].q.weights);
    let mut file = i2s();
    let code = |at: usize| (expected[at] + 1) as u8;
    for (group, byte) in (0..16_384).map(|at| (at / 16 * 64, at % 16)).collect::<Vec<_>>() {
        let packed = (0..4).fold(0, |packed, pair| packed << 2 | code(group + pair * 16 + byte));
        file.tensor(Q).bytes[group / 4 + byte] = packed;
    }
    let arm = attempt(&file, WeightAccess::Auto, I2sLayout::Arm).unwrap();
    assert_eq!(codes(&arm.layers[0].q.weights), (expected.clone(), scale));
    assert_ne!(codes(&load(&file).layers[0].q.weights).0, expected);
}

#[test]
fn ternary_types_hold_the_same_codes() {
    let models = [load(&i2s()), load(&tq2())];
    let matrices: [Vec<_>; 2] = [0, 1].map(|index| models[index].matrices().skip(1).map(codes).collect());
    assert_eq!(matrices[0].len(), 14);
    for (i2s, tq2) in matrices[0].iter().zip(&matrices[1]) {
        assert_eq!(i2s.0, tq2.0);
        assert!((i2s.1.value() / tq2.1.value() - 1.0).abs() < 1.0 / 2048.0);
    }
    for ty in [GgmlType::TQ1_0, GgmlType::F16, GgmlType::F32, GgmlType::BF16] {
        let model = load(&store(tq2(), Q, ty));
        let (found, scale) = codes(&model.layers[0].q.weights);
        assert_eq!(found, matrices[1][0].0, "{ty}");
        assert!((scale.value() / matrices[1][0].1.value() - 1.0).abs() < 1.0 / 128.0, "{ty}");
        assert_eq!(model.activations, ActivationMode::Int8PerToken);
    }
    // Eight bits hold three values of one magnitude; the scale is rounded.
    let model = load(&store(tq2(), Q, GgmlType::Q8_0));
    assert_eq!(codes(&model.layers[0].q.weights).0, matrices[1][0].0);
}

#[test]
fn every_storage_of_a_bitnet_architecture_runs_on_int8_or_is_refused() {
    let mut rng = Rng::new(5);
    let values = rng.normal_vec(256 * 256, 1.0);
    let with = |ty: GgmlType| tq2().with(Q, &[256, 256], ty.id(), encode(ty, &values));
    let master = load(&with(GgmlType::F32));
    let mean = values.iter().map(|value| f64::from(value.abs())).sum::<f64>() / values.len() as f64;
    let (found, scale) = codes(&master.layers[0].q.weights);
    assert!((f64::from(scale.value()) / mean - 1.0).abs() < 1e-6);
    let expected: Vec<i8> =
        values.iter().map(|&v| (f64::from(v) / mean).round_ties_even().clamp(-1.0, 1.0) as i8).collect();
    let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    assert!(differ < 3, "{differ}");
    assert!(master.assumptions.iter().any(|note| note.contains("quantised by absmean")));
    refuse(
        &with(GgmlType::Q8_0),
        Kind::Values,
        "tensor blk.0.attn_q.weight: expected ternary values of one magnitude in a bitnet architecture, found Q8_0 blocks",
    );
    let unknown = tq2().with(Q, &[256, 256], 39, vec![0; 65_536]);
    refuse(&unknown, Kind::DType, "tensor blk.0.attn_q.weight: expected a type that can be decoded");
    let integers = tq2().with(Q, &[256, 256], 26, vec![0; 4 * 65_536]);
    refuse(&integers, Kind::DType, "found i32");
    // One that nothing needs is as wrong as any other that nothing needs, whatever its type.
    let extra = tq2().with("blk.0.extra.weight", &[4], 39, vec![0; 64]);
    refuse(&extra, Kind::UnsupportedArchitecture, "tensor blk.0.extra.weight: expected no such tensor");
}

#[test]
fn blocks_of_several_scales_are_refused_in_bitnet_and_decoded_in_a_llama() {
    let mut file = tq2();
    let block = &mut file.tensor(DOWN).bytes[66 * 5..66 * 6];
    let scale = half::f16::from_le_bytes([block[64], block[65]]);
    block[64..].copy_from_slice(&half::f16::from_f32(scale.to_f32() * 2.0).to_le_bytes());
    refuse(
        &file,
        Kind::Values,
        "tensor blk.0.ffn_down.weight: row 2, block 1: expected the scale of the blocks before",
    );
    // Blocks of zeros have no scale of their own.
    let mut zeros = tq2();
    zeros.tensor(DOWN).bytes[66 * 5..66 * 5 + 64].fill(0b01_01_01_01);
    zeros.tensor(DOWN).bytes[66 * 5 + 64..66 * 6].fill(0);
    load(&zeros);
    let mut rng = Rng::new(1);
    let values: Vec<f32> = rng
        .ternary_vec(256 * 128, 0.3)
        .iter()
        .enumerate()
        .map(|(at, &v)| f32::from(v) * (1 + at / 256 % 2) as f32)
        .collect();
    let name = "blk.0.ffn_down.weight";
    let model = load(&llama().with(name, &[256, 128], 35, encode(GgmlType::TQ2_0, &values)));
    assert_eq!(dense(&model.layers[0].down.weights), (BitNetDType::F16, values.clone()));
    // Of one scale: ternary, and activations stay floats.
    let even: Vec<f32> = values.iter().map(|value| value.signum() * f32::from(*value != 0.0)).collect();
    let model = load(&llama().with(name, &[256, 128], 34, encode(GgmlType::TQ1_0, &even)));
    let (found, scale) = codes(&model.layers[0].down.weights);
    assert_eq!(found.iter().map(|&v| f32::from(v)).collect::<Vec<_>>(), even);
    assert_eq!((scale, model.activations), (WeightScale::Multiply(1.0), ActivationMode::Float));
    assert!(model.assumptions.iter().any(|note| note.contains("TQ weights in a llama")));
}

#[test]
fn i2s_in_a_llama_quantises_activations() {
    let mut rng = Rng::new(2);
    let values = rng.ternary_vec(128 * 256, 0.3);
    let mut packed = vec![0; row_quarters::packed_len(256, 128).unwrap()];
    row_quarters::pack(&values, 256, 128, &mut packed);
    let rows = TernaryRows::new(GgmlType::I2_S, &packed, 256, 128, 0.5).unwrap();
    let mut bytes = vec![0; 256 * 32];
    bytes.chunks_mut(32).enumerate().for_each(|(row, out)| rows.encode_row(row, out));
    bytes.extend(rows.tail());
    let model = load(&llama().with("blk.0.ffn_up.weight", &[128, 256], 36, bytes));
    assert_eq!((model.family, model.activations), (Family::LlamaBitLinear, ActivationMode::Int8PerToken));
    assert_eq!(codes(&model.layers[0].up.weights), (values, WeightScale::Multiply(0.5)));
    assert!(model.assumptions.iter().any(|note| note.contains("I2_S weights in a llama")));
}

#[test]
fn blocks_of_llamas_are_decoded_to_halves() {
    let mut rng = Rng::new(3);
    let values = rng.normal_vec(256 * 128, 0.5);
    let name = "blk.0.ffn_down.weight";
    for ty in [GgmlType::Q8_0, GgmlType::Q6_K] {
        let bytes = encode(ty, &values);
        let mut expected = vec![0.0; values.len()];
        dequantize(ty, &bytes, &mut expected).unwrap();
        let rounded: Vec<f32> = expected.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
        let model = load(&llama().with(name, &[256, 128], ty.id(), bytes));
        assert_eq!(dense(&model.layers[0].down.weights), (BitNetDType::F16, rounded), "{ty}");
        let info = model.tensors.iter().find(|info| info.name == name).unwrap();
        assert_eq!((info.dtype.as_str(), info.stored_as), (ty.name(), StoredAs::Dense(BitNetDType::F16)));
    }
    // The embedding and the head as well.
    let table = encode(GgmlType::Q8_0, &rng.normal_vec(128 * 320, 1.0));
    let model = load(&llama().with("token_embd.weight", &[128, 320], 8, table));
    assert_eq!(dense(&model.embedding).0, BitNetDType::F16);
    let mut infinite = encode(GgmlType::Q8_0, &values);
    infinite[34 * 9..34 * 9 + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    refuse(
        &llama().with(name, &[256, 128], 8, infinite),
        Kind::Values,
        "tensor blk.0.ffn_down.weight: element [1, 32]: expected a finite number",
    );
}

#[test]
fn scales_beside_matrices_multiply_the_product() {
    let (plain, scale) = codes(&load(&tq2()).layers[0].q.weights);
    let scaled = |file: GgufFile, name: &str, value: f32| file.with(name, &[1], 0, f32s(&[value]));
    let model = load(&scaled(tq2(), "blk.0.attn_q.scale", 0.25));
    assert_eq!(codes(&model.layers[0].q.weights), (plain, WeightScale::Multiply(scale.value() * 0.25)));
    let mut rng = Rng::new(4);
    let values = rng.normal_vec(256 * 128, 0.5);
    let file = llama().with("blk.0.ffn_down.weight", &[256, 128], 0, f32s(&values));
    let model = load(&scaled(file, "blk.0.ffn_down.scale", 3.0));
    let expected: Vec<f32> = values.iter().map(|value| value * 3.0).collect();
    assert_eq!(dense(&model.layers[0].down.weights), (BitNetDType::F32, expected));
    refuse(
        &scaled(tq2(), "blk.0.attn_q.scale", -1.0),
        Kind::Values,
        "tensor blk.0.attn_q.scale: expected a finite scale",
    );
    refuse(
        &tq2().with("blk.0.attn_q.input_scale", &[1], 0, f32s(&[1.0])),
        Kind::UnsupportedArchitecture,
        "input_scale",
    );
}

#[test]
fn vocabularies_alone_are_no_models() {
    let mut file = i2s();
    file.tensors.clear();
    refuse(
        &file,
        Kind::MissingTensor,
        "tensor token_embd.weight: expected a float matrix [320, 256], found no such tensor",
    );
}

#[test]
fn files_are_found_by_name_or_by_their_first_bytes() {
    let dir = TempDir::new("gguf-at");
    let at = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = i2s().to_bytes();
    for path in [at("a.gguf", &whole), at("b.GGUF", &whole), at("c", &whole)] {
        assert!(matches!(ModelSource::at(&path), ModelSource::Gguf(_)));
        let model = load_at(&path, WeightAccess::Copy, I2sLayout::X86).unwrap();
        assert_eq!(model.layers.len(), 2);
        let files = ModelFiles::open(&ModelSource::at(&path)).unwrap();
        assert_eq!(files.gguf().unwrap().metadata().str("general.name").unwrap(), Some("tiny"));
        assert_eq!(files.config_json().unwrap_err().kind(), Kind::UnsupportedFormat);
        assert_eq!((files.tokenizer_json().unwrap(), files.path("x")), (None, path));
    }
    assert!(matches!(ModelSource::at(at("d.txt", b"x")), ModelSource::Folder(_)));
    assert!(matches!(ModelSource::at(dir.path()), ModelSource::Folder(_)));
    let missing = ModelFiles::open(&ModelSource::at(dir.path().join("none.gguf"))).unwrap_err();
    assert_eq!(missing.kind(), Kind::Io);
}
