use std::time::Duration;

use bitnet_backend::{BitNetDType, Device};
use bitnet_testing::temp::TempDir;

use super::*;
use crate::memory::MemoryPressureLevel::{Critical, High, Low, Medium};
use crate::memory::tensor::{BitNetTensor, Layout, TensorHandle, TensorMetadata};
use crate::memory::{HybridMemoryPool, MemoryPoolConfig, TrackingConfig};

const LEN: usize = 100_000;

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn smooth(pool: &HybridMemoryPool) -> BitNetTensor {
    let values: Vec<f32> = (0..LEN).map(|i| (i / 100) as f32).collect();
    BitNetTensor::from_slice(&values, &[100, LEN / 100], &Device::Cpu, pool).unwrap()
}

fn noise(pool: &HybridMemoryPool) -> BitNetTensor {
    let mut state = 7u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 32 ^ state << 31
    };
    let values: Vec<u64> = (0..LEN).map(next).collect();
    BitNetTensor::from_slice(&values, &[LEN], &Device::Cpu, pool).unwrap()
}

#[test]
fn idle_tensors_shrink_and_come_back_the_same() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    let expected = smooth(&pool).as_bytes().unwrap().to_vec();
    let scaled = smooth(&pool);
    let metadata = scaled.metadata().clone().with_scale(Some(0.5)).unwrap();
    shelf.insert("a", BitNetTensor::from_memory(metadata, scaled.memory().clone()).unwrap());
    drop(scaled);
    let whole = pool.get_metrics().current_allocated;
    let report = shelf.relieve_at(Critical);
    assert_eq!((report.compressed, report.bytes_before), (1, 4 * LEN as u64));
    assert!(report.bytes_after * 4 < report.bytes_before, "{report:?}");
    assert_eq!(pool.get_metrics().current_allocated, whole - report.bytes_before + report.bytes_after);
    let metrics = shelf.metrics();
    assert_eq!(
        (metrics.compressed, metrics.stored_bytes, metrics.logical_bytes),
        (1, report.bytes_after, 4 * LEN as u64)
    );
    // Nothing is left to do.
    assert_eq!(shelf.relieve_at(Critical), CompressionReport::default());

    let tensor = shelf.get("a").unwrap().unwrap();
    assert_eq!((tensor.shape(), tensor.as_bytes().unwrap()), (&[100, LEN / 100][..], &expected[..]));
    assert_eq!((tensor.scale(), shelf.metrics().compressed, shelf.metrics().reloads), (Some(0.5), 0, 1));
    assert_eq!(pool.get_metrics().current_allocated, whole);
    assert!(shelf.get("b").unwrap().is_none());
    drop(tensor);
    shelf.relieve_at(Critical);
    assert_eq!(shelf.remove("a").unwrap().unwrap().as_bytes().unwrap(), expected);
    assert_eq!((shelf.metrics().tensors, pool.get_metrics().current_allocated), (0, 0));
}

#[test]
fn what_is_in_use_keeps_its_address() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    shelf.insert("a", smooth(&pool));
    let view = shelf.get("a").unwrap().unwrap();
    let address = view.as_bytes().unwrap().as_ptr();
    assert_eq!(shelf.relieve_at(Critical).in_use, 1);
    assert_eq!(view.as_bytes().unwrap().as_ptr(), address);
    // A weak handle could come back to life at any time.
    let weak = TensorHandle::new(view).downgrade();
    assert_eq!(shelf.relieve_at(Critical).in_use, 1);
    drop(weak);
    assert_eq!(shelf.relieve_at(Critical).compressed, 1);
}

#[test]
fn levels_ask_for_their_idle_times() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    shelf.insert("a", smooth(&pool));
    assert_eq!(shelf.relieve_in(Low, Duration::from_secs(3600)), CompressionReport::default());
    assert_eq!(shelf.relieve_in(Medium, Duration::from_secs(50)).too_fresh, 1);
    assert_eq!(shelf.relieve_in(High, Duration::from_secs(4)).too_fresh, 1);
    assert_eq!(shelf.relieve_in(High, Duration::from_secs(6)).compressed, 1);
}

