//! A dense llama in a GGUF file gives the bits that the same matrices give in a folder.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

use bitnet_testing::floats::{f16_to_f32, f32_to_f16};
use bitnet_testing::gguf::GgufFile;
use bitnet_testing::golden_dir;
use bitnet_testing::safetensors::{Dtype, TensorSpec, write};
use bitnet_testing::temp::TempDir;
use common::{all_logits, bits, load};

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
    "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "vocab_size": 320, "tie_word_embeddings": false}"#;

const NAMES: [(&str, &str); 9] = [
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
];

fn folder_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    let parts: Vec<&str> = name.split('.').collect();
    let module = NAMES.iter().find(|names| names.0 == parts[2]).unwrap().1;
    format!("model.layers.{}.{module}.weight", parts[1])
}

/// Undoes the writer's permutation by its definition: `[heads, 16, 2]` back to `[heads, 2, 16]`.
fn in_halves(bytes: &[u8], row: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = bytes.chunks(row).collect();
    let head = |rows: &[&[u8]]| {
        [0, 1]
            .map(|second| rows.iter().skip(second).step_by(2).copied().collect::<Vec<_>>().concat())
            .concat()
    };
    rows.chunks(32).flat_map(head).collect()
}

#[test]
fn a_dense_llama_has_the_same_bits_in_both_formats() {
    let mut file = GgufFile::read(&golden_dir("gguf").join("llama-f16.gguf"));
    let mut tensors = Vec::new();
    for tensor in &mut file.tensors {
        let count = tensor.extents.iter().product::<u64>() as usize;
        let size = if tensor.kind == 0 { 4 } else { 2 };
        tensor.bytes.truncate(count * size);
        if tensor.name.starts_with("blk.") && tensor.kind == 1 {
            // No longer of one magnitude.
            for (at, value) in tensor.bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let changed = f16_to_f32(u16::from_le_bytes(*value)) * (1.0 + (at % 251) as f32 / 500.0);
                *value = f32_to_f16(changed).to_le_bytes();
            }
        }
        let permuted = tensor.name.contains("attn_q") || tensor.name.contains("attn_k");
        let bytes = if permuted { in_halves(&tensor.bytes, 256) } else { tensor.bytes.clone() };
        let shape: Vec<usize> = tensor.extents.iter().rev().map(|&extent| extent as usize).collect();
        let dtype = if size == 4 { Dtype::F32 } else { Dtype::F16 };
        tensors.push((TensorSpec::new(folder_name(&tensor.name), dtype, &shape), bytes));
    }
    let dir = TempDir::new("gguf-dense");
    let gguf = dir.path().join("m.gguf");
    std::fs::write(&gguf, file.to_bytes()).unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    write(&dir.path().join("model.safetensors"), &tensors).unwrap();
    let ids: Vec<u32> = (0..40).map(|at| at * 7 % 320).collect();
    let logits = |path| {
        let mut engine = load(path, |builder| builder.tokenizer(false));
        assert_eq!(engine.family().name(), "llama dense");
        bits(&all_logits(&mut engine, &ids))
    };
    assert_eq!(logits(&gguf), logits(dir.path()));
}
