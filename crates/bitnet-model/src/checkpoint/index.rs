//! model.safetensors.index.json: which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use crate::error::{Item, LoadError, LoadErrorKind};

/// Largest index accepted: some hundred bytes a tensor.
pub(super) const INDEX_LIMIT: u64 = 64 << 20;
/// Most shards accepted: each is an open mapping, and published models have at most a few hundred.
const MAX_SHARDS: usize = 4096;

/// The shards of an index, each with the tensors that it should hold.
pub(super) type Shards = BTreeMap<String, Vec<String>>;

/// Parses an index.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Shards, LoadError> {
    let refuse = |item: Item, expected: &str, found: String| {
        LoadError::mismatch(LoadErrorKind::Format, path, item, expected, found)
    };
    let json: Value =
        serde_json::from_slice(bytes).map_err(|error| refuse(Item::File, "valid JSON", error.to_string()))?;
    let weight_map = || Item::Field("weight_map".into());
    let Some(map) = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        let found = json.get("weight_map").map_or("nothing".into(), Value::to_string);
        return Err(refuse(weight_map(), "an object of tensor names and file names", found));
    };
    let mut shards = Shards::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_plain_file_name(name)).ok_or_else(|| {
            let expected = "weight_map to name a file in the same folder";
            refuse(Item::Tensor(tensor.clone()), expected, file.to_string())
        })?;
        match shards.get_mut(name) {
            Some(tensors) => tensors.push(tensor.clone()),
            None => {
                shards.insert(name.to_owned(), vec![tensor.clone()]);
            }
        }
    }
    if shards.len() > MAX_SHARDS {
        return Err(refuse(weight_map(), "at most 4096 files", shards.len().to_string()));
    }
    Ok(shards)
}

/// Reports whether `name` is a single component that stays in its folder on every system: no separator,
/// no parent, no drive.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    single && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_file_names_pass() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b", "./x", "x/"] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
