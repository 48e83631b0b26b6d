//! Converts a tensor in every way, by every strategy and mode, and shows what each needs and loses.

use std::time::Instant;

use bitnet_core::device::get_cpu_device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine, ConversionStrategy, Placement};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};

const SHAPE: [usize; 2] = [1024, 1024];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (device, pool) = (get_cpu_device(), HybridMemoryPool::new()?);
    // Sums of three waves: near a bell, with a mean of zero.
    let values: Vec<f32> = (0..SHAPE[0] * SHAPE[1])
        .map(|i| [0.7f32, 1.3, 2.1].map(|step| (i as f32 * step).sin()).iter().sum::<f32>() * 0.02)
        .collect();
    let weights = BitNetTensor::from_slice(&values, &SHAPE, &device, &pool)?;

    println!("strategy              target        bytes      scale      max error  rms error  signal/noise");
    for strategy in ConversionStrategy::ALL {
        for dtype in [BitNetDType::F16, BitNetDType::I8, BitNetDType::I4, BitNetDType::BitNet158] {
            let config = ConversionConfig { validate_results: true, ..ConversionConfig::default() };
            let engine = ConversionEngine::new(config.with_strategy(strategy), pool.clone())?;
            let result = engine.convert(&weights, dtype)?;
            let scale = result.scale().map_or("-".into(), |scale| format!("{scale:.3e}"));
            let (name, bytes) = (strategy.name(), result.size_bytes());
            if let Some(errors) = engine.get_stats().strategy(strategy).errors() {
                let (max, rms, sqnr) = (errors.max_error, errors.rms_error, errors.sqnr_db);
                println!(
                    "{name:<21} {dtype:<10} {bytes:>8}  {scale:>9}  {max:>9.2e}  {rms:>9.2e}  {sqnr:>7.1} dB"
                );
            }
        }
    }

    println!("\nmode               time of f32 to f16   peak beside the source");
    let modes = [
        ("balanced", ConversionConfig::balanced()),
        ("high performance", ConversionConfig::high_performance()),
        ("low memory", ConversionConfig::low_memory()),
        ("high precision", ConversionConfig::high_precision()),
    ];
    for (name, config) in modes {
        let pool = HybridMemoryPool::new()?;
        let engine = ConversionEngine::new(config, pool.clone())?;
        let source = BitNetTensor::from_slice(&values, &SHAPE, &device, &pool)?;
        let before = pool.get_metrics().current_allocated;
        let start = Instant::now();
        engine.convert_owned(source, BitNetDType::F16)?;
        let (time, peak) = (start.elapsed(), pool.get_metrics().peak_allocated - before);
        println!("{name:<18} {:>12.2} ms   {peak:>12} bytes", time.as_secs_f64() * 1e3);
    }

    let engine = ConversionEngine::new(ConversionConfig::default(), pool.clone())?;
    let mut own = BitNetTensor::from_slice(&values, &SHAPE, &device, &pool)?;
    if let Placement::Same { freed } = engine.in_place_convert(&mut own, BitNetDType::BF16)? {
        println!("\nin place: {freed} bytes went back to the pool");
    }
    let chain =
        engine.pipeline().then(BitNetDType::F16).then_with(BitNetDType::I8, ConversionStrategy::Scaled);
    println!("chain f32, f16, i8: {} bytes, no f16 tensor in between", chain.run(&weights)?.size_bytes());
    let streamed = engine.streaming_convert(&weights, BitNetDType::BF16, 64 * 1024)?;
    println!("streamed through 64 KiB: {} bytes", streamed.size_bytes());
    match engine.zero_copy_convert(&streamed, BitNetDType::F16) {
        Ok(_) => println!("seen as f16"),
        Err(error) => println!("refused: {error}"),
    }
    let stats = engine.get_stats();
    let (total, rate) = (stats.total_conversions, stats.success_rate());
    println!("{total} conversions, {rate:.1} % of them gave a result");
    Ok(())
}
