//! Memory limits of Linux control groups, versions 1 and 2.
//!
//! Every group from the process's own up to the mount point may set one; the tightest counts. In a
//! container the path that the kernel states may be the host's and not exist below the mount point: the
//! walk then finds only the groups that do.

use std::path::{Path, PathBuf};

/// What the limits of all groups come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    /// The tightest limit.
    pub(crate) limit: u64,
    /// The least room left under any.
    pub(crate) room: u64,
    /// Limit and room of the one group that has the smallest share of its limit left.
    pub(crate) fullest: (u64, u64),
}

/// Returns the share that is left of a limit, given with its room.
pub(crate) fn share_left(&(limit, room): &(u64, u64)) -> f64 {
    room as f64 / limit.max(1) as f64
}

/// Names of the files of one version.
struct Version {
    limit: &'static str,
    usage: &'static str,
    /// Field of `memory.stat`: file pages that the kernel drops first, so not really in use.
    inactive: &'static str,
}

const V1: Version = Version {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};
const V2: Version = Version { limit: "memory.max", usage: "memory.current", inactive: "inactive_file" };

/// Reads the limit that applies to this process below `root`; limits of `total` bytes or more are none.
pub(crate) fn memory_limit(root: &Path, total: Option<u64>) -> Option<MemoryLimit> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut tightest: Option<MemoryLimit> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (version, mount) = if controllers.is_empty() {
            (&V2, root.join("sys/fs/cgroup"))
        } else if controllers.split(',').any(|name| name == "memory") {
            (&V1, root.join("sys/fs/cgroup/memory"))
        } else {
            continue;
        };
        for group in lineage(&mount, path) {
            let Some(found) = read_group(&group, version).filter(|f| total.is_none_or(|t| f.limit < t))
            else {
                continue;
            };
            tightest = Some(match tightest {
                None => found,
                Some(other) => MemoryLimit {
                    limit: found.limit.min(other.limit),
                    room: found.room.min(other.room),
                    fullest: match share_left(&found.fullest) < share_left(&other.fullest) {
                        true => found.fullest,
                        false => other.fullest,
                    },
                },
            });
        }
    }
    tightest
}

/// Returns the folders of a group and all above it, down to the mount point itself.
fn lineage(mount: &Path, path: &str) -> Vec<PathBuf> {
    let names: Vec<_> = path.split('/').filter(|name| !matches!(*name, "" | "." | "..")).collect();
    (0..=names.len()).rev().map(|depth| mount.join(names[..depth].join("/"))).collect()
}

fn read_group(folder: &Path, version: &Version) -> Option<MemoryLimit> {
    let number = |name: &str| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // Version 2 spells "no limit" as `max`, which does not parse.
    let limit = number(version.limit)?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == version.inactive { value.trim().parse::<u64>().ok() } else { None }
    });
    let used = number(version.usage).unwrap_or(0).saturating_sub(inactive.unwrap_or(0));
    let room = limit.saturating_sub(used);
    Some(MemoryLimit { limit, room, fullest: (limit, room) })
}
