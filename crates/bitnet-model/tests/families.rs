//! Every family is told apart, and its weights mean what its files say.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use bitnet_core::backend::{Activation, BitNetDType, WeightScale, WeightStorage};
use bitnet_model::{ActivationMode, Family, Head, LoadOptions, Model, ModelFiles, ModelSource, StoredAs};
use bitnet_quant::packing::row_quarters;
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::{Dtype, SafeTensors};
use serde_json::json;
use support::{Draft, bf16, f32s, load_folder};

fn golden(name: &str) -> Model {
    load_folder(&golden_dir(name)).unwrap()
}

fn scale(model: &Model) -> WeightScale {
    match model.layers[0].down.weights.storage {
        WeightStorage::Ternary { scale, .. } => scale,
        _ => panic!("a ternary matrix"),
    }
}

fn codes(model: &Model) -> Vec<i8> {
    let weights = &model.layers[0].down.weights;
    let WeightStorage::Ternary { bytes, .. } = &weights.storage else { panic!("a ternary matrix") };
    let mut codes = vec![0; weights.rows * weights.cols];
    row_quarters::unpack(bytes, weights.rows, weights.cols, &mut codes);
    codes
}

const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

#[test]
fn bitnet_packed_multiplies() {
    let model = golden("bitnet_packed");
    assert_eq!((model.family, model.activations), (Family::BitNetB158Packed, ActivationMode::Int8PerToken));
    let stored = SafeTensors::read(&golden_dir("bitnet_packed").join("model.safetensors"));
    let value = stored.f32s(&format!("{DOWN}_scale"))[0];
    assert_eq!(scale(&model), WeightScale::Multiply(value));
    assert!(matches!(model.head, Head::Tied));
    assert!(model.layers.iter().all(|l| l.attn_sub_norm.is_some() && l.ffn_sub_norm.is_some()));
    assert_eq!(model.config.activation, Activation::SquaredRelu);
    assert_eq!(model.assumptions, [] as [String; 0]);
    assert_eq!(model.tensors.len(), stored.tensors.len());
    let total: u64 = model.tensors.iter().map(|t| t.bytes).sum();
    assert_eq!(total, stored.tensors.values().map(|t| t.bytes.len() as u64).sum::<u64>());
}

#[test]
fn bitnet_master_is_quantised_to_the_packed_model() {
    let (master, packed) = (golden("bitnet_master"), golden("bitnet_packed"));
    assert_eq!((master.family, master.activations), (Family::BitNetB158Master, ActivationMode::Int8PerToken));
    assert_eq!(codes(&master), codes(&packed));
    let (WeightScale::Multiply(exact), WeightScale::Multiply(rounded)) = (scale(&master), scale(&packed))
    else {
        panic!("both multiply");
    };
    assert!((exact - rounded).abs() <= exact / 256.0, "{exact} {rounded}");
    assert_eq!(master.assumptions, [] as [String; 0]);
}

#[test]
fn llama_bitlinear_divides() {
    let model = golden("llama_bitlinear");
    assert_eq!((model.family, model.activations), (Family::LlamaBitLinear, ActivationMode::Int8PerToken));
    let stored = SafeTensors::read(&golden_dir("llama_bitlinear").join("model.safetensors"));
    assert_eq!(scale(&model), WeightScale::Divide(stored.f32s(&format!("{DOWN}_scale"))[0]));
    assert!(matches!(&model.head, Head::Separate(head) if head.name == "lm_head.weight"));
    assert!(model.layers.iter().all(|l| l.attn_sub_norm.is_none() && l.ffn_sub_norm.is_none()));
    assert!(model.assumptions.iter().any(|a| a.contains("no linear_class")), "{:?}", model.assumptions);
}

