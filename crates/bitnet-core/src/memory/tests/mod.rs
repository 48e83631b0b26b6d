//! The pool against a naive model, its ledger, and its refusals.
#![allow(unsafe_code, clippy::unwrap_used)]

mod cleanup;
mod generations;
mod limits;
mod model;
mod pressure;
mod shrink;
mod threads;
mod trace;
mod tracking;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, MemoryRegion, Result};

use super::cpu::CpuMemory;
use super::handle::Taken;
use super::small::Slot;
use super::*;

/// Device memory that writes down what is out, under any device name, and refuses on demand.
struct Ledger {
    device: Device,
    inner: CpuMemory,
    /// Regions that are out, by address.
    out: Mutex<BTreeMap<usize, MemoryRegion>>,
    /// Most bytes that may be out.
    allowed: AtomicUsize,
    /// Whether a page takes memory when it is touched, and gives it back alone.
    lazy: bool,
    /// Bytes that huge pages were asked for.
    huge: AtomicUsize,
}

impl Ledger {
    fn new(device: Device, lazy: bool) -> Arc<Self> {
        let (out, allowed) = (Mutex::default(), AtomicUsize::new(usize::MAX));
        Arc::new(Ledger { device, inner: CpuMemory, out, allowed, lazy, huge: AtomicUsize::new(0) })
    }

    fn outstanding(&self) -> usize {
        self.out.lock().unwrap().len()
    }
}

// SAFETY: regions are those of `CpuMemory`, counted.
unsafe impl DeviceMemory for Ledger {
    fn device(&self) -> Device {
        self.device
    }

    fn acquire(&self, size: usize, align: usize) -> Result<MemoryRegion> {
        let mut out = self.out.lock().unwrap();
        let bytes: usize = out.values().map(|region| region.size).sum();
        if bytes + size > self.allowed.load(Ordering::Relaxed) {
            return Err(BitNetError::new(ErrorKind::OutOfMemory {
                requested: size,
                purpose: "the ledger".into(),
                available: "refused by the test".into(),
            }));
        }
        let region = self.inner.acquire(size, align)?;
        assert!(out.insert(region.address, region).is_none());
        Ok(region)
    }

    fn is_lazy(&self) -> bool {
        self.lazy
    }

    fn prefer_huge_pages(&self, region: MemoryRegion) {
        assert!(self.out.lock().unwrap().contains_key(&region.address), "asked for what is not out");
        self.huge.fetch_add(region.size, Ordering::Relaxed);
        self.inner.prefer_huge_pages(region);
    }

    unsafe fn purge(&self, part: MemoryRegion) -> usize {
        let out = self.out.lock().unwrap();
        let (start, region) = out.range(..=part.address).next_back().expect("purged what is not out");
        assert!(part.address + part.size <= start + region.size, "purged beyond a region");
        if !self.lazy {
            return 0;
        }
        // SAFETY: handed on from a caller under the same contract.
        unsafe { self.inner.purge(part) }
    }

    unsafe fn release(&self, region: MemoryRegion) {
        {
            // Taken out before the memory is freed: afterwards its address may be given out again.
            let mut out = self.out.lock().unwrap();
            assert_eq!(out.remove(&region.address), Some(region), "released what was not acquired");
        }
        // SAFETY: handed on from a caller under the same contract.
        unsafe { self.inner.release(region) }
    }
}

fn ledger_pool(config: MemoryPoolConfig) -> (HybridMemoryPool, Arc<Ledger>) {
    ledger_pool_of(HybridMemoryPool::builder().config(config))
}

fn ledger_pool_of(builder: PoolBuilder) -> (HybridMemoryPool, Arc<Ledger>) {
    let ledger = Ledger::new(Device::Cpu, true);
    (builder.memories(vec![ledger.clone()]).build().unwrap(), ledger)
}

fn is_invalid_handle(result: Result<impl Sized>) -> bool {
    matches!(result.err().as_ref().map(BitNetError::kind), Some(ErrorKind::InvalidHandle { .. }))
}

fn is_out_of_memory(result: Result<impl Sized>) -> bool {
    matches!(result.err().as_ref().map(BitNetError::kind), Some(ErrorKind::OutOfMemory { .. }))
}

