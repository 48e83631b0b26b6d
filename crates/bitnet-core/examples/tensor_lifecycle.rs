//! Follows tensors from allocation over views and operations to the return of their memory.

use bitnet_core::device::auto_select_device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::{Activation, BitNetDType, BitNetTensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = auto_select_device();
    let pool = HybridMemoryPool::new()?;
    let report = |event: &str| {
        let metrics = pool.get_metrics();
        let (now, peak) = (metrics.current_allocated, metrics.peak_allocated);
        println!("  [{event}: {now} bytes in {} blocks, peak {peak}]", metrics.active_allocations());
    };
    println!("device: {device}");

    println!("\ncreation");
    let weights = BitNetTensor::ones(&[512, 512], BitNetDType::BitNet158, &device, &pool)?;
    report("ternary weights [512, 512], four to a byte");
    let mut activations = BitNetTensor::zeros(&[4, 512], BitNetDType::F32, &device, &pool)?;
    activations
        .as_mut_slice::<f32>()?
        .iter_mut()
        .enumerate()
        .for_each(|(i, value)| *value = (i % 512) as f32);
    report("f32 activations [4, 512]");
    if let Err(error) = activations.as_slice::<i8>() {
        println!("a slice of another type is refused: {error}");
    }
    let counting =
        BitNetTensor::arange(0.0, 12.0, 1.0, BitNetDType::F32, &device, &pool)?.reshape(&[3, 4])?;
    println!("{counting}");

    println!("\nviews share memory");
    let turned = counting.transpose(0, 1)?;
    let corner = counting.slice(1, None, None, -2)?.narrow(0, 1, 2)?;
    println!("{turned:?}\n{corner}");
    report("three views of one block");
    let mut written = counting.clone();
    written.as_mut_slice::<f32>()?[0] = 100.0;
    println!(
        "after writing to a clone: {:.0} and {:.0}",
        written.max(&[], false)?.item()?,
        counting.max(&[], false)?.item()?
    );
    report("the clone got memory of its own");
    drop((written, corner));

    println!("\noperations");
    let product = counting.matmul(&turned)?;
    println!("{product}");
    let normalised = counting.sub(&counting.mean(&[1], true)?)?.div(&counting.std(&[1], 0.0, true)?)?;
    println!("rows normalised, then SiLU:\n{:.3}", normalised.activate(Activation::Silu)?);
    let (best, at) = counting.softmax(-1)?.topk(2, -1, true)?;
    println!("greatest probabilities and their places:\n{best:.3}\n{at}");
    if let Err(error) = counting.add(&product) {
        println!("shapes that do not fit are refused: {error}");
    }
    let small = activations.clamp(0.0, 100.0)?.cast(BitNetDType::I8)?;
    let exact = small.linear(&weights)?;
    println!("int8 activations times ternary weights: {exact:?}");
    report("results live beside their operands");

    println!("\nthe way back");
    drop((weights, activations, small, exact, product, normalised, best, at));
    report("results and operands dropped");
    drop(counting);
    report("a view keeps its memory alive");
    drop(turned);
    report("the last view dropped");
    Ok(())
}
