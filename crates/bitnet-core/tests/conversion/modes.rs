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

#[test]
fn chains_count_each_conversion_by_its_strategy() {
    use ConversionStrategy::{Direct, QuantizationAware, Scaled};
    let len = 70_001;
    let x = bell(len);
    let count = len as u64;
    for (parallel, chunk_bytes) in [(false, usize::MAX), (true, 4096)] {
        let config =
            ConversionConfig { validate_results: true, parallel, chunk_bytes, ..ConversionConfig::default() };
        let chained = engine(config.clone());
        let chain = chained.pipeline().then(BitNetDType::F16).then_with(BitNetDType::I8, Scaled);
        let chain = chain.then_with(BitNetDType::I4, QuantizationAware);
        let result = chain.run(&tensor(&x)).unwrap();
        // The same one by one: each strategy has the figures of its own conversion.
        let mut expected = tensor(&x);
        let stats = chained.get_stats();
        assert_eq!((stats.total_conversions, stats.failed_conversions), (1, 0));
        for (strategy, dtype) in
            [(Direct, BitNetDType::F16), (Scaled, BitNetDType::I8), (QuantizationAware, BitNetDType::I4)]
        {
            let step = engine(
                ConversionConfig { parallel: false, chunk_bytes: 1, ..config.clone() }
                    .with_strategy(strategy),
            );
            let read = expected.size_bytes() as u64;
            expected = step.convert(&expected, dtype).unwrap();
            let (found, alone) = (*stats.strategy(strategy), *step.get_stats().strategy(strategy));
            assert_eq!((found.conversions, found.failures, found.elements), (1, 0, count), "{strategy}");
            assert_eq!((found.bytes_read, found.bytes_written), (read, expected.size_bytes() as u64));
            let (errors, alone) = (found.errors().unwrap(), alone.errors().unwrap());
            assert_eq!((errors.elements, errors.max_error), (alone.elements, alone.max_error), "{strategy}");
            // Sums of chunks of other sizes.
            assert!((errors.rms_error - alone.rms_error).abs() <= 1e-12 * alone.rms_error, "{strategy}");
            let last = strategy == QuantizationAware;
            assert_eq!(found.peak_extra_bytes, if last { expected.size_bytes() as u64 } else { 0 });
            assert_eq!(found.time > std::time::Duration::ZERO, last);
        }
        assert_eq!(result.as_bytes().unwrap(), expected.as_bytes().unwrap());
        // What is refused counts for the conversion that refused it, not for those around.
        let mut large = x.clone();
        large[60_000] = 1e9;
        let chain = chained.pipeline().then_with(BitNetDType::BF16, Scaled).then(BitNetDType::F16);
        chain.then_with(BitNetDType::I8, Scaled).run(&tensor(&large)).unwrap_err();
        let stats = chained.get_stats();
        assert_eq!((stats.total_conversions, stats.failed_conversions), (2, 1));
        let failures = ConversionStrategy::ALL.map(|strategy| stats.strategy(strategy).failures);
        assert_eq!((failures.iter().sum::<u64>(), stats.strategy(Direct).failures), (1, 1));
        assert_eq!((stats.strategy(Direct).conversions, stats.strategy(Scaled).conversions), (2, 1));
    }
}

#[test]
fn statistics_tell_the_memory_of_each_way() {
    let pool = HybridMemoryPool::new().unwrap();
    let config = ConversionConfig { parallel: false, ..ConversionConfig::default() };
    let of = || BitNetTensor::ones(&[1 << 20], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let figures = |run: &dyn Fn(&ConversionEngine, BitNetTensor)| {
        let engine = ConversionEngine::new(config.clone(), pool.clone()).unwrap();
        let source = of();
        let before = pool.get_metrics();
        run(&engine, source);
        let stats = *engine.get_stats().strategy(ConversionStrategy::Direct);
        let peak = pool.get_metrics().peak_allocated;
        assert!(stats.peak_extra_bytes <= peak - before.current_allocated, "{stats:?}");
        (stats.peak_extra_bytes, stats.bytes_freed)
    };
    let to = BitNetDType::F16;
    assert_eq!(figures(&|engine, source| drop(engine.convert(&source, to).unwrap())), (2 << 20, 0));
    let chunk = 100 << 10;
    let (extra, freed) =
        figures(&|engine, source| drop(engine.streaming_convert(&source, to, chunk).unwrap()));
    assert!(((2 << 20) + 40_000..(2 << 20) + 52_000).contains(&extra) && freed == 0, "{extra} {freed}");
    let (extra, freed) = figures(&|engine, mut source| {
        engine.in_place_convert(&mut source, to).unwrap();
        engine.in_place_convert(&mut source, BitNetDType::I8).unwrap();
    });
    assert!((300_000..600_000).contains(&extra) && freed == 3 << 20, "{extra} {freed}");
}