fn is_mismatch(result: Result<impl Sized>) -> bool {
    matches!(result.err().as_ref().map(BitNetError::kind), Some(ErrorKind::Mismatch { .. }))
}

/// Runs a test of this program once more, in a process of its own, after `setup`, a command of the shell; `variable`
/// tells the test that it is there.
#[cfg(target_os = "linux")]
fn run_alone(name: &str, setup: &str, variable: &str) {
    let command = format!("{setup}; exec \"$0\" {name} --exact --nocapture --test-threads=1");
    let test = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(command)
        .arg(test)
        .env(variable, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // What it left out is left out here.
    text.lines().filter(|line| line.contains("SKIPPED")).for_each(|line| println!("{line}"));
}

#[test]
fn memory_handles_die_with_their_block() {
    for (size, align) in [(100, 64), (40_000, 64), (100, 8192), (SMALL_BLOCK_LIMIT, 64)] {
        let pool = HybridMemoryPool::new().unwrap();
        let handle = pool.allocate(size, align, &Device::Cpu).unwrap();
        let copy = handle.clone();
        pool.deallocate(handle).unwrap();
        let successor = pool.allocate(size, align, &Device::Cpu).unwrap();
        assert_eq!(successor.slot(), copy.slot(), "the block was not taken again");
        assert!(is_invalid_handle(pool.deallocate(copy.clone())));
        assert!(is_invalid_handle(pool.pin(&copy)));
        assert!(is_invalid_handle(pool.pin_mut(&copy)));
        pool.deallocate(successor).unwrap();
        assert!(is_invalid_handle(pool.deallocate(copy)));
        pool.debug_validate();
    }
}

#[test]
fn memory_handles_of_another_pool_are_refused() {
    let one = HybridMemoryPool::new().unwrap();
    let other = HybridMemoryPool::new().unwrap();
    let handle = one.allocate(8, 8, &Device::Cpu).unwrap();
    let _same_slot = other.allocate(8, 8, &Device::Cpu).unwrap();
    let error = other.deallocate(handle.clone()).unwrap_err();
    assert!(error.to_string().contains("another pool"), "{error}");
    assert!(is_invalid_handle(other.pin(&handle)));
    one.clone().deallocate(handle).unwrap();
    assert_eq!(other.get_metrics().active_allocations(), 1);
}

#[test]
fn memory_handles_that_were_forged_are_refused() {
    let pool = HybridMemoryPool::new().unwrap();
    let handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
    let rename = |handle: &mut MemoryHandle, change: fn(&mut Slot)| {
        let mut slot = handle.slot();
        change(&mut slot);
        handle.name = Taken::new(slot, 0, 0).name;
    };
    let forge = |change: &dyn Fn(&mut MemoryHandle)| {
        let mut forged = handle.clone();
        change(&mut forged);
        forged
    };
    let forged = [
        forge(&|h| rename(h, |slot| slot.record = 77)),
        forge(&|h| rename(h, |slot| slot.record = u32::MAX - 1)),
        forge(&|h| rename(h, |slot| slot.object = 1 << 20)),
        forge(&|h| rename(h, |slot| slot.object += 1)),
        forge(&|h| h.name = std::num::NonZeroU64::MAX),
        forge(&|h| h.life += 1),
        forge(&|h| h.life |= u64::from(u32::MAX)),
        forge(&|h| h.life += 1 << 32),
        forge(&|h| h.home += 1),
        forge(&|h| h.size = 1 << 30),
    ];
    for forged in forged {
        assert!(is_invalid_handle(pool.pin(&forged)), "{forged}");
        assert!(is_invalid_handle(pool.pin_mut(&forged)), "{forged}");
        assert!(is_invalid_handle(pool.deallocate(forged)));
    }
    pool.deallocate(handle).unwrap();
    pool.debug_validate();
}

#[test]
fn pinned_memory_is_not_deallocated() {
    let pool = HybridMemoryPool::new().unwrap();
    let handle = pool.allocate(16, 16, &Device::Cpu).unwrap();
    let mut exclusive = pool.pin_mut(&handle).unwrap();
    exclusive.copy_from_slice(&[7; 16]);
    for refused in
        [pool.deallocate(handle.clone()), pool.pin(&handle).map(drop), pool.pin_mut(&handle).map(drop)]
    {
        assert!(is_mismatch(refused));
    }
    drop(exclusive);
    let (first, second) = (pool.pin(&handle).unwrap(), pool.pin(&handle).unwrap());
    assert_eq!((&first[..], &second[..]), (&[7; 16][..], &[7; 16][..]));
    assert!(is_mismatch(pool.pin_mut(&handle)));
    drop(first);
    let error = pool.deallocate(handle.clone()).unwrap_err();
    assert!(error.to_string().ends_with("expected none, found 1 shared"), "{error}");
    drop(second);
    pool.deallocate(handle).unwrap();
}

#[test]
fn memory_requests_that_make_no_sense_are_refused() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let beyond = isize::MAX as usize;
    for (size, align) in
        [(0, 64), (8, 0), (8, 3), (8, MAX_ALIGN * 2), (8, 1 << 63), (usize::MAX, 1), (beyond, 2)]
    {
        for result in
            [pool.allocate(size, align, &Device::Cpu), pool.allocate_zeroed(size, align, &Device::Cpu)]
        {
            let error = result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{size} {align}: {error}");
        }
    }
    for size in [beyond / 2, 1 << 46] {
        assert!(is_out_of_memory(pool.allocate(size, 64, &Device::Cpu)), "{size}");
    }
    assert_eq!((ledger.outstanding(), pool.get_metrics()), (0, MemoryMetrics::default()));
    pool.debug_validate();
}

