//! CPU caches, as Linux lists them in sysfs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheKind {
    /// Data.
    Data,
    /// Instructions.
    Instruction,
    /// Both.
    Unified,
}

/// All caches of one level, kind and size that the usable cores have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// 1 is the one nearest to the core.
    pub level: u8,
    /// What it holds.
    pub kind: CacheKind,
    /// Size of one of them in bytes.
    pub bytes: u64,
    /// Line size in bytes, where stated.
    pub line_bytes: Option<u64>,
    /// Number of them.
    pub instances: usize,
}

/// Reads the caches of the given logical CPUs from `cpu_folder` (`/sys/devices/system/cpu`), nearest first.
pub(super) fn read(cpu_folder: &Path, cpus: &[usize]) -> Vec<Cache> {
    let mut found: BTreeMap<Key, (Option<u64>, BTreeSet<String>)> = BTreeMap::new();
    for cpu in cpus {
        let folder = cpu_folder.join(format!("cpu{cpu}/cache"));
        for index in 0.. {
            let Some((key, line, shared)) = read_one(&folder.join(format!("index{index}"))) else {
                break;
            };
            let entry = found.entry(key).or_default();
            entry.0 = entry.0.or(line);
            // A cache whose sharing is not stated counts as the core's own.
            entry.1.insert(shared.unwrap_or_else(|| format!("cpu {cpu}")));
        }
    }
    let caches = found.into_iter().map(|((level, kind, bytes), (line_bytes, instances))| Cache {
        level,
        kind,
        bytes,
        line_bytes,
        instances: instances.len(),
    });
    caches.collect()
}

/// Level, kind and size.
type Key = (u8, CacheKind, u64);

/// Reads one cache: its key, its line size, and the list of CPUs that share it.
fn read_one(folder: &Path) -> Option<(Key, Option<u64>, Option<String>)> {
    let field = |name: &str| Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_string());
    let kind = match field("type")?.as_str() {
        "Data" => CacheKind::Data,
        "Instruction" => CacheKind::Instruction,
        "Unified" => CacheKind::Unified,
        _ => return None,
    };
    let key = (field("level")?.parse().ok()?, kind, size(&field("size")?)?);
    let line = field("coherency_line_size").and_then(|text| text.parse().ok());
    Some((key, line, field("shared_cpu_list")))
}

/// Parses `48K`, `32M` or plain bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        b'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Returns the bytes of the highest level of data caches, all instances together.
pub(super) fn last_level_bytes(caches: &[Cache]) -> Option<u64> {
    let data = || caches.iter().filter(|cache| cache.kind != CacheKind::Instruction);
    let level = data().map(|cache| cache.level).max()?;
    Some(data().filter(|cache| cache.level == level).map(|cache| cache.bytes * cache.instances as u64).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_cache_sizes_parse() {
        assert_eq!(
            ["48K", "32M", "1G", "64"].map(size),
            [Some(48 << 10), Some(32 << 20), Some(1 << 30), Some(64)]
        );
        assert_eq!(["", "K", "-1K", "x"].map(size), [None; 4]);
    }
}
