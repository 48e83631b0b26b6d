//! Machines made of files.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::caches::CacheKind;
use super::*;

/// A root folder that is removed at the end of the test.
struct Root(PathBuf);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique =
            format!("bitnet-machine-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Root(std::env::temp_dir().join(unique));
        fs::create_dir_all(&root.0).unwrap();
        for (path, text) in files {
            root.write(path, text);
        }
        root
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds a core with its own L1 and an L3 shared by `l3`.
    fn add_cpu(&self, cpu: usize, core: usize, l3: &str) {
        let base = format!("sys/devices/system/cpu/cpu{cpu}");
        self.write(&format!("{base}/topology/physical_package_id"), "0\n");
        self.write(&format!("{base}/topology/core_id"), &format!("{core}\n"));
        let pair = format!("{}-{}", core * 2, core * 2 + 1);
        let caches = [
            ("1", "Data", "48K", &pair[..]),
            ("1", "Instruction", "32K", &pair),
            ("3", "Unified", "32768K", l3),
        ];
        for (index, (level, kind, size, shared)) in caches.into_iter().enumerate() {
            let cache = format!("{base}/cache/index{index}");
            self.write(&format!("{cache}/level"), level);
            self.write(&format!("{cache}/type"), kind);
            self.write(&format!("{cache}/size"), size);
            self.write(&format!("{cache}/coherency_line_size"), "64\n");
            self.write(&format!("{cache}/shared_cpu_list"), shared);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MEMINFO: &str = "MemTotal:       8000000 kB\nMemFree:  1 kB\nMemAvailable:   4000000 kB\n";
const KIB: u64 = 1024;

#[test]
fn device_machine_without_files_is_unknown_but_has_cores() {
    let root = Root::new(&[]);
    let machine = MachineInfo::read_below(&root.0, 3);
    assert_eq!((machine.logical_cores, machine.physical_cores), (3, None));
    assert_eq!((machine.cpu_model, machine.memory_total, machine.memory_available), (None, None, None));
    assert!(machine.caches.is_empty());
}

#[test]
fn device_machine_counts_the_cores_and_caches_that_it_may_use() {
    let root = Root::new(&[
        (
            "proc/cpuinfo",
            "processor : 0\nmodel name\t: A CPU: the fast one\n\nprocessor : 1\nmodel name : other\n",
        ),
        ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1,4-5,90\n"),
        ("sys/devices/system/cpu/online", "0-5\n"),
    ]);
    for cpu in 0..6 {
        root.add_cpu(cpu, cpu / 2, if cpu < 4 { "0-3" } else { "4-5" });
    }
    let machine = MachineInfo::read_below(&root.0, 4);
    assert_eq!(machine.cpu_model.as_deref(), Some("A CPU: the fast one"));
    assert_eq!(machine.physical_cores, Some(2));
    let found: Vec<_> = machine.caches.iter().map(|c| (c.level, c.kind, c.bytes, c.instances)).collect();
    assert_eq!(
        found,
        [
            (1, CacheKind::Data, 48 * KIB, 2),
            (1, CacheKind::Instruction, 32 * KIB, 2),
            (3, CacheKind::Unified, 32768 * KIB, 2),
        ]
    );
    assert_eq!(machine.caches[0].line_bytes, Some(64));
    assert_eq!(machine.last_level_cache_bytes(), Some(2 * 32768 * KIB));
    // A quota of one core leaves one, however many the mask allows.
    assert_eq!(MachineInfo::read_below(&root.0, 1).physical_cores, Some(1));
}

#[test]
fn device_memory_without_a_limit_is_that_of_the_machine() {
    let root = Root::new(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "4:memory:/a\n0::/\n"),
        ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory.max", "max\n"),
    ]);
    let machine = MachineInfo::read_below(&root.0, 1);
    assert_eq!(machine.memory_total, Some(8_000_000 * KIB));
    assert_eq!(machine.memory_limit, None);
    assert_eq!(machine.memory_available, Some(4_000_000 * KIB));
}

#[test]
fn device_memory_obeys_the_tightest_group_of_version_2() {
    let root = Root::new(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "0::/outer/inner\n"),
        ("sys/fs/cgroup/outer/memory.max", "2000000000\n"),
        ("sys/fs/cgroup/outer/memory.current", "1900000000\n"),
        ("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 400000000\n"),
        ("sys/fs/cgroup/outer/inner/memory.max", "1000000000\n"),
        ("sys/fs/cgroup/outer/inner/memory.current", "100000000\n"),
    ]);
    let machine = MachineInfo::read_below(&root.0, 1);
    assert_eq!(machine.memory_limit, Some(1_000_000_000));
    // The outer group is the larger one, and the fuller one.
    assert_eq!(machine.memory_available, Some(500_000_000));
    root.write("sys/fs/cgroup/outer/inner/memory.current", "990000000\n");
    assert_eq!(MachineInfo::read_below(&root.0, 1).memory_available, Some(10_000_000));
}

#[test]
fn device_memory_obeys_version_1_where_the_stated_path_is_of_the_host() {
    let root = Root::new(&[
        ("proc/meminfo", MEMINFO),
        ("proc/self/cgroup", "9:name=x:/\n4:cpu,memory:/docker/abc\n0::/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000000\n"),
        ("sys/fs/cgroup/memory/memory.usage_in_bytes", "2500000000\n"),
        ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 500000000\n"),
    ]);
    let machine = MachineInfo::read_below(&root.0, 1);
    assert_eq!(machine.memory_limit, Some(3_000_000_000));
    assert_eq!(machine.memory_available, Some(1_000_000_000));
}

#[test]
fn device_cpu_lists_parse_or_are_refused() {
    let list = |text| parse_cpu_list(text).map(|cpus| cpus.into_iter().collect::<Vec<_>>());
    assert_eq!(list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
    for bad in ["", "a", "1-", "0-99999999999", "0-70000"] {
        assert_eq!(list(bad), None, "{bad}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn device_machine_here_is_plausible() {
    let machine = MachineInfo::read();
    assert!(machine.logical_cores >= 1);
    let (total, available) = (machine.memory_total.unwrap(), machine.memory_available.unwrap());
    assert!(available > 0 && available <= total);
    assert!(machine.memory_limit.is_none_or(|limit| limit < total));
}
