//! The bodies, one a parser. Each ends quietly, or panics where the parser broke its promise.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::device::Device;
use bitnet_core::memory::tensor::file::{TensorFile, to_bytes};
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, PoolSnapshot};
use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_inference::ModelText;
use bitnet_inference::chat::{ChatTemplate, Message, saved};
use bitnet_inference::model::{
    BitnetFile, Checkpoint, Gguf, LoadError, LoadOptions, ModelConfig, ModelFiles, ModelSource, StoredDType,
    WeightAccess, load,
};
use bitnet_testing::temp::TempDir;

/// Text with every kind of piece: words, digits, spaces, punctuation, letters of several bytes, control tokens.
const SAMPLE: &str = "Hello, World!  12345\n\t don't \u{e9}\u{1f451} <|eot_id|></s> <0x0A>";
/// Most bytes of an error line.
const LINE: usize = 1500;

/// The header and the tensors of one safetensors file.
pub fn safetensors_header(bytes: &[u8]) {
    in_folder(&[("model.safetensors", bytes)], |folder| {
        match Checkpoint::open_folder(folder, WeightAccess::Copy) {
            Ok(checkpoint) => walk(&checkpoint),
            Err(error) => refused(&error, folder),
        }
    });
}

/// A folder: four bytes of length, config.json of so many bytes, and model.safetensors from the rest.
pub fn safetensors_folder(bytes: &[u8]) {
    let Some((config, weights)) = cut(bytes) else { return };
    in_folder(&[("config.json", config), ("model.safetensors", weights)], |folder| {
        loaded(&ModelSource::Folder(folder.to_owned()), folder);
    });
}

/// The index of a folder with two shards: four bytes of length, the index, and the first shard from the rest.
pub fn shard_index(bytes: &[u8]) {
    let Some((index, shard)) = cut(bytes) else { return };
    let files = [
        ("model.safetensors.index.json", index),
        ("1.safetensors", shard),
        ("2.safetensors", &b"\x02\0\0\0\0\0\0\0{}"[..]),
    ];
    in_folder(&files, |folder| match Checkpoint::open_folder(folder, WeightAccess::Copy) {
        Ok(checkpoint) => walk(&checkpoint),
        Err(error) => refused(&error, folder),
    });
}

/// config.json, and the same bytes as generation_config.json.
pub fn config_json(bytes: &[u8]) {
    let path = Path::new("config.json");
    match ModelConfig::parse(path, bytes) {
        Ok(mut config) => {
            assert!(config.hidden > 0 && config.heads > 0 && config.heads.is_multiple_of(config.kv_heads));
            if let Err(error) = config.merge_generation(path, bytes) {
                refused(&error, path);
            }
        }
        Err(error) => refused(&error, path),
    }
}

/// The container of a GGUF file: every key and tensor.
pub fn gguf_container(bytes: &[u8]) {
    let path = Path::new("m.gguf");
    match Gguf::from_bytes(path, bytes.to_vec()) {
        Ok(gguf) => {
            let metadata = gguf.metadata();
            for key in metadata.keys() {
                let value = metadata.get(key).expect("a key that was read");
                if let Some(array) = value.as_array() {
                    assert_eq!(array.values().count(), array.len(), "{key}");
                }
            }
            for tensor in gguf.tensors() {
                assert_eq!(gguf.bytes_of(tensor).len(), tensor.range.len());
            }
            walk(&Checkpoint::from_gguf(&gguf));
        }
        Err(error) => refused(&error, path),
    }
}

/// A model in two GGUF files: four bytes of length, the first part, and the second from the rest.
pub fn gguf_parts(bytes: &[u8]) {
    let Some((first, second)) = cut(bytes) else { return };
    in_folder(&[("m-00001-of-00002.gguf", first), ("m-00002-of-00002.gguf", second)], |folder| {
        match Gguf::open(&folder.join("m-00001-of-00002.gguf"), WeightAccess::Copy) {
            Ok(gguf) => {
                for tensor in gguf.tensors() {
                    assert_eq!(gguf.bytes_of(tensor).len(), tensor.range.len());
                }
                walk(&Checkpoint::from_gguf(&gguf));
            }
            Err(error) => refused(&error, folder),
        }
    });
}

