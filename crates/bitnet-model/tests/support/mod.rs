//! Golden checkpoints to break, and what the tests say about loading them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use bitnet_model::{LoadError, LoadErrorKind, LoadOptions, Model, ModelFiles, ModelSource, WeightAccess};
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::{Dtype, SafeTensors, TensorSpec, write};
use bitnet_testing::temp::TempDir;
use serde_json::Value;

/// A checkpoint in memory, to be changed and saved.
pub struct Draft {
    pub config: Value,
    pub tensors: Vec<(TensorSpec, Vec<u8>)>,
}

/// A saved checkpoint.
pub struct Saved {
    dir: TempDir,
}

impl Draft {
    /// Takes a golden model.
    pub fn golden(name: &str) -> Self {
        let dir = golden_dir(name);
        let config = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        let file = SafeTensors::read(&dir.join("model.safetensors"));
        let tensors = file
            .tensors
            .into_iter()
            .map(|(name, tensor)| (TensorSpec::new(name, dtype(&tensor.dtype), &tensor.shape), tensor.bytes));
        Draft { config, tensors: tensors.collect() }
    }

    /// Changes a field of config.json; null removes it.
    pub fn field(mut self, name: &str, value: Value) -> Self {
        match value {
            Value::Null => drop(self.config.as_object_mut().unwrap().remove(name)),
            value => self.config[name] = value,
        }
        self
    }

    pub fn get(&mut self, name: &str) -> &mut (TensorSpec, Vec<u8>) {
        self.tensors.iter_mut().find(|(spec, _)| spec.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Replaces or adds a tensor.
    pub fn set(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.retain(|(spec, _)| spec.name != name);
        self.tensors.push((TensorSpec::new(name, dtype, shape), bytes));
        self
    }

    /// Changes the bytes of a tensor.
    pub fn edit(mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.get(name).1);
        self
    }

    pub fn remove(mut self, name: &str) -> Self {
        let count = self.tensors.len();
        self.tensors.retain(|(spec, _)| spec.name != name);
        assert_eq!(self.tensors.len() + 1, count, "{name}");
        self
    }

    pub fn rename(mut self, change: impl Fn(&str) -> String) -> Self {
        self.tensors.iter_mut().for_each(|(spec, _)| spec.name = change(&spec.name));
        self
    }

    /// Saves as config.json and model.safetensors.
    pub fn save(&self) -> Saved {
        let saved = self.save_config();
        write(&saved.path("model.safetensors"), &self.tensors).unwrap();
        saved
    }

    /// Saves config.json alone.
    pub fn save_config(&self) -> Saved {
        let saved = Saved { dir: TempDir::new("model") };
        saved.put("config.json", self.config.to_string().as_bytes());
        saved
    }

    /// Saves shards by a rule, with an index.
    pub fn save_sharded(&self, shard_of: impl Fn(&str) -> usize, shards: usize) -> Saved {
        let saved = self.save_config();
        let name = |shard: usize| format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let mut map = serde_json::Map::new();
        for shard in 0..shards {
            let part: Vec<_> =
                self.tensors.iter().filter(|(spec, _)| shard_of(&spec.name) == shard).cloned().collect();
            part.iter().for_each(|(spec, _)| drop(map.insert(spec.name.clone(), name(shard).into())));
            write(&saved.path(&name(shard)), &part).unwrap();
        }
        saved.put_index(map.into());
        saved
    }

    /// Saves, loads, and expects a refusal.
    pub fn refuse(&self, kind: LoadErrorKind, parts: &[&str]) {
        self.save().refuse(kind, parts);
    }

    pub fn load(&self) -> Model {
        self.save().load().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Saved {
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn put_index(&self, weight_map: Value) {
        let index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
        self.put("model.safetensors.index.json", index.to_string().as_bytes());
    }

    pub fn load(&self) -> Result<Model, LoadError> {
        load_folder(self.dir.path())
    }

    /// Loads, and expects one line with the file and all of `parts`; mapped and copied alike.
    pub fn refuse(&self, kind: LoadErrorKind, parts: &[&str]) {
        for access in [WeightAccess::Auto, WeightAccess::Copy] {
            let error = match load_with(self.dir.path(), access) {
                Ok(_) => panic!("loaded, expected a refusal with {parts:?}"),
                Err(error) => error,
            };
            let line = error.to_string();
            assert_eq!(error.kind(), kind, "{line}");
            assert!(!line.contains('\n') && line.len() < 1000, "{line}");
            assert!(line.contains("expected "), "{line}");
            assert!(line.contains("found"), "{line}");
            assert!(line.starts_with(&*self.dir.path().to_string_lossy()), "{line}");
            parts.iter().for_each(|part| assert!(line.contains(part), "{line}\nlacks {part}"));
        }
    }
}

/// Loads a folder.
pub fn load_folder(path: &Path) -> Result<Model, LoadError> {
    load_with(path, WeightAccess::Auto)
}

fn load_with(path: &Path, access: WeightAccess) -> Result<Model, LoadError> {
    let files = ModelFiles::open(&ModelSource::Folder(path.to_owned()))?;
    bitnet_model::load(&files, &mut LoadOptions { access, ..LoadOptions::default() })
}

/// Builds the bytes of a safetensors file around any header text.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn dtype(name: &str) -> Dtype {
    let all = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I32, Dtype::I8, Dtype::U8];
    all.into_iter().find(|dtype| dtype.name() == name).unwrap_or_else(|| panic!("{name}"))
}

/// Rounds towards zero to bf16.
pub fn bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
