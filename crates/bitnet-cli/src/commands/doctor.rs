//! `bitnet doctor`: what this machine and this build can do.

use std::collections::BTreeSet;

use anyhow::Result;
use bitnet_core::device::{self, CacheKind, MachineInfo, read_bandwidth};
use bitnet_core::error::{BitNetError, ErrorKind};
use bitnet_kernels::Isa;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::failure;
use crate::output::{Out, SCHEMA, bytes};

/// Environment variables that change what the program does, and how.
const KNOBS: &[(&str, &str)] = &[
    ("BITNET_ISA", "forces an instruction-set tier"),
    ("XDG_DATA_HOME", "folder below which `bitnet chat` keeps its history, where it is the system's habit"),
    #[cfg(feature = "hub")]
    ("HF_HUB_CACHE", "folder of fetched models"),
    #[cfg(feature = "hub")]
    ("HF_HOME", "folder above that of fetched models"),
    #[cfg(feature = "hub")]
    ("XDG_CACHE_HOME", "folder above that of fetched models, where neither of the two is set"),
    #[cfg(feature = "hub")]
    ("HF_HUB_OFFLINE", "forbids to fetch models"),
    #[cfg(feature = "hub")]
    ("HF_ENDPOINT", "address of the hub"),
    #[cfg(feature = "hub")]
    (TOKEN, "token for models that are not public"),
];

/// The variable whose value is nobody's business.
const TOKEN: &str = "HF_TOKEN";

#[derive(Serialize)]
struct Report {
    schema: u32,
    version: &'static str,
    machine: Machine,
    isa: Isas,
    devices: Vec<DeviceState>,
    bandwidth: Vec<Bandwidth>,
    knobs: Vec<Knob>,
    features: Vec<Feature>,
}

#[derive(Serialize)]
struct Machine {
    os: &'static str,
    arch: &'static str,
    cpu: Option<String>,
    logical_cores: usize,
    physical_cores: Option<usize>,
    caches: Vec<Cache>,
    memory_bytes: Option<u64>,
    memory_limit_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Cache {
    level: u8,
    kind: &'static str,
    bytes: u64,
    instances: usize,
}

#[derive(Serialize)]
struct Isas {
    /// Null when BITNET_ISA names one that cannot be used.
    selected: Option<&'static str>,
    tiers: Vec<Tier>,
}

#[derive(Serialize)]
struct Tier {
    name: &'static str,
    available: bool,
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct DeviceState {
    device: String,
    available: bool,
    reason: Option<String>,
}

#[derive(Serialize)]
struct Bandwidth {
    threads: usize,
    bytes_per_s: f64,
    method: &'static str,
    buffer_bytes: usize,
}

#[derive(Serialize)]
struct Knob {
    name: &'static str,
    value: Option<String>,
    effect: &'static str,
}

#[derive(Serialize)]
struct Feature {
    name: &'static str,
    on: bool,
}

/// Runs the command. A tier that is forced and cannot be used ends in a usage error, after the report.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let selected = Isa::select();
    let report = collect(selected.as_ref().ok().copied());
    let mut out = Out::new();
    if args.json {
        out.json(&report)?
    } else {
        print(&report, &mut out)?
    }
    out.flush()?;
    match selected {
        Ok(_) => Ok(()),
        Err(error) => Err(failure::usage(format!("BITNET_ISA: {error}"))),
    }
}

fn collect(selected: Option<Isa>) -> Report {
    let machine = MachineInfo::read();
    let threads = BTreeSet::from([1, machine.logical_cores]);
    let tier =
        |isa: Isa| Tier { name: isa.name(), available: isa.missing().is_none(), reason: isa.missing() };
    let devices = device::candidates().into_iter().map(|(device, usable)| DeviceState {
        device: device.to_string(),
        available: usable.is_ok(),
        reason: usable.err().map(|error| reason(&error)),
    });
    let knobs = KNOBS.iter().map(|&(name, effect)| {
        let value = std::env::var_os(name).map(|value| match name {
            TOKEN => "(hidden)".into(),
            _ => value.to_string_lossy().into_owned(),
        });
        Knob { name, value, effect }
    });
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        machine: describe(machine),
        isa: Isas { selected: selected.map(Isa::name), tiers: Isa::ALL.map(tier).into() },
        devices: devices.collect(),
        bandwidth: threads.into_iter().map(measure).collect(),
        knobs: knobs.collect(),
        features: features(),
    }
}

/// Returns why a device cannot be used, without its name, which stands beside.
fn reason(error: &BitNetError) -> String {
    match error.kind() {
        ErrorKind::DeviceUnavailable { reason, .. } => reason.clone(),
        _ => error.to_string(),
    }
}