#[test]
fn projections_norms_have_their_own_epsilon() {
    let model = golden("llama_rmsnorm_bitlinear");
    assert_eq!(model.family, Family::LlamaBitLinear);
    for projection in model.layers.iter().flat_map(|layer| layer.projections()) {
        let norm = projection.norm.as_ref().unwrap();
        assert_eq!((norm.eps, norm.values.len()), (1e-5, projection.weights.cols));
    }
    assert_eq!(model.layers[0].input_norm.eps, 1e-6);
    // The tensors are believed where the config is silent, with the class default epsilon.
    let silent = Draft::golden("llama_rmsnorm_bitlinear");
    let model = silent.field("quantization_config", json!({"quant_method": "bitnet"})).load();
    assert_eq!(model.layers[0].q.norm.as_ref().unwrap().eps, 1e-6);
    assert!(model.assumptions.iter().any(|a| a.contains("use_rms_norm")));
}

#[test]
fn one_bit_llm_has_its_own_names() {
    let model = golden("bitnet_1bitllm");
    assert_eq!((model.family, model.activations), (Family::OneBitLlm, ActivationMode::Int8PerToken));
    assert_eq!(model.config.activation, Activation::Silu);
    let layer = &model.layers[0];
    assert_eq!(layer.attn_sub_norm.as_ref().unwrap().name, "model.layers.0.self_attn.inner_attn_ln.weight");
    assert_eq!(layer.ffn_sub_norm.as_ref().unwrap().name, "model.layers.0.mlp.ffn_layernorm.weight");
    assert!(matches!(scale(&model), WeightScale::Multiply(_)));
    // By the norm names alone.
    let draft =
        Draft::golden("bitnet_1bitllm").field("weight_bits", json!(null)).field("input_bits", json!(null));
    let model = draft.field("architectures", json!(["LlamaForCausalLM"])).load();
    assert_eq!(model.family, Family::OneBitLlm);
    assert!(!model.assumptions.is_empty());
}

/// A plain llama with the values of the golden llama, dequantised to floats of one magnitude.
fn trilm() -> Draft {
    let mut draft = Draft::golden("llama_bitlinear").field("quantization_config", json!(null));
    let source = Draft::golden("llama_bitlinear");
    for (spec, packed) in source.tensors.iter().filter(|(spec, _)| spec.dtype == Dtype::U8) {
        let (rows, cols) = (spec.shape[0] * 4, spec.shape[1]);
        let mut codes = vec![0i8; rows * cols];
        row_quarters::unpack(packed, rows, cols, &mut codes);
        let values: Vec<f32> = codes.iter().map(|&code| f32::from(code) * 0.375).collect();
        draft = draft.remove(&format!("{}_scale", spec.name));
        draft = draft.set(&spec.name, Dtype::BF16, &[rows, cols], bf16(&values));
    }
    draft
}

#[test]
fn a_llama_of_ternary_values_has_float_activations() {
    let model = trilm().load();
    assert_eq!((model.family, model.activations), (Family::TriLm, ActivationMode::Float));
    assert_eq!(scale(&model), WeightScale::Multiply(0.375));
    assert_eq!(codes(&model), codes(&golden("llama_bitlinear")));
    assert!(model.assumptions.iter().any(|a| a.contains("float activations")));
}

#[test]
fn a_llama_of_other_values_is_dense() {
    let mut draft = trilm();
    for (spec, bytes) in &mut draft.tensors {
        if spec.name.ends_with("_proj.weight") {
            bytes[..2].copy_from_slice(&bf16(&[0.125]));
        }
    }
    let model = draft.load();
    assert_eq!((model.family, model.activations), (Family::LlamaDense, ActivationMode::Float));
    let storage = &model.layers[1].gate.weights.storage;
    assert!(matches!(storage, WeightStorage::Dense { dtype: BitNetDType::BF16, .. }));
}

#[test]
fn packed_weights_are_believed_over_the_config() {
    let draft = || Draft::golden("llama_bitlinear");
    let silent = draft().field("quantization_config", json!(null)).load();
    assert_eq!(silent.family, Family::LlamaBitLinear);
    assert!(matches!(scale(&silent), WeightScale::Divide(_)));
    let auto =
        json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"});
    let model = draft().field("quantization_config", auto).load();
    assert!(matches!(scale(&model), WeightScale::Multiply(_)));
    assert!(model.assumptions.iter().any(|a| a.contains("online, but weights have scales")));
}