#[test]
fn memory_of_absent_devices_names_the_reason() {
    let pool = HybridMemoryPool::new().unwrap();
    let error = pool.allocate(64, 64, &Device::Cuda(3)).unwrap_err();
    assert!(error.to_string().contains("device cuda:3 is not available: "), "{error}");
    let on_device = HybridMemoryPool::builder().memories(vec![]).build().unwrap();
    let error = on_device.allocate(64, 64, &Device::Cpu).unwrap_err();
    assert!(error.to_string().ends_with("this pool holds no memory of it"), "{error}");
}

#[test]
fn memory_that_the_host_cannot_address_is_managed_and_not_pinned() {
    let ledger = Ledger::new(Device::Cuda(0), false);
    let pool = HybridMemoryPool::builder().device(ledger.clone()).build().unwrap();
    let device = Device::Cuda(0);
    let mut handles = Vec::new();
    for size in [64, 64, 5000, 100_000, 3 << 20] {
        let handle = pool.allocate(size, 64, &device).unwrap();
        assert_eq!(handle.device(), device);
        let error = pool.pin(&handle).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
        handles.push(handle);
    }
    assert_eq!(pool.get_metrics().peak_allocated, 128 + 5000 + 100_000 + (3 << 20));
    let error = PoolBuffer::<f32>::zeroed(&pool, 4, &device, "a test").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    let by_device = pool.by_device();
    assert_eq!((by_device[0].current_bytes, by_device[1].name.as_str()), (0, "cuda:0"));
    assert_eq!(by_device[1].current_bytes, 128 + 5000 + 100_000 + (3 << 20));
    pool.debug_validate();
    let stale = handles[0].clone();
    handles.into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
    assert!(is_invalid_handle(pool.deallocate(stale)));
    // Cleaning up one device leaves what the others have free.
    let host = pool.allocate(3 << 20, 64, &Device::Cpu).unwrap();
    pool.pin_mut(&host).unwrap().fill(1);
    pool.deallocate(host).unwrap();
    let report = pool.cleanup_device(&device, CleanupStrategy::Idle).unwrap();
    pool.debug_validate();
    assert_eq!(ledger.outstanding(), 0, "idle arenas were kept");
    assert!(report.purged_bytes > 0 && pool.footprint().purgeable >= 3 << 20, "{report:?}");
}

#[test]
fn large_blocks_are_asked_for_on_huge_pages() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let small = pool.allocate(64, 64, &Device::Cpu).unwrap();
    assert_eq!(ledger.huge.load(Ordering::Relaxed), 0);
    let large = pool.allocate(3 << 20, 64, &Device::Cpu).unwrap();
    assert!(ledger.huge.load(Ordering::Relaxed) >= 3 << 20);
    [small, large].into_iter().for_each(|handle| pool.deallocate(handle).unwrap());
}

