//! Files that lie, each refused on one line that names file, tensor or field, expectation and finding.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod support;

use std::path::Path;

use bitnet_model::{LoadErrorKind as Kind, ModelFiles, ModelSource};
use bitnet_testing::safetensors::{Dtype, TensorSpec, write};
use bitnet_testing::temp::TempDir;
use serde_json::json;
use support::{Draft, Saved, bf16, f32s, with_header};

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const FILE: &str = "/model.safetensors: ";

fn packed() -> Draft {
    Draft::golden("bitnet_packed")
}

fn weights(bytes: &[u8]) -> Saved {
    let saved = packed().save_config();
    saved.put("model.safetensors", bytes);
    saved
}

fn open_error(path: &Path) -> bitnet_model::LoadError {
    ModelFiles::open(&ModelSource::Folder(path.to_owned())).unwrap_err()
}

#[test]
fn paths_that_are_no_model_folder() {
    let dir = TempDir::new("paths");
    let error = open_error(&dir.path().join("nothing"));
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.to_string().contains("nothing: expected a folder with config.json"), "{error}");
    for (name, kind) in [("m.gguf", Kind::Format), ("m.BITNET", Kind::Format), ("m.txt", Kind::Format)] {
        let path = dir.path().join(name);
        std::fs::write(&path, b"x").unwrap();
        let error = open_error(&path);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("expected a folder") && error.path() == path, "{error}");
    }
    let error = support::load_folder(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("config.json: expected the model's configuration, found: no such file"),
        "{error}"
    );
}

#[test]
fn folders_without_readable_weights() {
    packed().save_config().refuse(Kind::Io, &["expected model.safetensors or", "found no weight file"]);
    let other = packed().save_config();
    other.put("pytorch_model.bin", b"x");
    other.refuse(Kind::UnsupportedFormat, &["found pytorch_model.bin"]);
    let many = packed().save_config();
    many.put("a.safetensors", b"x");
    many.put("b.safetensors", b"x");
    many.refuse(Kind::Format, &["found 2 files without an index, a.safetensors first"]);
    let folder = packed().save_config();
    std::fs::create_dir(folder.path("model.safetensors")).unwrap();
    folder.refuse(Kind::Format, &[FILE, "expected a file"]);
    #[cfg(unix)]
    {
        let broken = packed().save_config();
        std::os::unix::fs::symlink("nowhere", broken.path("model.safetensors")).unwrap();
        broken.refuse(Kind::Io, &[FILE, "expected a readable weight file"]);
    }
}

/// Without a check before they are opened, loading would wait for a writer for ever.
#[cfg(unix)]
#[test]
fn weight_files_that_are_pipes() {
    let put_pipe = |saved: &Saved, name: &str| {
        let made = std::process::Command::new("mkfifo").arg(saved.path(name)).status().unwrap();
        assert!(made.success(), "{made}");
    };
    let single = packed().save_config();
    put_pipe(&single, "model.safetensors");
    single.refuse(Kind::Format, &[FILE, "expected a file, found a folder, pipe or device"]);
    let shards = packed().save_sharded(|name| name.len() % 2, 2);
    let second = "model-00002-of-00002.safetensors";
    std::fs::remove_file(shards.path(second)).unwrap();
    put_pipe(&shards, second);
    shards.refuse(Kind::Format, &[second, "expected a file, found a folder, pipe or device"]);
}

#[test]
fn configurations_that_are_too_large() {
    let saved = packed().save();
    saved.put("config.json", &vec![b' '; (1 << 20) + 1]);
    saved.refuse(Kind::Format, &["config.json: expected at most 1048576 bytes, found 1048577"]);
}

