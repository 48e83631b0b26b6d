//! A small file leads to small allocations, whatever its numbers say.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bitnet_model::{LoadOptions, ModelFiles, ModelSource};
use bitnet_testing::gguf::{self, GgufFile, Value as Stored};
use bitnet_testing::held::{Held, held, reset_peak};
use bitnet_testing::temp::TempDir;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Held = Held;

/// Loads a GGUF file and returns the message and the most bytes held on the way.
fn attempt_gguf(bytes: &[u8]) -> (String, usize) {
    let dir = TempDir::new("allocations-gguf");
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let before = held();
    reset_peak();
    let loaded = ModelFiles::open(&ModelSource::at(&path))
        .and_then(|files| bitnet_model::load(&files, &mut LoadOptions::default()));
    (loaded.unwrap_err().to_string(), reset_peak() - before)
}

/// Loads a folder of two small files and returns the message and the most bytes held on the way.
fn attempt(config: &Value, weights: &[u8]) -> (String, usize) {
    let dir = TempDir::new("allocations");
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    let before = held();
    reset_peak();
    let files = ModelFiles::open(&ModelSource::Folder(dir.path().to_owned())).unwrap();
    let error = bitnet_model::load(&files, &mut LoadOptions::default()).unwrap_err().to_string();
    (error, reset_peak() - before)
}

// One test in this file: another one at the same time would be counted too.
#[test]
fn absurd_numbers_take_no_memory() {
    // The greatest values that pass every range of the configuration.
    let config = json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_size": 1 << 20,
        "intermediate_size": 1 << 20, "num_hidden_layers": 1024, "num_attention_heads": 1024,
        "num_key_value_heads": 1024, "head_dim": 512, "vocab_size": 1 << 24, "max_position_embeddings": 1 << 24,
        "tie_word_embeddings": true
    });
    let file = |header: &str, data: usize| {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    };
    let entry = |shape: &str, end: u64| {
        format!(
            r#"{{"model.embed_tokens.weight":{{"dtype":"BF16","shape":{shape},"data_offsets":[0,{end}]}}}}"#
        )
    };
    let absurd_shape = entry("[16777216,1048576]", 2 << 44);
    let cases = [
        (file("{}", 0), "model.embed_tokens.weight: expected a float matrix [16777216, 1048576]"),
        (file(&entry("[2,1]", 4), 4), "expected shape [16777216, 1048576], found [2, 1]"),
        (file(&absurd_shape, 4), "bytes of data up to its end in the file, found 4"),
        (u64::MAX.to_le_bytes().to_vec(), "field header length"),
        ((99_999_999u64).to_le_bytes().to_vec(), "field header length"),
        (file(&entry("[16777216,0]", 0), 0), "expected shape [16777216, 1048576], found [16777216, 0]"),
    ];
    for (weights, text) in cases {
        let (line, peak) = attempt(&config, &weights);
        assert!(line.contains(text), "{line}");
        assert!(peak < 256 << 10, "{peak} bytes held for: {line}");
    }
    for field in ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim"] {
        let mut absurd = config.clone();
        absurd[field] = json!(u64::MAX);
        let (line, peak) = attempt(&absurd, &file("{}", 0));
        assert!(line.contains(&format!("config.json: field {field}: expected an integer from")), "{line}");
        assert!(peak < 256 << 10, "{peak} bytes held for: {line}");
    }
    let (most, half) = (u64::MAX, 1u64 << 63);
    let padded = |mut file: Vec<u8>| {
        file.resize(file.len() + 4096, 0);
        file
    };
    let key = |value| GgufFile::default().key("k", value);
    let tensor = |extents: &[u64], kind| [gguf::header(3, 1, 0), gguf::entry("t", extents, kind, 0)].concat();
    for (file, text) in [
        (padded(gguf::header(3, 0, most)), "metadata keys in a file of this size"),
        (padded(gguf::header(3, half, 0)), "tensors in a file of this size"),
        (padded(key(Stored::array(8, half, &[])).to_bytes()), "an array of at most 512 string"),
        (padded(key(Stored::array(0, most, &[])).to_bytes()), "an array of at most 4096 u8"),
        (padded(key(Stored::new(8, half.to_le_bytes())).to_bytes()), "string of 9223372036854775808 bytes"),
        (padded(tensor(&[half, 2], 0)), "fits the address space"),
        (padded(tensor(&[1 << 40, 1 << 20], 8)), "expected 1224979098644774912 bytes of Q8_0"),
        (padded(tensor(&[1 << 24, 1 << 30], 36)), "bytes of I2_S"),
    ] {
        let (line, peak) = attempt_gguf(&file);
        assert!(line.contains(text), "{line}");
        assert!(peak < 256 << 10, "{peak} bytes held for: {line}");
    }
    // As many small entries as fit: they are held, but not at many times their size.
    let mut keys = gguf::header(3, 0, 65_536);
    for index in 0..65_536u32 {
        keys.extend([&gguf::string(format!("{index:x}").as_bytes())[..], &[0, 0, 0, 0, 7]].concat());
    }
    let (line, peak) = attempt_gguf(&keys);
    assert!(line.contains("general.architecture"), "{line}");
    assert!(peak < 2 * keys.len() + (64 << 20), "{peak} bytes held for {} of a file", keys.len());
}
