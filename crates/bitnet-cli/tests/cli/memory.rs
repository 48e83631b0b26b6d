//! Where memory comes from, and what is told of it.

use bitnet_core::memory::PoolSnapshot;
use bitnet_testing::temp::TempDir;

use crate::program::{output, text};

const STORY: [&str; 6] = ["run", "Once upon a time", "--seed", "7", "--max-tokens", "12"];

#[test]
fn a_snapshot_tells_of_every_live_block() {
    let folder = TempDir::new("memory-snapshot");
    let file = folder.path().join("pool.json");
    let told = output(&[&STORY[..], &["--memory-snapshot", text(&file)]].concat()).ok();
    assert_eq!(told.stdout, output(&STORY).ok().stdout);
    let snapshot = PoolSnapshot::load(&file).unwrap();
    let blocks = snapshot.blocks.as_ref().unwrap();
    assert_eq!(blocks.iter().map(|block| block.size).sum::<u64>(), snapshot.metrics.current_allocated);
    assert!(blocks.len() as u64 == snapshot.metrics.active_allocations() && !blocks.is_empty());
    for part in ["kv", "activations", "scratch"] {
        assert!(blocks.iter().any(|block| block.tag == part), "{part}: {blocks:?}");
    }
    // For PyTorch's memory_viz and for Perfetto.
    let (viz, trace) = (folder.path().join("pool.pickle"), folder.path().join("pool.trace"));
    for file in [&viz, &trace] {
        output(&[&STORY[..], &["--memory-snapshot", text(file)]].concat()).ok();
    }
    let viz = std::fs::read(viz).unwrap();
    assert!(viz.starts_with(&[0x80, 2]) && viz.ends_with(b"."));
    for field in ["segments", "device_traces", "alloc", "weights", "kv", "activations", "scratch"] {
        assert!(viz.windows(field.len()).any(|window| window == field.as_bytes()), "{field}");
    }
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|event| event["cat"] == "kv"));
    let absent = folder.path().join("absent/pool.json");
    let refused = output(&[&STORY[..], &["--memory-snapshot", text(&absent)]].concat());
    assert!(refused.failed(1).contains("absent/pool.json: cannot write"), "{refused:?}");
}

#[cfg(target_os = "linux")]
mod shared {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::Child;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::program::{bitnet, copy_model};

    /// Returns how many files of shared memory there are of a weight file.
    fn objects(weights: &Path) -> usize {
        let found = std::fs::metadata(weights).unwrap();
        let part = format!("-weights-{:x}-{:x}-{:x}-", found.dev(), found.ino(), found.len());
        let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(&part)).count()
    }

    /// Returns the share of a process in shared memory, and what of it is resident, in KiB.
    fn shares(process: &Child) -> Option<(u64, u64)> {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{}/{file}", process.id())).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        Some((field("smaps_rollup", "Pss_Shmem:")?, field("status", "RssShmem:")?))
    }

    #[test]
    fn weights_shared_by_two_programs_are_in_memory_once() {
        let folder = TempDir::new("shared-weights");
        copy_model(folder.path());
        let (model, weights) = (text(folder.path()), folder.path().join("model.safetensors"));
        let size = std::fs::metadata(&weights).unwrap().len() >> 10;
        let start = || {
            let mut command = bitnet(&["chat", "--model", model, "--weights", "shared", "--threads", "1"]);
            command.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let mut both = [start(), start()];
        let deadline = Instant::now() + Duration::from_secs(60);
        let figures = loop {
            let figures: Vec<_> = both.iter().filter_map(shares).collect();
            if figures.len() == 2 && figures.iter().all(|&(_, resident)| resident >= size) {
                break figures;
            }
            assert!(Instant::now() < deadline, "{figures:?} of {size} KiB");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(objects(&weights), 1);
        let sum: u64 = figures.iter().map(|&(share, _)| share).sum();
        println!("weights {size} KiB; PSS, RSS of shared memory in KiB: {figures:?}");
        assert!(sum >= size && sum < size + size / 4, "{figures:?} of {size} KiB");
        // The one that goes first leaves the weights to the other.
        for process in &mut both {
            drop(process.stdin.take());
            assert!(process.wait().unwrap().success());
        }
        assert_eq!(objects(&weights), 0);
        let shared = output(&[&STORY[..], &["--model", model, "--weights", "shared"]].concat()).ok();
        let mapped = output(&[&STORY[..], &["--model", model, "--weights", "mmap"]].concat()).ok();
        assert_eq!((shared.stdout, objects(&weights)), (mapped.stdout, 0));
    }
}
