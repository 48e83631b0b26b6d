//! How much memory the machine has, and how much of it is free.
//!
//! Linux tells it in a file below a root folder, which tests may supply. Other systems are asked through `sysinfo`.

use std::path::Path;

/// Bytes of memory, and bytes that can be taken without swapping. `None` where the system does not say.
pub(crate) type Machine = (Option<u64>, Option<u64>);

/// Reads `proc/meminfo` below `root`; where that is not there and `root` is the system's own, asks the system.
pub(crate) fn of_machine(root: &Path) -> Machine {
    match std::fs::read_to_string(root.join("proc/meminfo")) {
        Ok(text) => {
            let field = |name| super::machine::kibibytes(&text, name);
            (field("MemTotal"), field("MemAvailable"))
        }
        Err(_) if root == Path::new("/") => ask(),
        Err(_) => (None, None),
    }
}

#[cfg(target_os = "linux")]
fn ask() -> Machine {
    (None, None)
}

#[cfg(not(target_os = "linux"))]
fn ask() -> Machine {
    // A system that the library does not know tells nothing.
    let Ok(mut system) = sysinfo::System::new() else { return (None, None) };
    system.refresh_memory();
    let known = |bytes: u64| (bytes > 0).then_some(bytes);
    (known(system.total_memory()), known(system.available_memory()))
}

/// Returns the bytes of addresses that this process may use, and how many are left (`setrlimit` with
/// `RLIMIT_AS`), where there is a limit.
pub(crate) fn address_space(root: &Path) -> Option<(u64, u64)> {
    let text = |name: &str| std::fs::read_to_string(root.join("proc/self").join(name)).ok();
    let limits = text("limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited" is no number.
    let limit = line.split_whitespace().next()?.parse::<u64>().ok()?;
    let status = text("status")?;
    let used = super::machine::kibibytes(&status, "VmSize")?;
    Some((limit, limit.saturating_sub(used)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_testing::temp::TempDir;

    #[test]
    fn address_limits_are_read_where_there_are_some() {
        let folder = TempDir::new("address-space");
        let root = folder.path();
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(root.join("proc/self/status"), "Name: x\nVmSize:\t  3 kB\n").unwrap();
        let write = |soft: &str| {
            let text = format!(
                "Limit                     Soft Limit           Hard Limit           Units     \nMax address space         {soft}            unlimited            bytes     \n"
            );
            std::fs::write(root.join("proc/self/limits"), text).unwrap();
        };
        write("unlimited");
        assert_eq!(address_space(root), None);
        write("10000");
        assert_eq!(address_space(root), Some((10_000, 10_000 - 3 * 1024)));
        write("1000");
        assert_eq!(address_space(root), Some((1000, 0)));
    }

    #[test]
    fn this_machine_has_memory() {
        if !cfg!(any(target_os = "linux", target_os = "macos", target_os = "windows")) {
            println!("SKIPPED: this system may not say");
            return;
        }
        let (total, available) = of_machine(Path::new("/"));
        assert!(total.unwrap() >= available.unwrap());
        assert_eq!(of_machine(Path::new("/nowhere-at-all")), (None, None));
    }
}
