//! How much memory the process has held at most.

/// Returns the peak resident set of this process in bytes, file pages included.
///
/// The kernel rounds, so a later call may state a few pages less.
/// `None` where the system is not asked (neither Linux nor macOS) or does not say.
///
/// Source: `VmHWM` of `/proc/self/status`, or `getrusage`.
pub fn peak_resident_bytes() -> Option<u64> {
    system::peak_resident_bytes()
}

#[cfg(target_os = "linux")]
mod system {
    pub(super) fn peak_resident_bytes() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        crate::device::machine::kibibytes(&status, "VmHWM")
    }
}

#[cfg(target_os = "macos")]
#[allow(unsafe_code)]
mod system {
    pub(super) fn peak_resident_bytes() -> Option<u64> {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the pointer is valid for writing one `rusage`.
        if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: getrusage returned 0, so it has filled the structure.
        let usage = unsafe { usage.assume_init() };
        // Bytes on macOS, unlike the kibibytes of other systems.
        u64::try_from(usage.ru_maxrss).ok()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod system {
    pub(super) fn peak_resident_bytes() -> Option<u64> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn device_memory_peak_sees_touched_pages() {
        let size = 64 << 20;
        let before = peak_resident_bytes().unwrap();
        assert!(before > 100 << 10);
        let touched = std::hint::black_box(vec![1u8; size]);
        let after = peak_resident_bytes().unwrap();
        assert!(after >= size as u64, "{before} to {after}");
        drop(touched);
        // The kernel sums per-CPU counters with some slack, so the peak may be stated a little lower now.
        assert!(peak_resident_bytes().unwrap() >= size as u64);
    }
}