#[test]
fn what_does_not_shrink_is_left_alone_and_remembered() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    shelf.insert("noise", noise(&pool));
    shelf.insert("small", BitNetTensor::zeros(&[100], BitNetDType::F32, &Device::Cpu, &pool).unwrap());
    let strided = TensorMetadata::with_layout(
        Layout::strided(vec![LEN / 100, 100], vec![1, LEN as isize / 100], 0),
        BitNetDType::F32,
        Device::Cpu,
    );
    let strided = BitNetTensor::from_memory(strided, smooth(&pool).memory().clone()).unwrap();
    shelf.insert("strided", strided);
    let before = pool.get_metrics().allocation_count;
    assert_eq!(shelf.relieve_at(Critical).unsuitable, 3);
    let tried = pool.get_metrics().allocation_count;
    assert!(tried - before <= 4, "given up after the first chunks: {}", tried - before);
    assert_eq!(shelf.relieve_at(Critical).unsuitable, 3);
    assert_eq!(pool.get_metrics().allocation_count, tried, "not tried again");
    // What replaces it is.
    shelf.insert("noise", smooth(&pool));
    assert_eq!(shelf.relieve_at(Critical).compressed, 1);
    let bad = CompressionPolicy { min_ratio: 0.5, ..CompressionPolicy::default() };
    assert!(TensorShelf::new(&pool, bad).is_err());
}

#[test]
fn the_pressure_of_the_pool_compresses() {
    let root = TempDir::new("shelf-pressure");
    std::fs::create_dir_all(root.path().join("proc")).unwrap();
    let meminfo = |available: u64| {
        let text = format!("MemTotal: 1000000 kB\nMemAvailable: {available} kB\n");
        std::fs::write(root.path().join("proc/meminfo"), text).unwrap();
    };
    meminfo(900_000);
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig::default()),
        ..MemoryPoolConfig::default()
    };
    let pool = HybridMemoryPool::builder().config(config).pressure_root(root.path()).build().unwrap();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    shelf.insert("a", smooth(&pool));
    pool.check_pressure();
    assert_eq!(shelf.metrics().compressed, 0);
    meminfo(10_000);
    assert_eq!(pool.check_pressure(), Critical);
    assert_eq!(shelf.metrics().compressed, 1);
    // While it lasts, what is added is compressed at once.
    shelf.insert("b", smooth(&pool));
    assert_eq!(shelf.metrics().compressed, 2);
    assert_eq!(shelf.get("a").unwrap().unwrap().as_bytes().unwrap(), smooth(&pool).as_bytes().unwrap());
    // The pool goes with the shelf: the callback keeps neither.
    let weak = std::sync::Arc::downgrade(&pool.shared);
    drop((shelf, pool));
    assert!(weak.upgrade().is_none());
}

#[test]
fn readers_and_looks_run_side_by_side() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    for i in 0..4 {
        shelf.insert(format!("t{i}"), smooth(&pool));
    }
    let expected = smooth(&pool).as_bytes().unwrap().to_vec();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (shelf, expected) = (&shelf, &expected);
            scope.spawn(move || {
                for round in 0..40 {
                    let tensor = shelf.get(&format!("t{}", (round + thread) % 4)).unwrap().unwrap();
                    assert!(tensor.as_bytes().unwrap() == expected);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                shelf.relieve_at(Critical);
            }
        });
    });
    shelf.relieve_at(Critical);
    assert_eq!(shelf.metrics().compressed, 4);
}

#[test]
fn memory_that_is_not_the_pools_is_left_alone() {
    let (pool, other) = (pool(), pool());
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    shelf.insert("vector", BitNetTensor::from_vec(vec![0f32; LEN], &[LEN]).unwrap());
    shelf.insert("other", smooth(&other));
    assert_eq!(shelf.relieve_at(Critical).unsuitable, 2);
    assert_eq!(pool.get_metrics().allocation_count, 0);
    shelf.insert("own", smooth(&pool));
    assert_eq!(shelf.relieve_at(Critical).compressed, 1);
}

#[test]
fn what_is_put_up_while_another_is_removed_stays_or_is_returned() {
    let pool = pool();
    let shelf = TensorShelf::new(&pool, CompressionPolicy::default()).unwrap();
    for _ in 0..60 {
        shelf.insert("a", smooth(&pool));
        shelf.relieve_at(Critical);
        let second = BitNetTensor::zeros(&[1], BitNetDType::U8, &Device::Cpu, &pool).unwrap();
        let barrier = std::sync::Barrier::new(2);
        let removed = std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                shelf.insert("a", second);
            });
            barrier.wait();
            shelf.remove("a").unwrap().unwrap()
        });
        let left = shelf.remove("a").unwrap();
        let kept = left.as_ref().unwrap_or(&removed);
        assert_eq!(kept.shape(), [1], "the second one is lost");
    }
}
