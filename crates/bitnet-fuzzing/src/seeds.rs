//! Valid inputs, small enough that thousands of damaged ones take a second.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use bitnet_core::device::Device;
use bitnet_core::memory::tensor::file::to_bytes;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};
use bitnet_core::memory::{CleanupConfig, HybridMemoryPool, MemoryPoolConfig, PoolBuffer, TrackingConfig};
use bitnet_core::tokenizer::Vocabulary;
use bitnet_inference::model::convert::{ConvertOptions, Output, OutputFile, Target, convert};
use bitnet_inference::model::{ModelFiles, ModelSource};
use bitnet_testing::gguf::{GgufFile, Value};
use bitnet_testing::golden::GOLDEN_MODELS;
use bitnet_testing::model::Activation;
use bitnet_testing::temp::TempDir;
use bitnet_testing::{ModelShape, SyntheticFamily, SyntheticModel, golden_dir, shapes, tokenizer};

use crate::targets::joined;

/// Models of sentencepiece with a table and spaces that go: one of each kind.
const UNIGRAM: &[u8] = include_bytes!("../../bitnet-core/tests/data/sentencepiece/unigram-bytes.model");
const BPE_TABLE: &[u8] = include_bytes!("../../bitnet-core/tests/data/sentencepiece/bpe-table.model");

/// A vocabulary of the smallest size with all special tokens.
const VOCAB: usize = 320;

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Models of every family, as narrow as they come.
fn folders(vocab: usize) -> Vec<TempDir> {
    use SyntheticFamily::{BitNetMaster, BitNetPacked, LlamaBitLinear, OneBitLlm, TriLm};
    let families = [BitNetPacked, BitNetMaster, LlamaBitLinear, OneBitLlm, TriLm];
    let write = |family| {
        let plain = matches!(family, LlamaBitLinear | TriLm);
        let activation = match family {
            BitNetPacked | BitNetMaster => Activation::Relu2,
            _ => Activation::Silu,
        };
        let shape = ModelShape {
            vocab,
            hidden: 32,
            intermediate: 48,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            max_positions: 64,
            sub_norms: !plain,
            activation,
            ..shapes::tiny()
        };
        let folder = TempDir::new("seed");
        SyntheticModel::new(shape, family, 1).write_folder(folder.path()).expect("a written folder");
        folder
    };
    families.into_iter().map(write).collect()
}

pub fn safetensors_header() -> Vec<Vec<u8>> {
    folders(64).iter().map(|folder| read(folder.path().join("model.safetensors"))).collect()
}

pub fn safetensors_folder() -> Vec<Vec<u8>> {
    let folders = folders(64);
    let file = |folder: &TempDir, name: &str| read(folder.path().join(name));
    folders
        .iter()
        .map(|folder| joined(&file(folder, "config.json"), &file(folder, "model.safetensors")))
        .collect()
}

pub fn shard_index() -> Vec<Vec<u8>> {
    let shard = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let shard = [&(shard.len() as u64).to_le_bytes()[..], shard, &[0; 4]].concat();
    let whole = br#"{"metadata":{"total_size":4},"weight_map":{"a":"1.safetensors"}}"#;
    let missing = br#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    vec![joined(whole, &shard), joined(missing, &shard)]
}

pub fn config_json() -> Vec<Vec<u8>> {
    GOLDEN_MODELS.iter().map(|model| read(golden_dir(model).join("config.json"))).collect()
}

/// Small containers with every kind of value.
pub fn gguf_container() -> Vec<Vec<u8>> {
    let file = GgufFile::default()
        .key("general.architecture", Value::str("bitnet-b1.58"))
        .key("general.alignment", Value::u32(32))
        .key("f", Value::f32(0.5))
        .key("b", Value::bool(true))
        .key("u64", Value::new(10, 7u64.to_le_bytes()))
        .key("i64", Value::new(11, (-7i64).to_le_bytes()))
        .key("f64", Value::new(12, 0.25f64.to_le_bytes()))
        .key("strings", Value::strs(&["a", "b c", ""]))
        .key("numbers", Value::array(4, 3, &[0; 12]))
        .with("t", &[4, 2], 0, vec![0; 32])
        .with("h", &[32], 1, vec![0; 64])
        .with("q", &[32, 2], 8, vec![0; 68])
        .with("i2_s", &[128, 4], 36, vec![0; 160]);
    vec![file.to_bytes(), GgufFile::default().to_bytes()]
}

/// The same containers as two parts each, and one part twice.
pub fn gguf_parts() -> Vec<Vec<u8>> {
    let whole = gguf_container().into_iter().map(|file| GgufFile::parse(&file));
    let mut inputs = Vec::new();
    for file in whole {
        let parts: Vec<_> = file.in_parts(2).iter().map(GgufFile::to_bytes).collect();
        inputs.extend([joined(&parts[0], &parts[1]), joined(&parts[0], &parts[0])]);
    }
    inputs
}

