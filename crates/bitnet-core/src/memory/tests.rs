//! The pool against a naive model, its ledger, and its refusals.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bitnet_backend::{BitNetError, Device, DeviceMemory, ErrorKind, MemoryRegion, Result};
use proptest::prelude::*;

use super::cpu::CpuMemory;
use super::*;

/// Device memory that writes down what is out, under any device name.
struct Ledger {
    device: Device,
    inner: CpuMemory,
    /// Regions that are out, by address.
    out: Mutex<BTreeMap<usize, MemoryRegion>>,
    most_bytes: Mutex<usize>,
}

impl Ledger {
    fn new(device: Device) -> Arc<Self> {
        let (out, most_bytes) = (Mutex::default(), Mutex::default());
        Arc::new(Ledger { device, inner: CpuMemory::default(), out, most_bytes })
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
        let region = self.inner.acquire(size, align)?;
        let mut out = self.out.lock().unwrap();
        assert!(out.insert(region.address, region).is_none());
        let bytes = out.values().map(|region| region.size).sum();
        let mut most = self.most_bytes.lock().unwrap();
        *most = (*most).max(bytes);
        Ok(region)
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
    let ledger = Ledger::new(Device::Cpu);
    (HybridMemoryPool::with_memories(config, vec![ledger.clone()]), ledger)
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

#[test]
fn memory_handles_die_with_their_block() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
    let copy = handle.clone();
    pool.deallocate(handle).unwrap();
    let successor = pool.allocate(100, 64, &Device::Cpu).unwrap();
    assert!(is_invalid_handle(pool.deallocate(copy.clone())));
    assert!(is_invalid_handle(pool.pin(&copy)));
    assert!(is_invalid_handle(pool.pin_mut(&copy)));
    assert_eq!(ledger.outstanding(), 1);
    pool.deallocate(successor).unwrap();
    pool.debug_validate();
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
fn pinned_memory_is_not_deallocated() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
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
    assert_eq!(ledger.outstanding(), 1);
    drop(second);
    pool.deallocate(handle).unwrap();
    assert_eq!(ledger.outstanding(), 0);
}

#[test]
fn memory_requests_that_make_no_sense_are_refused() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let beyond = isize::MAX as usize;
    for (size, align) in
        [(0, 64), (8, 0), (8, 3), (8, MAX_ALIGN * 2), (8, 1 << 63), (usize::MAX, 1), (beyond, 2)]
    {
        let error = pool.allocate(size, align, &Device::Cpu).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. }), "{size} {align}: {error}");
    }
    assert!(is_out_of_memory(pool.allocate(beyond / 2, 64, &Device::Cpu)));
    assert_eq!((ledger.outstanding(), pool.get_metrics()), (0, MemoryMetrics::default()));
    pool.debug_validate();
}