#[test]
fn ternary_floats_and_bytes_with_scales_are_packed() {
    let expected = golden("bitnet_packed");
    let values = codes(&expected);
    let floats: Vec<f32> = values.iter().map(|&code| f32::from(code)).collect();
    let bytes: Vec<u8> = values.iter().map(|&code| code as u8).collect();
    let forms = [(Dtype::F32, f32s(&floats)), (Dtype::BF16, bf16(&floats)), (Dtype::I8, bytes)];
    for (dtype, bytes) in forms {
        let model = Draft::golden("bitnet_packed").set(DOWN, dtype, &[256, 512], bytes).load();
        assert_eq!(model.family, Family::BitNetB158Packed);
        assert_eq!((codes(&model), scale(&model)), (values.clone(), scale(&expected)));
    }
}

#[test]
fn masters_of_an_offline_config_are_quantised_unless_they_are_ternary() {
    let offline =
        json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"});
    let model = Draft::golden("bitnet_master").field("quantization_config", offline.clone()).load();
    assert_eq!(model.family, Family::BitNetB158Master);
    assert_eq!(
        (codes(&model), scale(&model)),
        (codes(&golden("bitnet_master")), scale(&golden("bitnet_master")))
    );
    assert!(model.assumptions.iter().any(|a| a.contains("no weight has a scale")));
    let model = trilm().field("quantization_config", offline).load();
    assert_eq!((model.family, scale(&model)), (Family::LlamaBitLinear, WeightScale::Multiply(0.375)));
}

#[test]
fn modules_to_not_convert_stay_float() {
    let kept = json!({
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
        "modules_to_not_convert": ["lm_head", "model.layers.1.", "k_proj", ".*gate_proj"]
    });
    let model = Draft::golden("bitnet_master").field("quantization_config", kept).load();
    let dense = |layer: usize| {
        model.layers[layer].projections().map(|p| matches!(p.weights.storage, WeightStorage::Dense { .. }))
    };
    assert_eq!(dense(0), [false, true, false, false, true, false, false]);
    assert_eq!(dense(1), [true; 7]);
}

#[test]
fn heads_follow_the_config_and_the_tensors() {
    let head = bf16(&vec![0.5; 320 * 256]);
    let draft = || Draft::golden("bitnet_packed");
    let stored = || draft().set("lm_head.weight", Dtype::BF16, &[320, 256], head.clone());
    let model = stored().load();
    assert!(matches!(model.head, Head::Tied));
    assert!(model.assumptions.iter().any(|a| a.contains("lm_head.weight is not used")));
    assert!(model.tensors.iter().any(|t| t.name == "lm_head.weight" && t.stored_as == StoredAs::Unused));
    let model = stored().field("tie_word_embeddings", json!(false)).load();
    assert!(matches!(model.head, Head::Separate(_)));
    let model = stored().field("tie_word_embeddings", json!(null)).load();
    assert!(matches!(model.head, Head::Separate(_)));
    let model = draft().field("tie_word_embeddings", json!(null)).load();
    assert!(matches!(model.head, Head::Tied));
    assert!(model.assumptions.iter().any(|a| a.contains("the head is tied")));
}

