//! Pressure as control groups and the kernel would report it, and as the system really enforces it.

use std::path::Path;

use bitnet_testing::temp::TempDir;

use super::*;

/// Writes the files of a machine of 1000 MiB with `free` MiB left.
fn machine(root: &Path, free: u64) {
    std::fs::create_dir_all(root.join("proc/self")).unwrap();
    let text = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", 1000 * 1024, free * 1024);
    std::fs::write(root.join("proc/meminfo"), text).unwrap();
}

fn watched(root: &Path) -> (HybridMemoryPool, Arc<Mutex<Vec<MemoryPressureLevel>>>) {
    let config = MemoryPoolConfig { enable_advanced_tracking: true, ..Default::default() };
    let pool = HybridMemoryPool::builder().config(config).pressure_root(root).build().unwrap();
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = Arc::clone(&seen);
    pool.register_pressure_callback(Box::new(move |level| noted.lock().unwrap().push(level)));
    (pool, seen)
}

#[test]
fn pressure_callbacks_hear_of_changes_only() {
    use MemoryPressureLevel::{Critical, High, Medium};
    let folder = TempDir::new("pressure-machine");
    machine(folder.path(), 900);
    let (pool, seen) = watched(folder.path());
    for (free, level) in [
        (900, MemoryPressureLevel::None),
        (190, High),
        (180, High),
        (230, High),
        (270, Medium),
        (10, Critical),
    ] {
        machine(folder.path(), free);
        assert_eq!(pool.check_pressure(), level, "{free} MiB left");
    }
    assert_eq!(*seen.lock().unwrap(), [High, Medium, Critical]);
    assert_eq!(pool.pressure_level(), Critical);
}

#[test]
fn pressure_of_both_versions_of_control_groups_counts() {
    for version in [1, 2] {
        let folder = TempDir::new("pressure-group");
        let root = folder.path();
        machine(root, 900);
        let (group, line, files) = if version == 1 {
            let files = ("memory.limit_in_bytes", "memory.usage_in_bytes");
            ("sys/fs/cgroup/memory/job", "4:memory:/job\n", files)
        } else {
            ("sys/fs/cgroup/job", "0::/job\n", ("memory.max", "memory.current"))
        };
        std::fs::write(root.join("proc/self/cgroup"), line).unwrap();
        std::fs::create_dir_all(root.join(group)).unwrap();
        std::fs::write(root.join(group).join(files.0), (100 << 20).to_string()).unwrap();
        std::fs::write(root.join(group).join(files.1), (30 << 20).to_string()).unwrap();
        let (pool, _) = watched(root);
        assert_eq!(pool.check_pressure(), MemoryPressureLevel::None);
        std::fs::write(root.join(group).join(files.1), (85 << 20).to_string()).unwrap();
        assert_eq!(pool.check_pressure(), MemoryPressureLevel::High, "version {version}");
        if version == 2 {
            let stall =
                "some avg10=70.00 avg60=0 avg300=0 total=0\nfull avg10=1.00 avg60=0 avg300=0 total=0\n";
            std::fs::write(root.join(group).join("memory.pressure"), stall).unwrap();
            assert_eq!(pool.check_pressure(), MemoryPressureLevel::Critical);
        }
    }
}

#[test]
fn stalls_of_the_whole_machine_count() {
    let folder = TempDir::new("pressure-stalls");
    machine(folder.path(), 900);
    let (pool, _) = watched(folder.path());
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::None);
    std::fs::create_dir_all(folder.path().join("proc/pressure")).unwrap();
    let stall = "some avg10=30.00 avg60=0 avg300=0 total=0\nfull avg10=1.00 avg60=0 avg300=0 total=0\n";
    std::fs::write(folder.path().join("proc/pressure/memory"), stall).unwrap();
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::High);
    let reading = PressureReading::read(folder.path());
    assert_eq!((reading.some_stall, reading.full_stall), (Some(0.3), Some(0.01)));
}

#[test]
fn limit_and_room_are_those_of_one_group() {
    let folder = TempDir::new("pressure-groups");
    let root = folder.path();
    machine(root, 900);
    std::fs::write(root.join("proc/self/cgroup"), "0::/outer/job\n").unwrap();
    let set = |group: &str, limit: u64, used: u64| {
        let group = root.join("sys/fs/cgroup").join(group);
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("memory.max"), (limit << 20).to_string()).unwrap();
        std::fs::write(group.join("memory.current"), (used << 20).to_string()).unwrap();
    };
    let (pool, _) = watched(root);
    // Four fifths of its own limit are left, and a tenth of the limit above.
    set("outer/job", 100, 20);
    set("outer", 800, 720);
    let reading = PressureReading::read(root);
    assert_eq!((reading.limit, reading.available), (Some(800 << 20), Some(80 << 20)));
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::High);
    // Half of either, though the room above is less than its own limit.
    set("outer/job", 100, 50);
    set("outer", 160, 80);
    assert_eq!(PressureReading::read(root).used(), Some(0.5));
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::None);
}

#[test]
fn pressure_comes_from_the_pools_own_limits_too() {
    let folder = TempDir::new("pressure-pool");
    machine(folder.path(), 900);
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        max_large_pool_size: 10 << 20,
        ..Default::default()
    };
    let pool = HybridMemoryPool::builder().config(config).pressure_root(folder.path()).build().unwrap();
    let handle = pool.allocate(9 << 20, 64, &Device::Cpu).unwrap();
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::High);
    pool.deallocate(handle).unwrap();
    assert_eq!(pool.check_pressure(), MemoryPressureLevel::None);
}

/// Set in the child of the test below, whose address space is limited.
const CHILD: &str = "BITNET_TEST_LIMITED_MEMORY";

#[test]
#[cfg(target_os = "linux")]
fn pools_live_within_a_limited_address_space() {
    if std::env::var_os(CHILD).is_some() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut handles = Vec::new();
        let error = loop {
            match pool.allocate_zeroed(16 << 20, 64, &Device::Cpu) {
                Ok(handle) => handles.push(handle),
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        // Far more than the first arena would have reserved is in use, and it works on after a refusal.
        assert!(handles.len() >= 8, "{} blocks", handles.len());
        let count = handles.len();
        pool.deallocate(handles.pop().unwrap()).unwrap();
        handles.push(pool.allocate_zeroed(16 << 20, 64, &Device::Cpu).unwrap());
        assert_eq!(handles.len(), count);
        handles.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
        pool.debug_validate();
        return;
    }
    let name = "memory::tests::pressure::pools_live_within_a_limited_address_space";
    run_alone(name, "ulimit -v 700000", CHILD);
}