#[test]
fn memory_limits_hold_for_each_size_class() {
    let config = MemoryPoolConfig { max_small_pool_size: 1000, max_large_pool_size: 3 * SMALL_BLOCK_LIMIT };
    let (pool, ledger) = ledger_pool(config);
    let small = pool.allocate(600, 8, &Device::Cpu).unwrap();
    let error = pool.allocate(401, 8, &Device::Cpu).unwrap_err();
    assert!(error.to_string().ends_with("400 of 1000 bytes left (max_small_pool_size)"), "{error}");
    pool.allocate(400, 8, &Device::Cpu).unwrap();
    pool.allocate(2 * SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    assert!(is_out_of_memory(pool.allocate(SMALL_BLOCK_LIMIT + 1, 64, &Device::Cpu)));
    pool.allocate(SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    pool.deallocate(small).unwrap();
    pool.allocate(600, 8, &Device::Cpu).unwrap();
    assert_eq!(ledger.outstanding(), 4);
    pool.debug_validate();
}

#[test]
fn memory_of_absent_devices_names_the_reason() {
    let pool = HybridMemoryPool::new().unwrap();
    let error = pool.allocate(64, 64, &Device::Cuda(3)).unwrap_err();
    assert!(error.to_string().contains("device cuda:3 is not available: "), "{error}");
    let on_device = HybridMemoryPool::with_memories(MemoryPoolConfig::default(), vec![]);
    let error = on_device.allocate(64, 64, &Device::Cpu).unwrap_err();
    assert!(error.to_string().ends_with("this pool holds no memory of it"), "{error}");
}

#[test]
fn memory_that_the_host_cannot_address_is_not_pinned() {
    let ledger = Ledger::new(Device::Cuda(0));
    let pool = HybridMemoryPool::with_memories(MemoryPoolConfig::default(), vec![ledger.clone()]);
    let handle = pool.allocate(64, 64, &Device::Cuda(0)).unwrap();
    assert_eq!(handle.device(), Device::Cuda(0));
    let error = pool.pin(&handle).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    let error = PoolBuffer::<f32>::zeroed(&pool, 4, &Device::Cuda(0), "a test").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error}");
    assert_eq!(ledger.outstanding(), 1);
}

#[test]
fn memory_returns_to_the_system_with_the_last_owner() {
    let (pool, ledger) = ledger_pool(MemoryPoolConfig::default());
    let buffer = PoolBuffer::<i32>::zeroed(&pool, 1000, &Device::Cpu, "a test").unwrap();
    let forgotten = pool.allocate(2 * SMALL_BLOCK_LIMIT, 64, &Device::Cpu).unwrap();
    let pin = pool.pin(&forgotten).unwrap();
    drop(pool);
    assert_eq!(ledger.outstanding(), 2);
    assert!(pin.iter().all(|&byte| byte == 0));
    drop(buffer);
    assert_eq!(ledger.outstanding(), 1);
    drop(pin);
    assert_eq!(ledger.outstanding(), 0);
}

#[test]
fn memory_limits_hold_across_threads() {
    let limit = 8 * 1000;
    let config = MemoryPoolConfig { max_small_pool_size: limit, ..Default::default() };
    let (pool, ledger) = ledger_pool(config);
    std::thread::scope(|scope| {
        for seed in 0..4u8 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..500u32 {
                    let blocks: Vec<_> =
                        (0..3).filter_map(|_| pool.allocate(1000, 64, &Device::Cpu).ok()).collect();
                    for handle in blocks {
                        let fill = seed.wrapping_mul(61).wrapping_add(round as u8);
                        pool.pin_mut(&handle).unwrap().fill(fill);
                        assert!(pool.pin(&handle).unwrap().iter().all(|&byte| byte == fill));
                        pool.deallocate(handle).unwrap();
                    }
                }
            });
        }
    });
    assert!(*ledger.most_bytes.lock().unwrap() <= limit);
    assert_eq!(ledger.outstanding(), 0);
    pool.debug_validate();
}

#[derive(Debug, Clone)]
enum Action {
    Allocate { size: usize, align_log2: u32 },
    Deallocate(usize),
    Write(usize, u8),
    Check(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let size = prop_oneof![4 => 0usize..3000, 1 => (SMALL_BLOCK_LIMIT - 2)..(SMALL_BLOCK_LIMIT + 2)];
    prop_oneof![
        3 => (size, 0u32..13).prop_map(|(size, align_log2)| Action::Allocate { size, align_log2 }),
        2 => any::<usize>().prop_map(Action::Deallocate),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(index, fill)| Action::Write(index, fill)),
        1 => any::<usize>().prop_map(Action::Check),
    ]
}

/// What the pool is to do, written without slots, generations or reservations.
#[derive(Default)]
struct Model {
    /// Every handle ever made, with the byte its block is filled with while it lives.
    handles: Vec<(MemoryHandle, Option<u8>)>,
    peak: u64,
    total: u64,
    count: u64,
}

