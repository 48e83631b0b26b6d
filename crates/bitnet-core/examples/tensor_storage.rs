//! Tensors that outlive the program: named, saved, loaded, and told of when their memory goes.
//!
//! `cargo run --example tensor_storage`

use bitnet_core::device::auto_select_device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, TensorHandle, file};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (pool, device) = (HybridMemoryPool::new()?, auto_select_device());
    let weights = BitNetTensor::randn(&[4, 6], 7, BitNetDType::F32, &device, &pool)?;
    let codes = BitNetTensor::ones(&[4, 6], BitNetDType::TernaryBase3, &device, &pool)?;
    let before = pool.snapshot();

    // Any layout is written as what it shows.
    let path = std::env::temp_dir().join(format!("tensor-storage-{}.safetensors", std::process::id()));
    file::save(&path, &[("weights.t", &weights.transpose(0, 1)?), ("codes", &codes)])?;
    let loaded = file::load(&path, &pool)?;
    std::fs::remove_file(&path)?;
    for (name, tensor) in &loaded {
        println!("{name}: {} {:?}, {} bytes", tensor.dtype(), tensor.shape(), tensor.size_bytes());
    }
    assert_eq!(loaded["weights.t"].transpose(0, 1)?.copy_to(&pool)?.as_bytes()?, weights.as_bytes()?);
    assert_eq!(loaded["codes"].as_bytes()?, codes.as_bytes()?);
    print!("since the beginning: {}", before.difference(&pool.snapshot()));
    drop(loaded);

    let handle = TensorHandle::watched(codes, |id| println!("tensor {id}: its memory goes"))?;
    let view = handle.tensor().clone();
    let weak = handle.downgrade();
    println!("tensor {}: {} references", handle.id(), handle.strong_count());
    drop(handle);
    assert!(!weak.is_released());
    drop(view);
    assert!(weak.is_released());
    Ok(())
}