#[test]
fn truncated_files() {
    let whole = std::fs::read(packed().save().path("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let at_most = "field header length: expected at most";
    for (length, parts) in [
        (0, ["at least the 8 bytes", "found 0 bytes"]),
        (7, ["at least the 8 bytes", "found 7 bytes"]),
        (8, [at_most, "in a file of 8 bytes"]),
        (header - 1, [at_most, "found"]),
        (header, ["bytes of data up to its end in the file", "found 0"]),
        (whole.len() - 1, ["bytes of data up to its end in the file", "tensor "]),
    ] {
        weights(&whole[..length]).refuse(Kind::Format, &[&[FILE], &parts[..]].concat());
    }
    let mut longer = whole;
    longer.push(0);
    weights(&longer).refuse(Kind::Format, &[FILE, "bytes of data up to its end in the file"]);
}

#[test]
fn headers_that_lie() {
    let big = |length: u64| length.to_le_bytes().to_vec();
    for length in [u64::MAX, u64::MAX - 7, 1 << 63, 100_000_001] {
        weights(&big(length))
            .refuse(Kind::Format, &["field header length: expected at most 0", &length.to_string()]);
    }
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let max = u64::MAX;
    let cases = [
        (
            entry("F32", "[2]", "[0,4]"),
            4,
            "tensor t: expected 8 bytes for F32 [2], found data_offsets [0, 4]",
        ),
        (entry("F32", "[1]", "[4,0]"), 4, "found data_offsets [4, 0]"),
        (
            entry("F32", "[1]", "[4,8]"),
            8,
            "expected data_offsets that begin at 0, without gap or overlap, found 4",
        ),
        (entry("F7", "[1]", "[0,4]"), 4, "tensor t: expected dtype: a safetensors type, found \"F7\""),
        (entry("U8", "[-1]", "[0,4]"), 4, "expected shape: an array of sizes, found [-1]"),
        (entry("U8", "[1.5]", "[0,4]"), 4, "expected shape: an array of sizes"),
        (entry("U8", "[4]", "[0]"), 4, "expected data_offsets: two offsets, found [0]"),
        (entry("F32", &format!("[{max},{max}]"), "[0,4]"), 4, "fits the address space"),
        (entry("U8", &format!("[{}]", max / 16), &format!("[0,{}]", max / 16)), 4, "found 4"),
        (entry("F4", "[1]", "[0,1]"), 1, "a whole number of bytes"),
        (r#"{"t":1}"#.into(), 0, "tensor t: expected dtype: a safetensors type, found nothing"),
        (r#"{"t":{"dtype":"U8"}}"#.into(), 0, "expected shape: an array of sizes, found nothing"),
        ("[]".into(), 0, "expected a header that is one JSON object"),
        ("{} {}".into(), 0, "expected a header that is one JSON object"),
        (format!("{{\"t\":{}", "[".repeat(50_000)), 0, "recursion limit"),
        (r#"{"__metadata__":3}"#.into(), 0, "expected a valid safetensors header"),
    ];
    for (header, data, text) in cases {
        weights(&with_header(&header, &vec![0; data])).refuse(Kind::Format, &[FILE, text]);
    }
    let mut file = with_header("{}", &[]);
    file[8] = 0xff;
    weights(&file).refuse(Kind::Format, &["expected a header of UTF-8 text"]);
}

#[test]
fn tensors_that_overlap_or_stand_twice() {
    let one = |name: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#)
    };
    let overlap = format!("{{{},{}}}", one("a", "[0,4]"), one("b", "[2,6]"));
    let text = "tensor b: expected data_offsets that begin at 4, without gap or overlap, found 2";
    weights(&with_header(&overlap, &[0; 6])).refuse(Kind::Format, &[FILE, text]);
    let twice = format!("{{{},{}}}", one("a", "[0,4]"), one("a", "[0,4]"));
    weights(&with_header(&twice, &[0; 4]))
        .refuse(Kind::Format, &["tensor a: expected one entry in the header"]);
}

#[test]
fn hostile_names_stay_on_one_line() {
    let name = r"evil\n\u001b[2Jname";
    let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}}}"#);
    weights(&with_header(&header, &[0; 5])).refuse(Kind::Format, &["tensor evil\\n\\u{1b}[2Jname: expected"]);
}

#[test]
fn missing_tensors() {
    let scale = format!("{Q}_scale");
    for name in [
        Q,
        &scale,
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.1.mlp.ffn_sub_norm.weight",
    ] {
        let parts = [FILE, &format!("tensor {name}: expected"), "found no such tensor"];
        packed().remove(name).refuse(Kind::MissingTensor, &parts);
    }
    let untied = packed().field("tie_word_embeddings", json!(false));
    untied.refuse(Kind::MissingTensor, &["tensor lm_head.weight: expected a float matrix [320, 256]"]);
    let norms = Draft::golden("llama_rmsnorm_bitlinear").remove("model.layers.0.mlp.up_proj.rms_norm.weight");
    norms.refuse(Kind::MissingTensor, &["tensor model.layers.0.mlp.up_proj.rms_norm.weight"]);
    let biases = Draft::golden("llama_bitlinear").field("attention_bias", json!(true));
    biases.refuse(Kind::MissingTensor, &["tensor model.layers.0.self_attn.q_proj.bias: expected"]);
    let old = Draft::golden("bitnet_1bitllm").remove("model.layers.0.self_attn.inner_attn_ln.weight");
    old.refuse(Kind::MissingTensor, &["tensor model.layers.0.self_attn.inner_attn_ln.weight"]);
}

#[test]
fn shapes_against_the_configuration() {
    let cases: [(Draft, &str); 7] = [
        (
            packed().set(Q, Dtype::U8, &[64, 255], vec![0x55; 64 * 255]),
            "q_proj.weight: expected shape [64, 256], found [64, 255]",
        ),
        (
            packed().set(Q, Dtype::U8, &[256, 256], vec![0; 65536]),
            "q_proj.weight: expected shape [64, 256], found [256, 256]",
        ),
        (
            packed().set(Q, Dtype::U8, &[64 * 256], vec![0; 64 * 256]),
            "expected shape [64, 256], found [16384]",
        ),
        (
            packed().field("vocab_size", json!(321)),
            "model.embed_tokens.weight: expected shape [321, 256], found [320, 256]",
        ),
        (packed().field("intermediate_size", json!(516)), "gate_proj.weight: expected shape [129, 256]"),
        (packed().field("head_dim", json!(32)), "q_proj.weight: expected shape [32, 256]"),
        (
            packed().set(&format!("{Q}_scale"), Dtype::F32, &[2], f32s(&[1.0; 2])),
            "q_proj.weight_scale: expected shape [1]: one scale a tensor, found [2]",
        ),
    ];
    for (draft, text) in cases {
        draft.refuse(Kind::Shape, &[FILE, text]);
    }
    packed()
        .set("model.norm.weight", Dtype::F32, &[0], vec![])
        .refuse(Kind::Shape, &["model.norm.weight", "found [0]"]);
    let scale = format!("{Q}_scale");
    packed().set(&scale, Dtype::F32, &[0], vec![]).refuse(Kind::Shape, &[&scale, "found [0]"]);
}

#[test]
fn element_types() {
    let norm = "model.norm.weight";
    packed()
        .set(norm, Dtype::F64, &[256], vec![0; 2048])
        .refuse(Kind::DType, &[norm, "expected f32, f16 or bf16, found f64"]);
    packed()
        .set(Q, Dtype::I32, &[64, 256], vec![0; 65536])
        .refuse(Kind::DType, &[Q, "expected u8, i8, f32, f16 or bf16, found i32"]);
    let embedding = "model.embed_tokens.weight";
    packed()
        .set(embedding, Dtype::U8, &[320, 256], vec![0; 81920])
        .refuse(Kind::DType, &[embedding, "found u8"]);
    let plain = Draft::golden("llama_bitlinear").field("quantization_config", json!(null));
    let scales = plain.tensors.iter().filter(|(spec, _)| spec.name.ends_with("_scale"));
    let scales: Vec<String> = scales.map(|(spec, _)| spec.name.clone()).collect();
    let bare = scales.iter().fold(plain, |draft, name| draft.remove(name));
    bare.refuse(Kind::DType, &["q_proj.weight: expected f32, f16 or bf16, found u8"]);
}

#[test]
fn codes_scales_and_norms_that_cannot_be() {
    let code = packed().edit(Q, |bytes| bytes[5000] = 0b00_11_00_01);
    code.refuse(
        Kind::Values,
        &[FILE, Q, "codes 0, 1 and 2 (byte offset 5000), found code 3 in byte 0x31, row 147, column 136"],
    );
    let scale = format!("{Q}_scale");
    for (value, text) in [
        (f32::NAN, "found NaN"),
        (f32::INFINITY, "found inf"),
        (0.0, "found 0e0"),
        (-0.0, "found -0e0"),
        (-1.5, "found -1.5e0"),
        (f32::from_bits(1), "found 1e-45"),
    ] {
        let draft = packed().set(&scale, Dtype::F32, &[1], f32s(&[value]));
        draft.refuse(Kind::Values, &[FILE, &scale, "expected a finite scale above zero", text]);
    }
    for value in [f32::NAN, f32::NEG_INFINITY] {
        let draft =
            packed().edit("model.norm.weight", |bytes| bytes[34..36].copy_from_slice(&bf16(&[value])));
        draft.refuse(Kind::Values, &["tensor model.norm.weight: expected finite values (element 17), found"]);
        let master = Draft::golden("bitnet_master")
            .edit(Q, |bytes| bytes[1030..1032].copy_from_slice(&bf16(&[value])));
        master.refuse(Kind::Values, &[FILE, Q, "element [2, 3]: expected a finite weight, found"]);
    }
    let floats = packed().set(Q, Dtype::F32, &[256, 256], f32s(&vec![0.25; 65536]));
    floats.refuse(Kind::Values, &[Q, "element [0, 0]: expected -1, 0 or 1, found 0.25"]);
    let bytes = packed().set(Q, Dtype::I8, &[256, 256], vec![3; 65536]);
    bytes.refuse(Kind::Values, &[Q, "element [0, 0]: expected -1, 0 or 1, found 3"]);
}

#[test]
fn floats_that_are_no_numbers() {
    use half::f16;
    let head = "lm_head.weight";
    let untied = || {
        let draft = packed().field("tie_word_embeddings", json!(false));
        draft.set(head, Dtype::F32, &[320, 256], f32s(&vec![0.5; 320 * 256]))
    };
    let kept = json!({
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online",
        "modules_to_not_convert": ["q_proj"]
    });
    let kept = Draft::golden("bitnet_master").field("quantization_config", kept);
    let mut plain = Draft::golden("llama_bitlinear").field("quantization_config", json!(null));
    plain.tensors.retain(|(spec, _)| !spec.name.ends_with("_scale"));
    let plain = plain.set(Q, Dtype::F32, &[128, 128], vec![]);
    let cases = [(untied(), "model.embed_tokens.weight"), (untied(), head), (kept, Q), (plain, Q)];
    for (mut draft, name) in cases {
        let shape = draft.get(name).0.shape.clone();
        let (elements, cols) = (shape[0] * shape[1], shape[1]);
        for (dtype, fine, odd, at, found) in [
            (Dtype::F32, f32s(&[1.5]), f32s(&[f32::NAN]), elements - 1, "NaN"),
            (Dtype::F16, f16::MAX.to_le_bytes().into(), f16::INFINITY.to_le_bytes().into(), cols + 2, "inf"),
            (Dtype::BF16, bf16(&[f32::MIN]), bf16(&[f32::NEG_INFINITY]), 0, "-inf"),
        ] {
            let mut bytes = fine.repeat(elements);
            // A second magnitude, so that the matrix is not ternary.
            bytes[3 * odd.len()..4 * odd.len()].fill(0x11);
            bytes[at * odd.len()..][..odd.len()].copy_from_slice(&odd);
            let place = format!("tensor {name}: element [{}, {}]", at / cols, at % cols);
            let text = format!("{place}: expected a finite number, found {found}");
            draft = draft.set(name, dtype, &shape, bytes);
            draft.refuse(Kind::Values, &[FILE, &text]);
        }
    }
}

#[test]
fn tensors_that_would_change_the_arithmetic() {
    for (name, width) in [
        ("model.layers.0.self_attn.q_proj.norm.weight", 256),
        ("model.layers.1.self_attn.q_norm.weight", 64),
        ("model.layers.1.self_attn.q_proj.lora_A.weight", 256),
        ("model.layers.2.input_layernorm.weight", 256),
        ("lm_head.bias", 320),
        ("score.weight", 256),
        ("model.layers.0.self_attn.inner_attn_ln.weight", 256),
    ] {
        let draft = packed().set(name, Dtype::F32, &[width], f32s(&vec![1.0; width]));
        let expected =
            format!("tensor {name}: expected no such tensor in a bitnet-b1.58 packed model of 2 layers");
        draft.refuse(Kind::UnsupportedArchitecture, &[FILE, &expected, &format!("found f32 [{width}]")]);
    }
    let sub_norm = Draft::golden("llama_bitlinear");
    let name = "model.layers.0.self_attn.attn_sub_norm.weight";
    let sub_norm = sub_norm.set(name, Dtype::F32, &[128], f32s(&[1.0; 128]));
    sub_norm.refuse(Kind::UnsupportedArchitecture, &[name, "in a llama bitlinear model"]);
    packed().field("num_hidden_layers", json!(1)).refuse(
        Kind::UnsupportedArchitecture,
        &["tensor model.layers.1.input_layernorm.weight: expected no such tensor", "model of 1 layers"],
    );
    packed()
        .field("num_hidden_layers", json!(3))
        .refuse(Kind::MissingTensor, &["tensor model.layers.2.input_layernorm.weight: expected"]);
}

#[test]
fn an_index_that_lies() {
    let saved = packed().save_sharded(|name| name.len() % 2, 2);
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let index = "model.safetensors.index.json: ";
    let outside = saved.root().join("outside.safetensors");
    std::fs::copy(saved.path(first), &outside).unwrap();
    for name in ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\\b", "C:x"] {
        saved.put_index(json!({"t": name}));
        saved.refuse(
            Kind::Format,
            &[index, "tensor t: expected weight_map to name a file in the same folder"],
        );
    }
    for (map, text) in [
        (json!({"t": 3}), "tensor t: expected weight_map to name a file"),
        (json!([]), "field weight_map: expected an object"),
        (json!({}), "field weight_map: expected an object"),
        (json!(null), "field weight_map: expected an object"),
    ] {
        saved.put_index(map);
        saved.refuse(Kind::Format, &[index, text]);
    }
    saved.put_index(json!({Q: "missing.safetensors"}));
    saved.refuse(
        Kind::Io,
        &[index, Q, "expected its file missing.safetensors in the folder, found no such file"],
    );
    saved.put_index(json!({"ghost": first, "model.norm.weight": second}));
    saved.refuse(
        Kind::MissingTensor,
        &[index, "tensor ghost: expected it in model-00001-of-00002.safetensors"],
    );
    let embedding = "model.embed_tokens.weight";
    let (there, other) = if embedding.len().is_multiple_of(2) { (first, second) } else { (second, first) };
    saved.put_index(json!({embedding: other, "model.norm.weight": there}));
    saved.refuse(Kind::MissingTensor, &[index, embedding, &format!("expected it in {other}")]);
    saved.put("model.safetensors.index.json", b"{");
    saved.refuse(Kind::Format, &[index, "expected valid JSON"]);
    saved.put("model.safetensors.index.json", format!("{{\"weight_map\":{}", "[".repeat(9999)).as_bytes());
    saved.refuse(Kind::Format, &[index, "recursion limit"]);
}

#[test]
fn a_tensor_in_two_shards() {
    let saved = packed().save_sharded(|name| name.len() % 2, 2);
    let path = saved.path("model-00002-of-00002.safetensors");
    let mut draft = packed();
    let twice = draft.get("model.embed_tokens.weight").clone();
    let also = draft.get("model.norm.weight").clone();
    let spec = TensorSpec::new("extra", Dtype::U8, &[1]);
    write(&path, &[twice, also, (spec, vec![0])]).unwrap();
    let other = saved.path("model-00001-of-00002.safetensors");
    let mut all = packed();
    let (embedding, norm) =
        (all.get("model.embed_tokens.weight").clone(), all.get("model.norm.weight").clone());
    write(&other, &[embedding, norm]).unwrap();
    let parts = [
        "/model-00002-of-00002.safetensors: ",
        "expected it in one file only",
        "model-00001-of-00002.safetensors as well",
    ];
    saved.refuse(Kind::Format, &parts);
}

#[test]
fn a_damaged_shard_is_named() {
    let saved = packed().save_sharded(|name| name.len() % 2, 2);
    let path = saved.path("model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    saved.refuse(Kind::Format, &["/model-00002-of-00002.safetensors: tensor "]);
}