#[test]
fn biases_and_inverse_frequencies_are_read() {
    let bias: Vec<f32> = (0..64).map(|i| i as f32 / 8.0).collect();
    let draft = Draft::golden("bitnet_packed")
        .set("model.layers.0.self_attn.k_proj.bias", Dtype::F32, &[64], f32s(&bias))
        .set("model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, &[32], f32s(&[1.0; 32]));
    let model = draft.load();
    assert_eq!(model.layers[0].k.weights.bias, Some(bias));
    assert!(model.layers[0].q.weights.bias.is_none());
    assert!(model.assumptions.iter().any(|a| a.contains("biases")));
}

#[test]
fn rows_that_are_no_multiple_of_four_are_padded_with_zeros() {
    // 7 query heads of 2 on 7 key/value heads: 14 rows in 4 packed rows, the last two absent.
    let small = |draft: Draft| {
        draft
            .field("num_attention_heads", json!(7))
            .field("num_key_value_heads", json!(7))
            .field("head_dim", json!(2))
            .field("num_hidden_layers", json!(1))
    };
    let mut draft = small(Draft::golden("llama_bitlinear"));
    draft.tensors.retain(|(spec, _)| !spec.name.starts_with("model.layers.1."));
    for name in ["q", "k", "v"] {
        // Code 0 in absent rows, as the reference packer leaves it.
        let mut packed = vec![0b01_01_01_01u8; 4 * 128];
        packed[2 * 128..].iter_mut().for_each(|byte| *byte = 0b00_01_01_01);
        let name = format!("model.layers.0.self_attn.{name}_proj.weight");
        draft = draft.set(&name, Dtype::U8, &[4, 128], packed);
    }
    let o = "model.layers.0.self_attn.o_proj.weight";
    let model = draft.set(o, Dtype::U8, &[32, 14], vec![0b01_01_01_01; 32 * 14]).load();
    let WeightStorage::Ternary { bytes, .. } = &model.layers[0].q.weights.storage else { panic!("ternary") };
    assert_eq!(row_quarters::count_codes(bytes, 14, 128), [0, 14 * 128, 0]);
}

#[test]
fn shards_load_as_the_single_file_does() {
    let single = golden("bitnet_packed");
    let saved = Draft::golden("bitnet_packed").save_sharded(|name| name.len() % 3, 3);
    let sharded = saved.load().unwrap();
    assert_eq!((codes(&sharded), scale(&sharded)), (codes(&single), scale(&single)));
    assert_eq!(sharded.tensors, single.tensors);
}

#[test]
fn an_embedded_model_loads_from_its_bytes() {
    let dir = golden_dir("bitnet_packed");
    let leak = |name: &str| -> &'static [u8] {
        Box::leak(std::fs::read(dir.join(name)).unwrap().into_boxed_slice())
    };
    let (config, weights) = (leak("config.json"), leak("model.safetensors"));
    let source = ModelSource::Embedded { name: "tale", config, weights, tokenizer: b"{}" };
    let files = ModelFiles::open(&source).unwrap();
    let mut seen = Vec::new();
    let mut watch = |progress| seen.push(progress);
    let mut options = LoadOptions { progress: Some(&mut watch), ..LoadOptions::default() };
    let model = bitnet_model::load(&files, &mut options).unwrap();
    assert_eq!(codes(&model), codes(&golden("bitnet_packed")));
    assert_eq!(seen.len(), model.tensors.len());
    let last = seen.last().unwrap();
    assert_eq!((last.tensors_done, last.bytes_done), (last.tensors_total, last.bytes_total));
    assert_eq!(files.tokenizer_json().unwrap().unwrap(), &b"{}"[..]);
    // Packed weights stay where they are.
    let WeightStorage::Ternary { bytes, .. } = &model.layers[0].q.weights.storage else { panic!("ternary") };
    assert!(weights.as_ptr_range().contains(&bytes.as_ptr()));
}

#[test]
fn transformers_5_spelling_and_end_tokens_of_generation_are_read() {
    let draft = Draft::golden("bitnet_packed")
        .field("rope_theta", json!(null))
        .field("rope_parameters", json!({"rope_type": "default", "rope_theta": 500000.0}))
        .field("torch_dtype", json!(null))
        .field("dtype", json!("bfloat16"));
    let saved = draft.save();
    saved.put("generation_config.json", br#"{"eos_token_id": [317, 316]}"#);
    let model = saved.load().unwrap();
    assert_eq!(model.config.rope_theta, 500_000.0);
    assert_eq!(model.config.eos, [316, 317]);
    assert_eq!(model.assumptions, [] as [String; 0]);
}

#[test]
fn the_only_safetensors_file_of_a_folder_is_taken() {
    let draft = Draft::golden("bitnet_packed");
    let saved = draft.save();
    std::fs::rename(saved.path("model.safetensors"), saved.path("other.safetensors")).unwrap();
    let model = saved.load().unwrap();
    assert!(model.assumptions.iter().any(|a| a.contains("other.safetensors")));
}