fn describe(machine: MachineInfo) -> Machine {
    let caches = machine.caches.iter().map(|cache| Cache {
        level: cache.level,
        kind: match cache.kind {
            CacheKind::Data => "data",
            CacheKind::Instruction => "instruction",
            CacheKind::Unified => "unified",
        },
        bytes: cache.bytes,
        instances: cache.instances,
    });
    Machine {
        os: machine.os,
        arch: machine.arch,
        caches: caches.collect(),
        cpu: machine.cpu_model,
        logical_cores: machine.logical_cores,
        physical_cores: machine.physical_cores,
        memory_bytes: machine.memory_total,
        memory_limit_bytes: machine.memory_limit,
        memory_available_bytes: machine.memory_available,
    }
}

fn measure(threads: usize) -> Bandwidth {
    let found = read_bandwidth(threads);
    let bytes_per_s = if found.bytes_per_second > 0.0 { found.bytes_per_second } else { f64::NAN };
    Bandwidth {
        threads: found.threads,
        bytes_per_s,
        method: found.method.name(),
        buffer_bytes: found.buffer_bytes,
    }
}

fn features() -> Vec<Feature> {
    let all = [
        ("fairytales", cfg!(feature = "fairytales")),
        ("simd", cfg!(feature = "simd")),
        ("parallel", cfg!(feature = "parallel")),
        ("mmap", cfg!(feature = "mmap")),
        ("tokenizers", cfg!(feature = "tokenizers")),
        ("tracing", cfg!(feature = "tracing")),
        ("hub", cfg!(feature = "hub")),
    ];
    all.into_iter().map(|(name, on)| Feature { name, on }).collect()
}

fn print(report: &Report, out: &mut Out) -> Result<()> {
    let machine = &report.machine;
    let size = |count: Option<u64>| count.map_or("unknown".into(), bytes);
    out.line(&format!("bitnet     {}", report.version))?;
    out.line(&format!("system     {} on {}", machine.os, machine.arch))?;
    out.line(&format!("processor  {}", machine.cpu.as_deref().unwrap_or("unknown")))?;
    let physical = machine.physical_cores.map_or("unknown".into(), |cores| cores.to_string());
    out.line(&format!("cores      {} threads at once, {physical} physical", machine.logical_cores))?;
    for cache in &machine.caches {
        out.line(&format!(
            "cache      level {} {}: {} x {}",
            cache.level,
            cache.kind,
            cache.instances,
            bytes(cache.bytes)
        ))?;
    }
    out.line(&format!(
        "memory     {}, {} available",
        size(machine.memory_bytes),
        size(machine.memory_available_bytes)
    ))?;
    let limit = machine.memory_limit_bytes.map_or("none".into(), bytes);
    out.line(&format!("limit      {limit} (control group)"))?;
    for tier in &report.isa.tiers {
        let chosen = if report.isa.selected == Some(tier.name) { " (selected)" } else { "" };
        out.line(&format!("isa        {}: {}{chosen}", tier.name, tier.reason.unwrap_or("available")))?;
    }
    for device in &report.devices {
        out.line(&format!(
            "device     {}: {}",
            device.device,
            device.reason.as_deref().unwrap_or("available")
        ))?;
    }
    for found in &report.bandwidth {
        let rate = found.bytes_per_s / 1e9;
        out.line(&format!("bandwidth  {rate:.1} GB/s read by {} threads ({})", found.threads, found.method))?;
    }
    for knob in &report.knobs {
        let value = knob.value.as_deref().map_or("not set".into(), |value| format!("{value:?}"));
        out.line(&format!("knob       {} = {value}: {}", knob.name, knob.effect))?;
    }
    for feature in &report.features {
        out.line(&format!("feature    {}: {}", feature.name, if feature.on { "on" } else { "off" }))?;
    }
    Ok(())
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::*;

    /// Every variable by whose name the settings of the hub are looked up; HOME says where a user is at home.
    #[test]
    fn every_setting_of_the_hub_is_a_knob() {
        let source = include_str!("../hub/settings.rs");
        let source = source.split("#[cfg(test)]").next().unwrap();
        let words = source.split('"').skip(1).step_by(2);
        let variables: Vec<_> =
            words.filter(|word| word.starts_with("HF_") || word.starts_with("XDG_")).collect();
        assert!(variables.contains(&"XDG_CACHE_HOME") && variables.contains(&"HF_ENDPOINT"), "{variables:?}");
        for variable in variables.iter().filter(|word| !word.contains(' ')) {
            assert!(KNOBS.iter().any(|(name, _)| name == variable), "{variable}");
        }
    }
}