impl Model {
    fn live_bytes(&self, small: bool) -> u64 {
        let live = self.handles.iter().filter(|(_, fill)| fill.is_some());
        live.filter(|(h, _)| (h.size() < SMALL_BLOCK_LIMIT) == small).map(|(h, _)| h.size() as u64).sum()
    }

    fn pick(&mut self, index: usize) -> Option<&mut (MemoryHandle, Option<u8>)> {
        let count = self.handles.len();
        self.handles.get_mut(index.checked_rem(count)?)
    }

    fn allocate(&mut self, pool: &HybridMemoryPool, size: usize, align: usize) {
        let small = size < SMALL_BLOCK_LIMIT;
        let limit = if small { pool.config().max_small_pool_size } else { pool.config().max_large_pool_size };
        let fits = self.live_bytes(small) + size as u64 <= limit as u64;
        match pool.allocate(size, align, &Device::Cpu) {
            Ok(handle) => {
                assert!(size > 0 && fits);
                let pin = pool.pin(&handle).unwrap();
                assert_eq!((pin.len(), pin.as_ptr() as usize % align), (size, 0));
                assert!(pin.iter().all(|&byte| byte == 0));
                self.handles.push((handle, Some(0)));
                self.total += size as u64;
                self.count += 1;
                self.peak = self.peak.max(self.live_bytes(true) + self.live_bytes(false));
            }
            Err(error) if size == 0 => assert!(matches!(error.kind(), ErrorKind::InvalidAllocation { .. })),
            Err(error) => {
                assert!(!fits, "{error}");
                assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
            }
        }
    }

    fn apply(&mut self, pool: &HybridMemoryPool, action: Action) {
        match action {
            Action::Allocate { size, align_log2 } => self.allocate(pool, size, 1 << align_log2),
            Action::Deallocate(index) => {
                if let Some((handle, fill)) = self.pick(index) {
                    let result = pool.deallocate(handle.clone());
                    assert!(if fill.take().is_some() { result.is_ok() } else { is_invalid_handle(result) });
                }
            }
            Action::Write(index, byte) => {
                if let Some((handle, fill)) = self.pick(index) {
                    match (pool.pin_mut(handle), fill) {
                        (Ok(mut pin), Some(fill)) => {
                            pin.fill(byte);
                            *fill = byte;
                        }
                        (result, fill) => assert!(fill.is_none() && is_invalid_handle(result)),
                    }
                }
            }
            Action::Check(index) => {
                if let Some((handle, fill)) = self.pick(index) {
                    match (pool.pin(handle), *fill) {
                        (Ok(pin), Some(fill)) => assert!(pin.iter().all(|&byte| byte == fill)),
                        (result, fill) => assert!(fill.is_none() && is_invalid_handle(result)),
                    }
                }
            }
        }
    }

    fn check(&self, pool: &HybridMemoryPool) {
        let metrics = pool.get_metrics();
        let (small, large) = (self.live_bytes(true), self.live_bytes(false));
        assert_eq!((metrics.small_allocated, metrics.large_allocated), (small, large));
        assert_eq!((metrics.peak_allocated, metrics.total_allocated), (self.peak, self.total));
        assert_eq!(metrics.allocation_count, self.count);
        pool.debug_validate();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_pool_agrees_with_a_naive_model(actions in prop::collection::vec(action(), 1..60)) {
        let config = MemoryPoolConfig {
            max_small_pool_size: SMALL_BLOCK_LIMIT + 20_000,
            max_large_pool_size: 2 * SMALL_BLOCK_LIMIT + 1,
        };
        let (pool, ledger) = ledger_pool(config);
        let mut model = Model::default();
        for action in actions {
            model.apply(&pool, action);
            model.check(&pool);
            prop_assert_eq!(ledger.outstanding() as u64, pool.get_metrics().active_allocations());
        }
        drop(pool);
        prop_assert_eq!(ledger.outstanding(), 0);
    }
}
