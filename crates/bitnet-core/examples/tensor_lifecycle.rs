//! Follows tensors from allocation to the return of their memory.

use bitnet_core::device::auto_select_device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = auto_select_device();
    let pool = HybridMemoryPool::new()?;
    let report = |event: &str| {
        let metrics = pool.get_metrics();
        let (now, peak) = (metrics.current_allocated, metrics.peak_allocated);
        println!("{event:<42} {now:>9} bytes in {} blocks, peak {peak}", metrics.active_allocations());
    };
    println!("device: {device}");
    report("pool made");

    let weights = BitNetTensor::ones(&[512, 512], BitNetDType::BitNet158, &device, &pool)?;
    report("ternary weights [512, 512]");
    let mut activations = BitNetTensor::zeros(&[4, 512], BitNetDType::F32, &device, &pool)?;
    report("f32 activations [4, 512]");

    activations.as_mut_slice::<f32>()?.iter_mut().enumerate().for_each(|(i, value)| *value = i as f32);
    let sum: f32 = activations.as_slice::<f32>()?[..512].iter().sum();
    println!("sum of the first row: {sum}");
    if let Err(error) = activations.as_slice::<i8>() {
        println!("a view of another type is refused: {error}");
    }

    drop(activations);
    report("activations dropped");
    drop(weights);
    report("weights dropped");
    Ok(())
}