pub fn gguf_model() -> Vec<Vec<u8>> {
    let files = ["bitnet_b158-i2_s-x86", "bitnet_b158-tq2_0", "bitnet_silu-tq2_0", "llama-f16"];
    files.iter().map(|file| read(golden_dir("gguf").join(format!("{file}.gguf")))).collect()
}

/// The files that our own converter makes.
pub fn bitnet_file() -> Vec<Vec<u8>> {
    struct Place(PathBuf);
    impl Output for Place {
        fn create(&mut self, _: &str) -> io::Result<Box<dyn OutputFile + '_>> {
            Ok(Box::new(File::create(&self.0)?))
        }
    }
    let write = |folder: &TempDir| {
        tokenizer::write_tokenizer(folder.path(), VOCAB).expect("a written folder");
        let files = ModelFiles::open(&ModelSource::at(folder.path())).expect("a model");
        let file = folder.path().join("m.bitnet");
        let done = convert(&files, &mut ConvertOptions::new(Target::Bitnet), &mut Place(file.clone()));
        done.unwrap_or_else(|error| panic!("{error}"));
        read(file)
    };
    folders(VOCAB)[..2].iter().map(write).collect()
}

/// The metadata of the golden files alone, and a sentencepiece vocabulary.
pub fn gguf_vocabulary() -> Vec<Vec<u8>> {
    let golden = GgufFile::parse(&gguf_model()[0]);
    let bare = GgufFile { tensors: Vec::new(), ..golden };
    let pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "\u{2581}", "a", "b", "\u{2581}a", "ab", "<tool>"];
    let numbers = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let scores: Vec<f32> = (0..pieces.len()).map(|rank| -(rank as f32)).collect();
    let kinds: Vec<u8> =
        [2i32, 3, 3, 6, 1, 1, 1, 1, 1, 4].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    let count = pieces.len() as u64;
    let sentencepiece = GgufFile::default()
        .key("tokenizer.ggml.model", Value::str("llama"))
        .key("tokenizer.ggml.tokens", Value::strs(&pieces))
        .key("tokenizer.ggml.scores", Value::array(6, count, &numbers(&scores)))
        .key("tokenizer.ggml.token_type", Value::array(5, count, &kinds))
        .key("tokenizer.ggml.bos_token_id", Value::u32(1))
        .key("tokenizer.ggml.eos_token_id", Value::u32(2))
        .key("tokenizer.ggml.add_space_prefix", Value::bool(true))
        .key("tokenizer.chat_template", Value::str("{% for m in messages %}{{ m['content'] }}{% endfor %}"));
    let unigram = Vocabulary::from_sentencepiece(UNIGRAM, "seed").expect("a model that the tests read");
    let texts: Vec<&str> = unigram.tokens.iter().map(String::as_str).collect();
    let count = texts.len() as u64;
    let table = unigram.charsmap.as_deref().unwrap_or_default();
    let kinds = |of: &[i32]| of.iter().flat_map(|kind| kind.to_le_bytes()).collect::<Vec<_>>();
    let t5 = GgufFile::default()
        .key("tokenizer.ggml.model", Value::str("t5"))
        .key("tokenizer.ggml.tokens", Value::strs(&texts))
        .key(
            "tokenizer.ggml.scores",
            Value::array(6, count, &numbers(unigram.scores.as_deref().unwrap_or_default())),
        )
        .key(
            "tokenizer.ggml.token_type",
            Value::array(5, count, &kinds(unigram.token_types.as_deref().unwrap_or_default())),
        )
        .key("tokenizer.ggml.remove_extra_whitespaces", Value::bool(true))
        .key("tokenizer.ggml.precompiled_charsmap", Value::array(0, table.len() as u64, table));
    let pieces =
        ["<pad>", "<eos>", "<bos>", "<unk>", "<0x0A>", "\u{2581}", "a", "b", "\u{2581}a", "ab", "\n", "\n\n"];
    let gemma4 = GgufFile::default()
        .key("tokenizer.ggml.model", Value::str("gemma4"))
        .key("tokenizer.ggml.tokens", Value::strs(&pieces))
        .key("tokenizer.ggml.token_type", Value::array(5, 12, &kinds(&[3, 3, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1])))
        .key("tokenizer.ggml.merges", Value::strs(&["\u{2581} a", "a b", "\n \n"]))
        .key("tokenizer.ggml.unknown_token_id", Value::u32(3))
        .key("tokenizer.ggml.bos_token_id", Value::u32(2));
    vec![bare.to_bytes(), sentencepiece.to_bytes(), t5.to_bytes(), gemma4.to_bytes()]
}