/// A GGUF file as a model.
pub fn gguf_model(bytes: &[u8]) {
    in_folder(&[("m.gguf", bytes)], |folder| {
        let path = folder.join("m.gguf");
        loaded(&ModelSource::Gguf(path.clone()), &path);
    });
}

/// A `.bitnet` file as it is, and again with the checksum that its header ought to have: damage that is made on
/// purpose comes with the right one.
pub fn bitnet_file(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    for _ in 0..2 {
        let mut wanted = None;
        in_folder(&[("m.bitnet", &bytes)], |folder| {
            let path = folder.join("m.bitnet");
            match BitnetFile::open(&path, WeightAccess::Copy) {
                Ok(file) => {
                    if let Err(error) = file.check_payloads() {
                        refused(&error, &path);
                    }
                    walk(&Checkpoint::from_gguf(file.container()));
                    loaded(&ModelSource::Bitnet(path.clone()), &path);
                }
                Err(error) => {
                    refused(&error, &path);
                    wanted = header_checksum(&error.to_string());
                }
            }
        });
        let key = b"bitnet.header_checksum";
        let at = bytes.windows(key.len()).position(|window| window == key).map(|at| at + key.len() + 4);
        let place = at.and_then(|at| bytes.get_mut(at..)?.first_chunk_mut::<8>());
        let (Some(place), Some(sum)) = (place, wanted) else { return };
        *place = sum.to_le_bytes();
    }
}

/// Takes the checksum that a header ought to have from the line that refuses it.
fn header_checksum(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("the checksum of the header, 0x")?;
    u64::from_str_radix(rest.get(..16)?, 16).ok()
}

/// Vocabulary and chat template of a GGUF file.
pub fn gguf_vocabulary(bytes: &[u8]) {
    let Ok(gguf) = Gguf::from_bytes(Path::new("m.gguf"), bytes.to_vec()) else { return };
    match ModelText::from_gguf(&gguf) {
        Ok(None) => {}
        Ok(Some(text)) => {
            tokenize(&text.tokenizer);
            if let Some(template) = text.template {
                render(&template);
            }
        }
        Err(error) => one_line(&error),
    }
}

/// tokenizer.json.
pub fn tokenizer_json(bytes: &[u8]) {
    match Tokenizer::from_bytes(bytes, "tokenizer.json") {
        Ok(tokenizer) => tokenize(&tokenizer),
        Err(error) => named(&error, "tokenizer.json"),
    }
}

/// tokenizer.model.
pub fn tokenizer_model(bytes: &[u8]) {
    match Tokenizer::from_sentencepiece(bytes, "tokenizer.model") {
        Ok(tokenizer) => tokenize(&tokenizer),
        Err(error) => named(&error, "tokenizer.model"),
    }
}

/// tokenizer_config.json, with its template and special tokens.
pub fn tokenizer_config(bytes: &[u8]) {
    match ChatTemplate::from_files(Some((bytes, "tokenizer_config.json")), None) {
        Ok(template) => template.iter().for_each(render),
        Err(error) => named(&error, "tokenizer_config.json"),
    }
}

/// chat_template.jinja, rendered.
pub fn chat_template(bytes: &[u8]) {
    match ChatTemplate::from_files(None, Some((bytes, "chat_template.jinja"))) {
        Ok(template) => template.iter().for_each(render),
        Err(error) => named(&error, "chat_template.jinja"),
    }
}

/// A saved conversation; one that is read is written back as it was.
pub fn saved_chat(bytes: &[u8]) {
    match saved::from_json(bytes, "talk.json") {
        Ok(messages) => {
            let json = saved::to_json("m", &messages, "talk.json").expect("roles that were read");
            assert_eq!(saved::from_json(json.as_bytes(), "talk.json").as_ref(), Ok(&messages));
        }
        Err(error) => named(&error, "talk.json"),
    }
}

