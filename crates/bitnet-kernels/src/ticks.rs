//! The processor's own count of time, where it counts at one rate whatever its cores do.
//!
//! Reading it costs less than half of what asking the system for the time does. Ticks have no unit of their own: who
//! wants seconds reads the system's clock now and then, and compares.
#![allow(unsafe_code)]

/// Proof that the count may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickCounter(());

impl TickCounter {
    /// Returns the counter, or `None` where there is none, or none of a steady rate.
    pub fn new() -> Option<Self> {
        system::is_steady().then_some(TickCounter(()))
    }

    /// Reads the count, which never falls on one core and hardly between two.
    #[inline]
    pub fn read(self) -> u64 {
        system::read()
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod system {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// Leaf that tells of power management, and its bit for a rate that does not change.
    const POWER: u32 = 0x8000_0007;
    const STEADY: u32 = 1 << 8;

    pub(super) fn is_steady() -> bool {
        __cpuid(0x8000_0000).eax >= POWER && __cpuid(POWER).edx & STEADY != 0
    }

    #[inline]
    pub(super) fn read() -> u64 {
        // SAFETY: every x86-64 processor has the instruction, and it changes nothing.
        unsafe { _rdtsc() }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod system {
    pub(super) fn is_steady() -> bool {
        false
    }

    pub(super) fn read() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on() {
        let Some(ticks) = TickCounter::new() else {
            println!("SKIPPED: no counter of a steady rate");
            return;
        };
        let begin = ticks.read();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(ticks.read() > begin);
    }
}
