//! Whether tiles can be used: the processor, the state that the operating system keeps, and its permission.
//!
//! Linux (5.16 and later) saves the 8 KiB of tile data only for a process that asked: the first tile instruction
//! of one that did not ends it with SIGILL. The request holds for every thread of the process, and is refused
//! where a thread's alternate signal stack could not hold the state.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// Says why tiles of int8 cannot be used. The first call asks the operating system for them.
pub fn missing() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<&'static str>> = OnceLock::new();
    *ANSWER.get_or_init(find)
}

fn find() -> Option<&'static str> {
    if !processor_has_tiles() {
        return Some("the processor lacks AMX-TILE or AMX-INT8");
    }
    if !system_keeps_tiles() {
        return Some("the operating system does not keep AMX tiles");
    }
    request()
}

fn processor_has_tiles() -> bool {
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const TILE_LEAF: u32 = 0x1d;
    if __cpuid(0).eax < TILE_LEAF || __cpuid_count(7, 0).edx & (AMX_TILE | AMX_INT8) != AMX_TILE | AMX_INT8 {
        return false;
    }
    // Palette 1: 1,024 bytes a tile, 64 a row, 8 tiles, 16 rows.
    let palette = __cpuid_count(TILE_LEAF, 1);
    palette.eax >> 16 >= 1024
        && palette.ebx & 0xffff >= 64
        && palette.ebx >> 16 >= 8
        && palette.ecx & 0xffff >= 16
}

fn system_keeps_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    /// The configuration and the data of tiles.
    const TILES: u64 = 1 << 17 | 1 << 18;
    // SAFETY: XGETBV exists where the operating system uses XSAVE, which this bit says.
    __cpuid(1).ecx & OSXSAVE != 0 && unsafe { xcr0() } & TILES == TILES
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

#[cfg(target_os = "linux")]
fn request() -> Option<&'static str> {
    use std::arch::asm;

    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    const EINVAL: i64 = 22;
    const ENOSPC: i64 = 28;
    let status: i64;
    // SAFETY: a system call that takes two numbers and touches no memory of ours; the kernel overwrites `rcx` and
    // `r11` and keeps everything else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    match -status {
        0 => None,
        EINVAL => Some("the kernel has no permission for AMX tiles to give, Linux 5.16 has"),
        ENOSPC => Some("a signal stack of the process is too small for AMX tiles"),
        _ => Some("the operating system denies AMX tiles"),
    }
}

#[cfg(not(target_os = "linux"))]
fn request() -> Option<&'static str> {
    Some("AMX tiles are used on Linux only")
}