/// A safetensors file in memory, and every tensor of it written again.
pub fn tensor_file(bytes: &[u8]) {
    let pool = HybridMemoryPool::new().expect("a pool");
    let mut memory = PoolBuffer::zeroed(&pool, bytes.len(), &Device::Cpu, "file").expect("memory");
    memory.copy_from_slice(bytes);
    let file = match TensorFile::parse(Arc::new(memory), "t.safetensors") {
        Ok(file) => file,
        Err(error) => return named(&error, "t.safetensors"),
    };
    let mut tensors = Vec::new();
    for name in file.names() {
        match file.tensor(name) {
            Ok(tensor) => tensors.push((name, tensor)),
            Err(error) => named(&error, "t.safetensors"),
        }
    }
    let named_tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let again = to_bytes(&named_tensors).expect("what was read can be written");
    let mut memory = PoolBuffer::zeroed(&pool, again.len(), &Device::Cpu, "file").expect("memory");
    memory.copy_from_slice(&again);
    let second = TensorFile::parse(Arc::new(memory), "again").expect("what was written can be read");
    for (name, tensor) in &tensors {
        let copy = second.tensor(name).expect("every tensor was written");
        assert_eq!((copy.metadata().shape(), copy.dtype()), (tensor.shape(), tensor.dtype()));
        assert!(copy.as_bytes().ok() == tensor.as_bytes().ok() && copy.scale() == tensor.scale());
    }
}

/// A snapshot of a memory pool, written again, and a pool of its settings.
pub fn pool_snapshot(bytes: &[u8]) {
    match PoolSnapshot::from_json(bytes, "pool.json") {
        Ok(snapshot) => {
            let json = snapshot.to_json().expect("what was read can be written");
            let again =
                PoolSnapshot::from_json(json.as_bytes(), "again").expect("what was written can be read");
            assert_eq!(again, snapshot);
            assert!(snapshot.difference(&snapshot).is_empty());
        }
        Err(error) => named(&error, "pool.json"),
    }
}

/// Cuts an input of two files at the length in its first four bytes.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Joins two files to one input.
pub fn joined(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u32).to_le_bytes()[..], first, second].concat()
}

fn in_folder(files: &[(&str, &[u8])], body: impl FnOnce(&Path)) {
    let folder = TempDir::new("fuzz");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a folder that can be written");
    }
    body(folder.path());
}

fn loaded(source: &ModelSource, place: &Path) {
    let options = &mut LoadOptions { access: WeightAccess::Copy, ..LoadOptions::default() };
    if let Err(error) = ModelFiles::open(source).and_then(|files| load(&files, options)) {
        refused(&error, place);
    }
}

/// Every tensor has the bytes that its type and shape ask for.
fn walk(checkpoint: &Checkpoint) {
    for (name, tensor) in checkpoint.tensors() {
        let StoredDType::Known(dtype) = tensor.dtype else { continue };
        let elements = tensor.shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        let wanted = elements.and_then(|elements| dtype.size_bytes(elements));
        assert_eq!(wanted, Some(tensor.bytes.len()), "{name}: {dtype} {:?}", tensor.shape);
    }
}

fn tokenize(tokenizer: &Tokenizer) {
    for parse_special in [false, true] {
        let options = EncodeOptions { add_special: true, parse_special };
        match tokenizer.encode(SAMPLE, options) {
            Ok(ids) => {
                let mut stream = tokenizer.stream(true);
                let _: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
                let _ = stream.finish();
                match tokenizer.decode(&ids, false) {
                    Ok(_) => {}
                    Err(error) => one_line(&error),
                }
            }
            Err(error) => one_line(&error),
        }
    }
    let _ = (tokenizer.special_tokens(), tokenizer.vocab_size(), tokenizer.id_to_token(u32::MAX));
}

fn render(template: &ChatTemplate) {
    let messages =
        [Message::new("system", "Be brief."), Message::new("user", SAMPLE), Message::new("assistant", "")];
    for messages in [&messages[..], &messages[1..2], &[]] {
        if let Err(error) = template.render(messages, true) {
            one_line(&error);
        }
    }
}

/// A load error names the file first, then what was expected and found.
fn refused(error: &LoadError, path: &Path) {
    let line = error.to_string();
    named(error, &path.to_string_lossy());
    assert!(line.contains("expected ") && line.contains("found"), "{line}");
}

fn named(error: &impl Display, file: &str) {
    one_line(error);
    assert!(error.to_string().starts_with(file), "{error}");
}

fn one_line(error: &impl Display) {
    let line = error.to_string();
    assert!(!line.chars().any(char::is_control) && line.len() < LINE, "{line:?}");
}
