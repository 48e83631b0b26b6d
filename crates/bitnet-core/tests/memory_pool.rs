//! The memory pool through its public interface: the specification's sample, buffers, threads.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_core::backend::ErrorKind;
use bitnet_core::device::{Device, auto_select_device};
use bitnet_core::memory::{BUFFER_ALIGN, HybridMemoryPool, MemoryHandle, MemoryPoolConfig, PoolBuffer};

fn assert_send_sync<T: Send + Sync>(_: &T) {}

#[test]
fn memory_pool_sample_of_the_specification_adds_up() -> Result<(), Box<dyn std::error::Error>> {
    let pool = HybridMemoryPool::new()?;
    let device = auto_select_device();
    let handle = pool.allocate(1024 * 1024, 64, &device)?;
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.peak_allocated), (1 << 20, 1 << 20));
    pool.deallocate(handle)?;
    let metrics = pool.get_metrics();
    assert_eq!((metrics.current_allocated, metrics.total_deallocated), (0, 1 << 20));
    assert_eq!((metrics.allocation_count, metrics.deallocation_count), (1, 1));
    assert_eq!((metrics.peak_allocated, metrics.large_allocated), (1 << 20, 0));
    Ok(())
}

#[test]
fn memory_buffers_are_zeroed_aligned_and_returned() {
    let pool = HybridMemoryPool::new().unwrap();
    for round in 0..3 {
        for len in [1, 15, 16, 17, 100_003] {
            let mut buffer = PoolBuffer::<f32>::zeroed(&pool, len, &Device::Cpu, "a test").unwrap();
            assert_eq!((buffer.len(), buffer.size_bytes()), (len, 4 * len));
            assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGN, 0);
            assert!(buffer.iter().all(|value| value.to_bits() == 0), "round {round}");
            buffer.fill(f32::NAN);
            let (reading, writing) = (buffer.as_ptr(), buffer.as_mut_ptr());
            assert_eq!(reading, writing.cast_const());
            assert_eq!(pool.get_metrics().current_allocated, 4 * len as u64);
        }
    }
    assert_eq!(pool.get_metrics().active_allocations(), 0);
}

#[test]
fn memory_buffers_of_no_elements_take_no_block() {
    let pool = HybridMemoryPool::new().unwrap();
    let mut buffer = PoolBuffer::<u16>::zeroed(&pool, 0, &Device::Cpu, "nothing").unwrap();
    assert!(buffer.is_empty() && buffer.iter_mut().next().is_none());
    assert_eq!(buffer.pool().get_metrics().allocation_count, 0);
}

#[test]
fn memory_buffers_name_their_purpose_when_refused() {
    let config = MemoryPoolConfig { max_small_pool_size: 4096, ..Default::default() };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    let refusal = |len, device| {
        let error = PoolBuffer::<i32>::zeroed(&pool, len, &device, "kv blocks of layer 3").unwrap_err();
        assert!(error.to_string().starts_with("kv blocks of layer 3: "), "{error}");
        error.kind().clone()
    };
    assert!(matches!(refusal(usize::MAX / 2, Device::Cpu), ErrorKind::TensorTooLarge { .. }));
    assert!(matches!(refusal(usize::MAX / 4, Device::Cpu), ErrorKind::InvalidAllocation { .. }));
    assert!(matches!(refusal(1025, Device::Cpu), ErrorKind::OutOfMemory { .. }));
    assert!(matches!(refusal(1, Device::Cuda(0)), ErrorKind::DeviceUnavailable { .. }));
    assert!(matches!(refusal(0, Device::Metal(0)), ErrorKind::DeviceUnavailable { .. }));
    PoolBuffer::<i32>::zeroed(&pool, 1024, &Device::Cpu, "kv blocks of layer 3").unwrap();
}

#[test]
fn memory_blocks_cross_threads() {
    let pool = HybridMemoryPool::new().unwrap();
    assert_send_sync(&pool);
    let (send, receive) = std::sync::mpsc::channel::<(MemoryHandle, PoolBuffer<u8>, u8)>();
    let producers: Vec<_> = (0..3u8)
        .map(|seed| {
            let (pool, send) = (pool.clone(), send.clone());
            std::thread::spawn(move || {
                for round in 0..200u8 {
                    let fill = seed.wrapping_mul(83).wrapping_add(round);
                    let size = 1 + usize::from(round) * 97;
                    let handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                    pool.pin_mut(&handle).unwrap().fill(fill);
                    let mut buffer = PoolBuffer::<u8>::zeroed(&pool, size, &Device::Cpu, "a test").unwrap();
                    buffer.fill(!fill);
                    send.send((handle, buffer, fill)).unwrap();
                }
            })
        })
        .collect();
    drop(send);
    let mut received = 0;
    for (handle, buffer, fill) in receive {
        assert_send_sync(&buffer);
        assert!(pool.pin(&handle).unwrap().iter().all(|&byte| byte == fill));
        assert!(buffer.iter().all(|&byte| byte == !fill));
        pool.deallocate(handle).unwrap();
        received += 1;
    }
    for producer in producers {
        producer.join().unwrap();
    }
    let metrics = pool.get_metrics();
    assert_eq!((received, metrics.allocation_count, metrics.current_allocated), (600, 1200, 0));
}

#[test]
fn memory_of_large_blocks_becomes_resident_when_used() {
    let peak = bitnet_core::device::peak_resident_bytes;
    let Some(before) = peak() else {
        return;
    };
    let pool = HybridMemoryPool::new().unwrap();
    let size = 512 << 20;
    let mut buffer = PoolBuffer::<u8>::zeroed(&pool, size, &Device::Cpu, "a test").unwrap();
    let step = size / 8;
    buffer.iter_mut().step_by(step).for_each(|byte| *byte = 1);
    assert_eq!(buffer.iter().step_by(step).map(|&byte| usize::from(byte)).sum::<usize>(), 8);
    let grown = peak().unwrap().saturating_sub(before);
    assert!(grown < (size / 4) as u64, "{grown} bytes became resident");
}