#[test]
fn every_device_has_its_own_sums_and_peak() {
    let (cuda, cpu) = (Device::Cuda(0), Device::Cpu);
    let pool = HybridMemoryPool::builder().device(Ledger::new(cuda, false)).build().unwrap();
    let peaks = || pool.by_device().iter().map(|usage| usage.peak_bytes).collect::<Vec<_>>();
    let once = |size: usize, device: &Device| {
        let handle = pool.allocate(size, 64, device).unwrap();
        pool.deallocate(handle).unwrap();
    };
    // One after the other on each device, and both devices at once.
    let small = pool.allocate(50_000, 64, &cuda).unwrap();
    once(30_000, &cpu);
    pool.deallocate(small).unwrap();
    assert_eq!((peaks(), pool.get_metrics().peak_allocated), (vec![30_000, 50_000], 80_000));
    once(3 << 20, &cuda);
    once(2 << 20, &cpu);
    assert_eq!((peaks(), pool.get_metrics().peak_allocated), (vec![2 << 20, 3 << 20], 3 << 20));
    // Sums that are read while others count never go below zero.
    std::thread::scope(|scope| {
        for device in [&cuda, &cpu] {
            scope.spawn(|| (0..3000).for_each(|n| once(1000 + n % 7, device)));
        }
        for _ in 0..1000 {
            let by_device = pool.by_device();
            assert!(by_device.iter().all(|usage| usage.allocations < 4000), "{by_device:?}");
        }
    });
    pool.debug_validate();
}

#[test]
fn buddy_blocks_of_more_arenas_than_a_thousand_stay_apart() {
    // Memory that is not lazy: each block brings an arena of its own.
    let ledger = Ledger::new(Device::Cpu, false);
    let builder = HybridMemoryPool::builder().large_strategy(LargeStrategy::Buddy);
    let pool = builder.memories(vec![ledger.clone()]).build().unwrap();
    let take = |n: usize| {
        let handle = pool.allocate(SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
        pool.pin_mut(&handle).unwrap()[..8].copy_from_slice(&n.to_le_bytes());
        (handle, n)
    };
    let mut blocks: Vec<_> = (0..1100).map(take).collect();
    for (handle, _) in blocks.drain(1024..) {
        pool.deallocate(handle).unwrap();
    }
    blocks.extend((2000..2060).map(take));
    for (handle, n) in blocks {
        assert_eq!(pool.pin(&handle).unwrap()[..8], n.to_le_bytes());
        pool.deallocate(handle).unwrap();
    }
    pool.debug_validate();
    // Arenas go back whole where no single page does.
    assert!(pool.purge() >= 1100 * SMALL_BLOCK_LIMIT as u64);
    assert_eq!((pool.footprint().held, ledger.outstanding()), (0, 0));
}

#[test]
fn memory_returns_to_the_system_with_the_last_owner() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let buffer = PoolBuffer::<i32>::zeroed(&pool, 1000, &Device::Cpu, "a test").unwrap();
    let forgotten = pool.allocate_zeroed(2 * SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    let pin = pool.pin(&forgotten).unwrap();
    drop(pool);
    assert_eq!(ledger.outstanding(), 2);
    assert!(pin.iter().all(|&byte| byte == 0));
    drop(buffer);
    assert_eq!(ledger.outstanding(), 2);
    drop(pin);
    assert_eq!(ledger.outstanding(), 0);
}

#[test]
fn memory_is_zeroed_when_asked_for() {
    for strategy in [LargeStrategy::BestFit, LargeStrategy::Buddy] {
        let pool = HybridMemoryPool::builder().large_strategy(strategy).build().unwrap();
        for size in [1, 63, 100, 4096, 33_000, 700_000, SMALL_BLOCK_LIMIT, 3 * SMALL_BLOCK_LIMIT + 5] {
            for round in 0..3 {
                let handle = pool.allocate_zeroed(size, 64, &Device::Cpu).unwrap();
                let mut pin = pool.pin_mut(&handle).unwrap();
                assert!(pin.iter().all(|&byte| byte == 0), "{size} {round}");
                pin.fill(0xEE);
                pool.deallocate(pin.into_handle()).unwrap();
                if round == 1 {
                    pool.purge();
                }
            }
        }
        pool.debug_validate();
    }
}
