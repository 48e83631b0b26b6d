//! What the machine is: processor, caches, memory, and how much of it this process may use.
//!
//! Linux tells all of it in files, which are read below a root folder so that tests can supply their own.
//! Elsewhere only the number of usable cores and the memory are known.

use std::collections::BTreeSet;
use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::Path;

use super::caches::{self, Cache};
use super::{cgroup, memory};

/// The machine as this process sees it. `None` and an empty list mean that the system does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineInfo {
    /// Operating system, as Rust names it.
    pub os: &'static str,
    /// Instruction-set architecture, as Rust names it.
    pub arch: &'static str,
    /// Marketing name of the processor.
    pub cpu_model: Option<String>,
    /// Threads that run at once: the affinity mask, cut to the CPU quota of the control group.
    pub logical_cores: usize,
    /// Cores behind them.
    pub physical_cores: Option<usize>,
    /// Caches of the usable cores, nearest first.
    pub caches: Vec<Cache>,
    /// Bytes of memory that the machine has.
    pub memory_total: Option<u64>,
    /// Bytes of memory that the control group allows, where that is less.
    pub memory_limit: Option<u64>,
    /// Bytes that can be allocated now without swapping, under that limit.
    pub memory_available: Option<u64>,
}

impl MachineInfo {
    /// Reads the machine: a few files per core.
    pub fn read() -> Self {
        let logical_cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::read_below(Path::new("/"), logical_cores)
    }

    /// Returns the bytes of the last level of data caches, all instances together.
    pub fn last_level_cache_bytes(&self) -> Option<u64> {
        caches::last_level_bytes(&self.caches)
    }

    fn read_below(root: &Path, logical_cores: usize) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let cpu_folder = root.join("sys/devices/system/cpu");
        let allowed = usable_cpus(&text("proc/self/status"), &text("sys/devices/system/cpu/online"));
        let (memory_total, available) = memory::of_machine(root);
        let limit = cgroup::memory_limit(root, memory_total);
        MachineInfo {
            os: OS,
            arch: ARCH,
            cpu_model: cpu_model(&text("proc/cpuinfo")),
            logical_cores,
            physical_cores: physical_cores(&cpu_folder, &allowed).map(|cores| cores.min(logical_cores)),
            caches: caches::read(&cpu_folder, &allowed),
            memory_total,
            memory_limit: limit.map(|group| group.limit),
            memory_available: match (available, limit) {
                (Some(machine), Some(group)) => Some(machine.min(group.room)),
                (machine, group) => machine.or(group.map(|group| group.room)),
            },
        }
    }
}

/// Returns the bytes of a `Name:  123 kB` line of a `/proc` file.
pub(crate) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = field(text, name)?.strip_suffix("kB")?.trim_end();
    value.parse::<u64>().ok()?.checked_mul(1024)
}

fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    // Arm kernels have no "model name"; some boards state one of the others.
    let names = ["model name", "Model", "Hardware"];
    names.into_iter().find_map(|name| field(cpuinfo, name)).filter(|model| !model.is_empty()).map(Into::into)
}

/// Returns the logical CPUs that the affinity mask allows, or all that are online where it is not stated.
fn usable_cpus(status: &str, online: &str) -> Vec<usize> {
    let online = parse_cpu_list(online.trim());
    match (field(status, "Cpus_allowed_list").and_then(parse_cpu_list), online) {
        // The mask may name CPUs that do not exist.
        (Some(allowed), Some(online)) => allowed.intersection(&online).copied().collect(),
        (allowed, online) => allowed.or(online).unwrap_or_default().into_iter().collect(),
    }
}

/// Parses a list such as `0-3,8,10-11`.
fn parse_cpu_list(text: &str) -> Option<BTreeSet<usize>> {
    /// Above any kernel's limit: a list that claims more is not one.
    const MOST_CPUS: usize = 1 << 16;
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MOST_CPUS {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

fn physical_cores(cpu_folder: &Path, cpus: &[usize]) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for cpu in cpus {
        let id = |name: &str| {
            let path = cpu_folder.join(format!("cpu{cpu}/topology/{name}"));
            fs::read_to_string(path).ok()?.trim().parse::<i64>().ok()
        };
        cores.insert((id("physical_package_id")?, id("core_id")?));
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests;
