//! A barrier with two unequal sides: between its own store and load, a thread that works alone tells only the
//! compiler to keep their order; whoever comes in between makes the kernel run a barrier on every processor that
//! runs this process (`membarrier`).
//!
//! Where the kernel has no such call, [`available`] says so and nobody may rely on the light side.
#![allow(unsafe_code)]

pub(super) use system::{available, heavy, light};

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod system {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
    use std::time::Duration;

    /// Time after which every store of any processor has long reached the others: they take microseconds, and
    /// whatever takes a thread off its processor ends them at once.
    const DRAIN: Duration = Duration::from_millis(10);

    /// Set when the kernel has taken back what it granted.
    static REFUSED: AtomicBool = AtomicBool::new(false);

    /// Reports whether the heavy side works, and prepares for it.
    pub(in crate::memory) fn available() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| call(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
            && !REFUSED.load(Ordering::Relaxed)
    }

    /// The side that costs nothing.
    #[inline]
    pub(in crate::memory) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    /// The side that costs a call of the system.
    ///
    /// The kernel may refuse what it granted in [`available`]: a program may forbid itself calls of the system at
    /// any time. Then the barrier is a wait, and `available` says no from then on.
    pub(in crate::memory) fn heavy() {
        if !call(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED) {
            REFUSED.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            std::thread::sleep(DRAIN);
            fence(Ordering::SeqCst);
        }
    }

    fn call(command: impl Into<i64>) -> bool {
        // SAFETY: the call takes numbers alone and changes no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command.into(), 0, 0) == 0 }
    }
}

#[cfg(loom)]
mod system {
    use loom::sync::atomic::{Ordering, fence};

    pub(in crate::memory) fn available() -> bool {
        true
    }

    pub(in crate::memory) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(in crate::memory) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(not(any(all(target_os = "linux", not(miri)), loom)))]
mod system {
    use std::sync::atomic::{Ordering, compiler_fence, fence};

    pub(in crate::memory) fn available() -> bool {
        false
    }

    #[inline]
    pub(in crate::memory) fn light() {
        compiler_fence(Ordering::SeqCst);
    }

    pub(in crate::memory) fn heavy() {
        fence(Ordering::SeqCst);
    }
}