pub fn tokenizer_json() -> Vec<Vec<u8>> {
    let folder = TempDir::new("seed-tokenizer");
    tokenizer::write_tokenizer(folder.path(), VOCAB).expect("a written folder");
    let byte_level = read(folder.path().join("tokenizer.json"));
    let words = br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":3,"content":"<s>","special":true,
        "lstrip":false,"rstrip":false,"normalized":false,"single_word":false}],"normalizer":{"type":"Sequence","normalizers":
        [{"type":"NFKC"},{"type":"Replace","pattern":{"String":" "},"content":"_"}]},"pre_tokenizer":{"type":"Split",
        "pattern":{"Regex":"\\s+|\\w+"},"behavior":"Isolated","invert":false},"post_processor":{"type":"TemplateProcessing",
        "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],
        "special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}},"decoder":{"type":"Fuse"},"model":{"type":"BPE",
        "dropout":null,"unk_token":"u","fuse_unk":true,"byte_fallback":false,"vocab":{"u":0,"a":1,"b":2,"ab":4},
        "merges":["a b"]}}"#;
    vec![byte_level, words.to_vec()]
}

/// The protocol buffers of a tokenizer.model with ten pieces.
pub fn tokenizer_model() -> Vec<Vec<u8>> {
    let message = |number: u8, body: &[u8]| [&[number << 3 | 2, body.len() as u8], body].concat();
    let piece = |text: &str, score: f32, kind: u8| {
        let body =
            [&message(1, text.as_bytes())[..], &[2 << 3 | 5], &score.to_le_bytes(), &[3 << 3, kind]].concat();
        message(1, &body)
    };
    let normal = ["\u{2581}", "a", "b", "\u{2581}a", "ab", "lo", "\u{e9}"];
    let pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6)].into_iter();
    let pieces = pieces.chain(normal.into_iter().map(|text| (text, 1))).enumerate();
    let mut file: Vec<u8> =
        pieces.flat_map(|(rank, (text, kind))| piece(text, -(rank as f32), kind)).collect();
    file.extend(message(2, &[3 << 3, 2]));
    file.extend(message(3, &[4 << 3, 0]));
    vec![file, UNIGRAM.to_vec(), BPE_TABLE.to_vec()]
}

pub fn tokenizer_config() -> Vec<Vec<u8>> {
    let list = br#"{"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true,"chat_template":[{"name":"default",
        "template":"{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"},{"name":"tool","template":"x"}]}"#;
    let one = br#"{"chat_template":"{{ bos_token }}{{ messages | tojson }}","bos_token":null}"#;
    vec![list.to_vec(), one.to_vec()]
}

pub fn chat_template() -> Vec<Vec<u8>> {
    let chat_ml = "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim \
        + '<|im_end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";
    let checks = "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role not in ['user', 'system'] %}\
        {{ raise_exception('role') }}{% else %}{% set ns.found = true %}{{ m.content.strip().split(' ')[0:2] | join('-') }}\
        {% endif %}{% endfor %}{{ strftime_now('%d %b %Y') }}{% generation %}{{ ns.found }}{% endgeneration %}";
    let loops = "{% macro f(x) %}{{ x }}{% endmacro %}{% for i in range(20) %}{% if i == 7 %}{% break %}{% endif %}\
        {{ f(i) }}{{ loop.index }}{% endfor %}{{ messages | tojson(indent=2) }}{{ 'a' * 20 }}";
    [chat_ml, checks, loops].iter().map(|text| text.as_bytes().to_vec()).collect()
}

pub fn saved_chat() -> Vec<Vec<u8>> {
    let talk = r#"{"schema": 1, "model": "m", "messages": [{"role": "system", "content": ""},
        {"role": "user", "content": "a\n\ud83d\udc51"}, {"role": "assistant", "content": "b"}]}"#;
    vec![talk.into(), r#"{"schema":1,"messages":[]}"#.into()]
}

pub fn tensor_file() -> Vec<Vec<u8>> {
    let pool = HybridMemoryPool::new().expect("a pool");
    let ones =
        |shape: &[usize], dtype| BitNetTensor::ones(shape, dtype, &Device::Cpu, &pool).expect("a tensor");
    let tensors: Vec<_> =
        BitNetDType::ALL.into_iter().map(|dtype| (dtype.name(), ones(&[2, 3], dtype))).collect();
    let all: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let codes = ones(&[3], BitNetDType::I8);
    let scaled = codes.metadata().clone().with_scale(Some(0.25)).expect("a scale");
    let scaled = BitNetTensor::from_memory(scaled, codes.memory().clone()).expect("a tensor");
    let empty = ones(&[0, 2], BitNetDType::F16);
    let few = [("a", &scaled), ("b", &empty)];
    [to_bytes(&all), to_bytes(&few), to_bytes(&[])].map(|bytes| bytes.expect("a file")).into()
}

pub fn pool_snapshot() -> Vec<Vec<u8>> {
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig::default()),
        cleanup_config: Some(CleanupConfig::default()),
        ..MemoryPoolConfig::default()
    };
    let pool = HybridMemoryPool::with_config(config).expect("a pool");
    let _buffer = PoolBuffer::<u8>::zeroed(&pool, 100, &Device::Cpu, "buffer").expect("memory");
    let plain = HybridMemoryPool::new().expect("a pool");
    [&pool, &plain].map(|pool| pool.snapshot().to_json().expect("a document").into_bytes()).into()
}
