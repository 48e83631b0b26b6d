//! Device, pool and tensors together, as the specification's quick start uses them.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_core::backend::ErrorKind;
use bitnet_core::device::{Device, auto_select_device, availability, candidates, get_device_info};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};

#[test]
fn a_tensor_lives_on_the_selected_device_and_in_the_pool() -> Result<(), Box<dyn std::error::Error>> {
    let (cpu_available, metal_available) = get_device_info();
    assert_eq!((cpu_available, metal_available), (true, availability(&Device::Metal(0)).is_ok()));
    let device = auto_select_device();
    let pool = HybridMemoryPool::new()?;

    let metadata = TensorMetadata::new(vec![128, 256], BitNetDType::F32, device);
    let mut tensor = BitNetTensor::new(metadata.clone(), &pool)?;
    assert_eq!((tensor.shape(), tensor.device(), tensor.metadata()), (&[128, 256][..], device, &metadata));
    assert_eq!(pool.get_metrics().current_allocated, 128 * 256 * 4);

    let strides = metadata.strides();
    tensor.as_mut_slice::<f32>()?[(3 * strides[0] + 5 * strides[1]) as usize] = 2.5;
    assert_eq!(tensor.as_slice::<f32>()?.iter().position(|&value| value != 0.0), Some(3 * 256 + 5));
    drop(tensor);
    assert_eq!(pool.get_metrics().current_allocated, 0);
    Ok(())
}

#[test]
fn a_ternary_tensor_takes_a_sixteenth_of_the_memory() {
    let pool = HybridMemoryPool::new().unwrap();
    let device = auto_select_device();
    let make = |dtype| BitNetTensor::ones(&[64, 64], dtype, &device, &pool).unwrap();
    let (dense, ternary) = (make(BitNetDType::F32), make(BitNetDType::BitNet158));
    assert_eq!(dense.size_bytes(), 16 * ternary.size_bytes());
    let codes = (0..64 * 64).map(|index| ternary.as_bytes().unwrap()[index / 4] >> (index % 4 * 2) & 3);
    let unpacked: Vec<f32> = codes.map(|code| f32::from(code) - 1.0).collect();
    assert_eq!(unpacked, dense.as_slice::<f32>().unwrap());
    assert_eq!(pool.get_metrics().active_allocations(), 2);
}

#[test]
fn tensors_obey_the_limits_of_their_pool() {
    let config = MemoryPoolConfig { max_small_pool_size: 4096, ..Default::default() };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    let make = || BitNetTensor::zeros(&[600], BitNetDType::F32, &Device::Cpu, &pool);
    let first = make().unwrap();
    let error = make().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().starts_with("f32 tensor of shape [600]: out of memory"), "{error}");
    drop(first);
    make().unwrap();
}

#[test]
fn unavailable_devices_refuse_tensors_with_the_reason_they_list() {
    let pool = HybridMemoryPool::new().unwrap();
    let mut usable = 0;
    for (device, listed) in candidates() {
        let made = BitNetTensor::zeros(&[8], BitNetDType::F16, &device, &pool);
        match (listed, made) {
            (Ok(()), Ok(tensor)) => {
                assert_eq!(tensor.device(), device);
                usable += 1;
            }
            (Err(reason), Err(error)) => assert_eq!(error.kind(), reason.kind()),
            (listed, made) => panic!("{device}: listed as {listed:?}, made {made:?}"),
        }
    }
    assert!(usable >= 1);
}
