//! Modes by what they promise, and the statistics.

use bitnet_core::backend::Device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine, ConversionStrategy};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};

use crate::inputs::{bell, engine, tensor, transposed};

/// Bytes of the pool above those of the source at the worst moment of a conversion that gives its source up.
fn peak_above_source(config: ConversionConfig, to: BitNetDType) -> u64 {
    let pool = HybridMemoryPool::new().unwrap();
    let engine = ConversionEngine::new(config, pool.clone()).unwrap();
    let source = BitNetTensor::ones(&[4 << 20], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let before = pool.get_metrics();
    assert_eq!(before.peak_allocated, before.current_allocated);
    let result = engine.convert_owned(source, to).unwrap();
    let size = result.size_bytes() as u64;
    assert_eq!(pool.get_metrics().current_allocated, size, "{to}");
    pool.get_metrics().peak_allocated - before.current_allocated
}

#[test]
fn low_memory_needs_a_chunk_beside_the_source_and_others_the_result() {
    for (to, size) in
        [(BitNetDType::F16, 8 << 20), (BitNetDType::I8, 4 << 20), (BitNetDType::BitNet158, 1 << 20)]
    {
        let low = peak_above_source(ConversionConfig::low_memory(), to);
        assert!(low <= 64 << 10, "{to}: {low}");
        for config in [ConversionConfig::high_performance(), ConversionConfig::balanced()] {
            assert_eq!(peak_above_source(config, to), size, "{to}");
        }
    }
}

#[test]
fn streams_and_chains_hold_a_chunk_and_no_intermediate() {
    let pool = HybridMemoryPool::new().unwrap();
    let engine = ConversionEngine::new(ConversionConfig::low_memory(), pool.clone()).unwrap();
    let source = BitNetTensor::ones(&[2048, 1024], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let view = transposed(&source, 2048, 1024);
    let before = pool.get_metrics().current_allocated;
    let (size, chunk) = (2 << 20, 128 << 10);
    let streamed = engine.streaming_convert(&view, BitNetDType::I8, chunk).unwrap();
    let peak = pool.get_metrics().peak_allocated - before;
    assert!((size..=size + chunk as u64).contains(&peak), "{peak}");
    drop(streamed);
    let chain = engine.pipeline().then(BitNetDType::BF16).then(BitNetDType::F16).then(BitNetDType::I8);
    chain.run(&view).unwrap();
    assert!(pool.get_metrics().peak_allocated - before <= size + chunk as u64);
}

#[test]
fn high_precision_loses_less_and_measures_it() {
    let mut x = bell(50_000);
    x[5] = 9.0;
    let figures = |config: ConversionConfig| {
        let strategy = config.strategy;
        let engine = engine(ConversionConfig { validate_results: true, ..config });
        engine.convert(&tensor(&x), BitNetDType::I4).unwrap();
        engine.get_stats().strategy(strategy).errors().unwrap()
    };
    let precise = figures(ConversionConfig::high_precision());
    let scaled = figures(ConversionConfig::balanced().with_strategy(ConversionStrategy::Scaled));
    assert!(precise.rms_error < 0.8 * scaled.rms_error, "{precise:?} {scaled:?}");
    assert!(precise.sqnr_db > scaled.sqnr_db + 1.9, "{precise:?} {scaled:?}");
    assert_eq!((precise.elements, scaled.elements), (50_000, 50_000));
    assert!(ConversionConfig::high_precision().validate_results);
}

#[test]
fn modes_differ_and_the_default_is_the_balanced_one() {
    let (fast, low) = (ConversionConfig::high_performance(), ConversionConfig::low_memory());
    let precise = ConversionConfig::high_precision();
    assert_eq!(ConversionConfig::default(), ConversionConfig::balanced());
    assert!(fast.parallel && !low.parallel && low.prefer_in_place && !fast.prefer_in_place);
    assert!(low.chunk_bytes < fast.chunk_bytes && fast.chunk_bytes < precise.chunk_bytes);
}

#[test]
fn statistics_count_by_strategy_and_measure_errors() {
    let config = ConversionConfig { validate_results: true, ..ConversionConfig::default() };
    let engine = engine(config);
    let stats = engine.get_stats();
    assert_eq!((stats.success_rate(), stats.average_time_ms()), (100.0, 0.0));
    // Errors by hand: 0.25, -0.25 and 0.
    engine.convert(&tensor(&[1.25f32, -2.25, 3.0]), BitNetDType::I8).unwrap();
    engine.convert(&tensor(&[1.0f32]), BitNetDType::F16).unwrap();
    engine.convert(&tensor(&[1e9f32]), BitNetDType::F16).unwrap_err();
    let stats = engine.get_stats();
    assert_eq!((stats.total_conversions, stats.failed_conversions), (3, 1));
    assert!((stats.success_rate() - 200.0 / 3.0).abs() < 1e-9);
    let direct = stats.strategy(ConversionStrategy::Direct);
    assert_eq!((direct.conversions, direct.failures, direct.elements), (3, 1, 4));
    assert_eq!((direct.bytes_read, direct.bytes_written), (16, 5));
    assert!((direct.error_rate() - 100.0 / 3.0).abs() < 1e-9);
    assert!(direct.time > std::time::Duration::ZERO && stats.average_time_ms() > 0.0);
    let errors = direct.errors().unwrap();
    assert_eq!((errors.elements, errors.max_error), (4, 0.25));
    assert!((errors.rms_error - (0.125f64 / 4.0).sqrt()).abs() < 1e-12);
    let signal = 1.5625 + 5.0625 + 9.0 + 1.0;
    assert!((errors.sqnr_db - 10.0 * (signal / 0.125f64).log10()).abs() < 1e-9);
    assert!(stats.strategy(ConversionStrategy::Scaled).errors().is_none());
}
