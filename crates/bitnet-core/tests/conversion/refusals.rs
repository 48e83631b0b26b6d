//! What is refused, with which words, and that nothing is changed by it.

use bitnet_core::backend::{Device, ErrorKind};
use bitnet_core::memory::conversion::{ConversionConfig, ConversionEngine, ConversionStrategy};
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};

use crate::inputs::{engine, of_bytes, pool, tensor};

fn validating(strategy: ConversionStrategy) -> ConversionEngine {
    engine(ConversionConfig { validate_results: true, ..ConversionConfig::default().with_strategy(strategy) })
}

#[test]
fn validation_names_the_element_that_the_target_cannot_hold() {
    let mut x = vec![1.0f32; 5000];
    x[4321] = 70_000.0;
    let direct = validating(ConversionStrategy::Direct);
    let message = |to| direct.convert(&tensor(&x), to).unwrap_err().to_string();
    let expected =
        "element 4321 of a f32 tensor as f16: expected a value that the type can hold, found 70000";
    assert_eq!(message(BitNetDType::F16), expected);
    assert!(message(BitNetDType::I8).starts_with("element 4321 of a f32 tensor as i8"));
    assert!(direct.convert(&tensor(&x), BitNetDType::BF16).is_ok());
    assert!(direct.convert(&tensor(&[127.4f32, -128.5]), BitNetDType::I8).is_ok());
    assert!(direct.convert(&tensor(&[f32::NAN]), BitNetDType::I32).is_err());
    assert!(direct.convert(&tensor(&[f32::NAN, f32::INFINITY]), BitNetDType::F16).is_ok());
    assert!(validating(ConversionStrategy::Scaled).convert(&tensor(&x), BitNetDType::I8).is_ok());
    assert!(validating(ConversionStrategy::Scaled).convert(&tensor(&[f32::NAN]), BitNetDType::I8).is_err());
    assert!(direct.streaming_convert(&tensor(&x), BitNetDType::F16, 4096).is_err());
    let chain = direct.pipeline().then(BitNetDType::F16).then(BitNetDType::F32);
    assert_eq!(chain.run(&tensor(&x)).unwrap_err().to_string(), expected);
    let batch = direct.batch_convert(&[tensor(&[1.0f32]), tensor(&x)], BitNetDType::F16).unwrap_err();
    assert!(batch.to_string().contains("tensor 1"), "{batch}");
}

#[test]
fn validation_knows_the_ends_of_64_bits() {
    let direct = validating(ConversionStrategy::Direct);
    let two = f64::exp2;
    for (to, beyond) in [(BitNetDType::I64, two(63.0)), (BitNetDType::U64, two(64.0))] {
        let error = direct.convert(&tensor(&[0.0, beyond]), to).unwrap_err().to_string();
        assert!(error.starts_with("element 1 of a f64 tensor as"), "{error}");
        assert!(direct.convert(&tensor(&[beyond.next_down()]), to).is_ok());
        assert!(direct.convert(&tensor(&[beyond as f32]), to).is_err());
    }
    // The nearest f64 of the greatest i64 is one that no i64 is.
    assert!(direct.convert(&tensor(&[i64::MAX as u64]), BitNetDType::I64).is_ok());
    assert!(direct.convert(&tensor(&[1u64 << 63]), BitNetDType::I64).is_err());
    assert!(direct.convert(&tensor(&[-1i64]), BitNetDType::U64).is_err());
    // What would be rounded to a number beyond the range is beyond it.
    assert!(direct.convert(&tensor(&[127.5f32]), BitNetDType::I8).is_err());
    assert!(direct.convert(&tensor(&[-0.5f32, 254.5]), BitNetDType::U8).is_ok());
}

#[test]
fn a_refused_conversion_in_place_changes_nothing() {
    let mut x = vec![1.0f32; 300_000];
    x[299_999] = f32::INFINITY;
    let mut source = tensor(&x);
    let direct = validating(ConversionStrategy::Direct);
    assert!(direct.in_place_convert(&mut source, BitNetDType::I8).is_err());
    assert_eq!((source.dtype(), source.as_slice::<f32>().unwrap() == x), (BitNetDType::F32, true));
    // Without validation the bytes of ternary types are checked all the same.
    for (dtype, bad) in [(BitNetDType::BitNet158, 0b00_11_00_00u8), (BitNetDType::TernaryBase3, 250)] {
        let per_byte = dtype.block().0;
        let mut bytes = vec![0u8; 40_000];
        bytes[39_998] = bad;
        let mut source = of_bytes(dtype, 40_000 * per_byte, &bytes);
        let plain = engine(ConversionConfig::default());
        let error = plain.in_place_convert(&mut source, other_ternary(dtype)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Mismatch { .. }), "{error}");
        assert!(source.dtype() == dtype && source.as_bytes().unwrap() == bytes);
        assert!(plain.convert(&source, BitNetDType::F32).is_err());
    }
}

fn other_ternary(dtype: BitNetDType) -> BitNetDType {
    match dtype {
        BitNetDType::BitNet158 => BitNetDType::TernaryBase3,
        _ => BitNetDType::BitNet158,
    }
}

#[test]
fn memory_that_is_not_there_is_a_typed_error_and_leaves_the_source() {
    let limits = MemoryPoolConfig { max_large_pool_size: 3 << 20, ..MemoryPoolConfig::default() };
    let limited = HybridMemoryPool::with_config(limits).unwrap();
    let engine = ConversionEngine::new(ConversionConfig::default(), limited.clone()).unwrap();
    let source = BitNetTensor::ones(&[512, 1024], BitNetDType::F32, &Device::Cpu, &pool()).unwrap();
    let error = engine.convert(&source, BitNetDType::F64).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("f64 tensor of shape [512, 1024]"), "{error}");
    assert_eq!(limited.get_metrics().current_allocated, 0);
    assert!(engine.convert(&source, BitNetDType::F16).is_ok());
    assert_eq!(engine.get_stats().failed_conversions, 1);
}

#[test]
fn chunks_of_nothing_and_scales_of_no_number_are_refused() {
    let config = ConversionConfig { chunk_bytes: 0, ..ConversionConfig::default() };
    assert!(ConversionEngine::new(config, pool()).is_err());
    let scaled = engine(ConversionConfig::default().with_strategy(ConversionStrategy::Scaled));
    assert!(scaled.streaming_convert(&tensor(&[1.0f32]), BitNetDType::I8, 0).is_err());
    let error = scaled.convert(&tensor(&[1.0f32, f32::NAN]), BitNetDType::BitNet158).unwrap_err().to_string();
    assert_eq!(error, "mean magnitude of a f32 tensor: expected finite values, found a NaN or an infinity");
    let source = tensor(&[1.0f32]);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(source.metadata().clone().with_scale(Some(scale)).is_err(), "{scale}");
    }
}
