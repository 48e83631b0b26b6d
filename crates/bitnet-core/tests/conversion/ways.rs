//! Every way of converting against a plain conversion to a new tensor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_core::backend::Device;
use bitnet_core::memory::conversion::{
    ConversionConfig, ConversionEngine, ConversionStrategy, Placement, machine_order,
};
use bitnet_core::memory::tensor::{
    BitNetDType, BitNetTensor, Layout, TensorHandle, TensorMemory, TensorMetadata,
};
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use half::f16;

use crate::inputs::{bell, engine, odd_values, pool, tensor, transposed};

/// Several chunks of 64 KiB, with an odd rest.
const LEN: usize = 40 * 1280 + 77;

fn assert_same(a: &BitNetTensor, b: &BitNetTensor, what: &str) {
    assert_eq!((a.dtype(), a.shape(), a.scale()), (b.dtype(), b.shape(), b.scale()), "{what}");
    assert!(a.as_bytes().unwrap() == b.as_bytes().unwrap(), "{what}: other bytes");
}

/// Small chunks, so that there are many.
fn configs(strategy: ConversionStrategy) -> [ConversionConfig; 3] {
    let base = ConversionConfig::default().with_strategy(strategy);
    [
        ConversionConfig { parallel: false, chunk_bytes: usize::MAX, ..base.clone() },
        ConversionConfig { chunk_bytes: 1, past_caches_from: 0, ..base.clone() },
        ConversionConfig { chunk_bytes: 50_000, past_caches_from: usize::MAX, ..base },
    ]
}

#[test]
fn threads_chunks_streams_and_places_do_not_show_in_results() {
    let source = tensor(&bell(LEN));
    let targets = [
        BitNetDType::F16,
        BitNetDType::BF16,
        BitNetDType::I8,
        BitNetDType::I4,
        BitNetDType::BitNet158,
        BitNetDType::TernaryBase3,
    ];
    for (strategy, to) in ConversionStrategy::ALL.into_iter().flat_map(|s| targets.map(|to| (s, to))) {
        let [plain, tiny, other] = configs(strategy).map(engine);
        let expected = plain.convert(&source, to).unwrap();
        let what = format!("{strategy} to {to}");
        assert_eq!(
            expected.scale().is_some(),
            strategy != ConversionStrategy::Direct && to.range().max() < 128.0,
            "{what}"
        );
        for engine in [&tiny, &other] {
            assert_same(&engine.convert(&source, to).unwrap(), &expected, &what);
            for chunk in [1, 10_000, 64 << 10, usize::MAX] {
                let streamed = engine.streaming_convert(&source, to, chunk).unwrap();
                assert_same(&streamed, &expected, &format!("{what}, streamed by {chunk}"));
            }
            let mut placed = tensor(source.as_slice::<f32>().unwrap());
            let freed = placed.size_bytes() - expected.size_bytes();
            assert_eq!(engine.in_place_convert(&mut placed, to).unwrap(), Placement::Same { freed });
            assert_same(&placed, &expected, &format!("{what}, in place"));
            let batch =
                engine.batch_convert(&[source.clone(), tensor(&[1.0f32, -0.5]), source.clone()], to).unwrap();
            assert_same(&batch[0], &expected, &what);
            assert_same(&batch[2], &expected, &what);
            assert_eq!(batch[1].shape(), [2]);
        }
    }
}

#[test]
fn every_pair_that_does_not_grow_converts_in_place() {
    let engine = engine(ConversionConfig { chunk_bytes: 4096, ..ConversionConfig::default() });
    for (from, to) in BitNetDType::ALL.into_iter().flat_map(|from| BitNetDType::ALL.map(|to| (from, to))) {
        let source = odd_values(from, 9_001);
        let expected = engine.convert(&source, to).unwrap();
        let mut placed = odd_values(from, 9_001);
        let placement = engine.in_place_convert(&mut placed, to).unwrap();
        let fits = to.size_bytes(9_001) <= from.size_bytes(9_001);
        assert_eq!(placement != Placement::New, fits, "{from} to {to}");
        assert_same(&placed, &expected, &format!("{from} to {to}"));
    }
    let stats = engine.get_stats();
    assert!(stats.in_place > 100 && stats.total_conversions == 512, "{stats:?}");
}

#[test]
fn in_place_gives_memory_back_and_spares_what_others_see() {
    let pool = HybridMemoryPool::new().unwrap();
    let engine = ConversionEngine::new(ConversionConfig::default(), pool.clone()).unwrap();
    let mut own = BitNetTensor::ones(&[1 << 20], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let before = pool.get_metrics().current_allocated;
    let placement = engine.in_place_convert(&mut own, BitNetDType::F16).unwrap();
    assert_eq!(placement, Placement::Same { freed: 2 << 20 });
    assert_eq!(before - pool.get_metrics().current_allocated, 2 << 20);
    engine.in_place_convert(&mut own, BitNetDType::I8).unwrap();
    assert_eq!(own.as_slice::<i8>().unwrap()[..3], [1, 1, 1]);
    assert_eq!(before - pool.get_metrics().current_allocated, 3 << 20);

    let first = BitNetTensor::ones(&[64, 64], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let mut second = first.clone();
    assert_eq!(engine.in_place_convert(&mut second, BitNetDType::BF16).unwrap(), Placement::New);
    assert_eq!((first.dtype(), first.as_slice::<f32>().unwrap()[9]), (BitNetDType::F32, 1.0));
    assert_eq!(second.dtype(), BitNetDType::BF16);
    let mut grown = tensor(&[1i8, -2]);
    assert_eq!(engine.in_place_convert(&mut grown, BitNetDType::F32).unwrap(), Placement::New);
    assert_eq!(grown.as_slice::<f32>().unwrap(), [1.0, -2.0]);
}

#[test]
fn watched_memory_converts_in_place_and_tells_its_end() {
    let pool = HybridMemoryPool::new().unwrap();
    let engine = ConversionEngine::new(ConversionConfig::default(), pool.clone()).unwrap();
    let told = Arc::new(AtomicU64::new(0));
    let record = Arc::clone(&told);
    let own = BitNetTensor::ones(&[1 << 20], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let before = pool.get_metrics().current_allocated;
    let handle = TensorHandle::watched(own, move |id| record.store(id, Ordering::Relaxed)).unwrap();
    let id = handle.id();
    let mut watched = handle.into_tensor();
    let placement = engine.in_place_convert(&mut watched, BitNetDType::F16).unwrap();
    assert_eq!(placement, Placement::Same { freed: 2 << 20 });
    assert_eq!(before - pool.get_metrics().current_allocated, 2 << 20);
    assert!(watched.as_slice::<f16>().unwrap().iter().all(|&one| one == f16::ONE));
    assert_eq!(told.load(Ordering::Relaxed), 0);
    drop(watched);
    assert_eq!(told.load(Ordering::Relaxed), id);
}

#[test]
fn memory_that_cannot_shrink_holds_the_result_all_the_same() {
    #[derive(Debug)]
    struct Rigid(PoolBuffer<u8>);
    impl TensorMemory for Rigid {
        fn kind(&self) -> &'static str {
            "rigid buffer"
        }
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn bytes_mut(&mut self) -> bitnet_core::backend::Result<&mut [u8]> {
            Ok(&mut self.0)
        }
        fn pool(&self) -> Option<&HybridMemoryPool> {
            Some(self.0.pool())
        }
    }
    let engine = engine(ConversionConfig { validate_results: true, ..ConversionConfig::default() });
    let mut buffer = PoolBuffer::<u8>::zeroed(&pool(), 4000, &Device::Cpu, "test").unwrap();
    buffer.chunks_exact_mut(4).for_each(|one| one.copy_from_slice(&1f32.to_ne_bytes()));
    let metadata = TensorMetadata::new(vec![1000], BitNetDType::F32, Device::Cpu);
    let mut tensor = BitNetTensor::from_memory(metadata, Arc::new(Rigid(buffer))).unwrap();
    let placement = engine.in_place_convert(&mut tensor, BitNetDType::I8).unwrap();
    assert_eq!(placement, Placement::Same { freed: 0 });
    assert_eq!((tensor.memory().kind(), tensor.as_slice::<i8>().unwrap()), ("rigid buffer", &[1; 1000][..]));
    assert_eq!(engine.get_stats().failed_conversions, 0);
}

#[test]
fn views_convert_as_the_rows_that_they_show() {
    let (rows, cols) = (61, 83);
    for from in BitNetDType::ALL.into_iter().filter(|dtype| !dtype.is_packed()) {
        let source = odd_values(from, rows * cols);
        let view = transposed(&source, rows, cols);
        // The definition: element [c, r] of the view is element [r, c] of the memory.
        let width = from.element_bytes().unwrap();
        let bytes = source.as_bytes().unwrap();
        let mut reordered = vec![0; bytes.len()];
        for (at, out) in reordered.chunks_mut(width).enumerate() {
            out.copy_from_slice(&bytes[(at % rows * cols + at / rows) * width..][..width]);
        }
        let mut copy = BitNetTensor::zeros(&[cols, rows], from, &Device::Cpu, &pool()).unwrap();
        copy.as_mut_bytes().unwrap().copy_from_slice(&reordered);
        for config in configs(ConversionStrategy::Direct) {
            let engine = engine(config);
            for to in [from, BitNetDType::F32, BitNetDType::F16, BitNetDType::I8, BitNetDType::BitNet158] {
                let expected = engine.convert(&copy, to).unwrap();
                assert_same(&engine.convert(&view, to).unwrap(), &expected, &format!("{from} view to {to}"));
                let streamed = engine.streaming_convert(&view, to, 3000).unwrap();
                assert_same(&streamed, &expected, &format!("{from} view to {to}, streamed"));
                let mut placed = view.clone();
                assert_eq!(engine.in_place_convert(&mut placed, to).unwrap(), Placement::New);
                assert_same(&placed, &expected, &format!("{from} view to {to}, placed"));
            }
        }
    }
}

#[test]
fn views_of_any_stride_are_read_in_order() {
    let base = tensor(&(0..240).map(|i| i as f32).collect::<Vec<_>>());
    let view = |shape: &[usize], strides: &[isize], offset: usize| {
        let layout = Layout::strided(shape.to_vec(), strides.to_vec(), offset);
        BitNetTensor::from_memory(base.metadata().relaid(layout), Arc::clone(base.memory())).unwrap()
    };
    let engine = engine(ConversionConfig::default());
    let of = |view: &BitNetTensor| {
        engine.convert(view, BitNetDType::I16).unwrap().as_slice::<i16>().unwrap().to_vec()
    };
    assert_eq!(of(&view(&[4], &[-2], 9)), [9, 7, 5, 3]);
    assert_eq!(of(&view(&[2, 3], &[0, 1], 5)), [5, 6, 7, 5, 6, 7]);
    assert_eq!(of(&view(&[2, 2, 2], &[100, -10, 3], 20)), [20, 23, 10, 13, 120, 123, 110, 113]);
    assert_eq!(of(&view(&[], &[], 17)), [17]);
    assert!(of(&view(&[3, 0], &[1, 1], 0)).is_empty());
    // More elements than a block, from few.
    let many = of(&view(&[50, 40, 3], &[0, 2, 80], 1));
    for (index, value) in many.into_iter().enumerate() {
        assert_eq!(i32::from(value), (1 + index / 3 % 40 * 2 + index % 3 * 80) as i32, "{index}");
    }
}

#[test]
fn chains_give_the_bits_of_separate_conversions() {
    use ConversionStrategy::{Direct, QuantizationAware, Scaled, StochasticRounding};
    let source = tensor(&bell(LEN));
    for config in configs(Direct) {
        let engine = engine(config.clone());
        let chains: [&[(BitNetDType, ConversionStrategy)]; 5] = [
            &[(BitNetDType::F16, Direct)],
            &[(BitNetDType::BF16, Direct), (BitNetDType::I8, Scaled)],
            &[
                (BitNetDType::F16, StochasticRounding),
                (BitNetDType::F32, Direct),
                (BitNetDType::BitNet158, Scaled),
            ],
            &[(BitNetDType::I8, Scaled), (BitNetDType::F16, Direct), (BitNetDType::I4, QuantizationAware)],
            &[
                (BitNetDType::BitNet158, Scaled),
                (BitNetDType::TernaryBase3, Direct),
                (BitNetDType::I8, Direct),
                (BitNetDType::F32, Direct),
            ],
        ];
        for chain in chains {
            let mut pipeline = engine.pipeline();
            let mut expected = source.clone();
            for &(dtype, strategy) in chain {
                pipeline = pipeline.then_with(dtype, strategy);
                let step = crate::inputs::engine(config.clone().with_strategy(strategy));
                expected = step.convert(&expected, dtype).unwrap();
            }
            assert_same(&pipeline.run(&source).unwrap(), &expected, &format!("{chain:?}"));
        }
        assert!(engine.pipeline().run(&source).is_err());
    }
}

#[test]
fn scales_pass_through_codes_and_are_multiplied_into_floats() {
    let source = tensor(&bell(5000));
    let scaled = engine(ConversionConfig::default().with_strategy(ConversionStrategy::Scaled));
    let direct = engine(ConversionConfig::default());
    let ternary = scaled.convert(&source, BitNetDType::BitNet158).unwrap();
    let scale = ternary.scale().unwrap();
    for to in [BitNetDType::TernaryBase3, BitNetDType::I4, BitNetDType::I8, BitNetDType::BitNet158] {
        let same = direct.convert(&ternary, to).unwrap();
        assert_eq!(same.scale(), Some(scale), "{to}");
        let wide = direct.convert(&same, BitNetDType::F32).unwrap();
        assert_eq!(wide.scale(), None);
        assert_same(&wide, &direct.convert(&ternary, BitNetDType::F32).unwrap(), "through codes");
        assert!(wide.as_slice::<f32>().unwrap().iter().all(|x| [0.0, scale, -scale].contains(x)));
    }
    // Codes alone, where scales are no part of tensors.
    let bare = engine(ConversionConfig { preserve_metadata: false, ..ConversionConfig::default() });
    let codes = bare.convert(&ternary, BitNetDType::F32).unwrap();
    assert!(codes.as_slice::<f32>().unwrap().iter().all(|x| [0.0, 1.0, -1.0].contains(x)));
    // A copy for writing keeps the scale, and so does a clone.
    let mut copy = ternary.clone();
    copy.as_mut_bytes().unwrap();
    assert_same(&copy, &ternary, "copy");
}

#[test]
fn memory_is_seen_as_another_type_where_bits_are_meant() {
    let engine = engine(ConversionConfig::default());
    let source = tensor(&[-1i8, 1, 127]);
    let same = engine.zero_copy_convert(&source, BitNetDType::I8).unwrap();
    assert_eq!(same.as_bytes().unwrap().as_ptr(), source.as_bytes().unwrap().as_ptr());
    let bytes = engine.zero_copy_convert(&source, BitNetDType::U8).unwrap();
    assert_eq!(bytes.as_slice::<u8>().unwrap(), [255, 1, 127]);
    assert_eq!(bytes.as_bytes().unwrap().as_ptr(), source.as_bytes().unwrap().as_ptr());
    let bits = engine.zero_copy_convert(&tensor(&[1.0f32]), BitNetDType::U32).unwrap();
    assert_eq!(bits.as_slice::<u32>().unwrap(), [0x3f80_0000]);
    assert_eq!(engine.get_stats().zero_copy, 3);
    let halves = engine.convert(&tensor(&[1.0f32]), BitNetDType::F16).unwrap();
    let error = engine.zero_copy_convert(&halves, BitNetDType::BF16).unwrap_err().to_string();
    assert!(
        error.contains("f16 elements seen in place") && error.contains("found bf16; convert copies"),
        "{error}"
    );
    for to in [BitNetDType::Bool, BitNetDType::I4, BitNetDType::I16, BitNetDType::F32] {
        assert!(engine.zero_copy_convert(&source, to).is_err(), "{to}");
    }
    let scaled = crate::inputs::engine(ConversionConfig::default().with_strategy(ConversionStrategy::Scaled));
    let codes = scaled.convert(&tensor(&[0.5f32]), BitNetDType::I8).unwrap();
    assert!(engine.zero_copy_convert(&codes, BitNetDType::I8).unwrap().scale().is_some());
    assert!(engine.zero_copy_convert(&codes, BitNetDType::U8).is_err());
    assert_eq!(engine.get_stats().failed_conversions, 6);
}

#[test]
fn elements_of_a_file_convert_at_any_address() {
    let engine = engine(ConversionConfig::default());
    let values: Vec<f32> = bell(3000);
    let mut file = vec![9u8];
    file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    let mut out = vec![0u8; 6001];
    let bytes = machine_order(BitNetDType::F32, &file[1..]);
    engine.convert_elements(3000, (BitNetDType::F32, &bytes), (BitNetDType::BF16, &mut out[1..])).unwrap();
    let expected = engine.convert(&tensor(&values), BitNetDType::BF16).unwrap();
    assert!(out[1..] == *expected.as_bytes().unwrap());
    let short = engine.convert_elements(3000, (BitNetDType::F32, &bytes), (BitNetDType::BF16, &mut out));
    assert_eq!(short.unwrap_err().to_string(), "bytes of 3000 bf16: expected 6000, found 6001");
}

#[test]
fn memory_outside_of_a_pool_converts_to_memory_of_the_engine() {
    #[derive(Debug)]
    struct Mapped(PoolBuffer<u8>);
    impl TensorMemory for Mapped {
        fn kind(&self) -> &'static str {
            "mapped file"
        }
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }
    let buffer = PoolBuffer::<u8>::zeroed(&pool(), 400, &Device::Cpu, "test").unwrap();
    let metadata = TensorMetadata::new(vec![100], BitNetDType::F32, Device::Cpu);
    let mut tensor = BitNetTensor::from_memory(metadata, Arc::new(Mapped(buffer))).unwrap();
    let engine = engine(ConversionConfig::default());
    assert_eq!(engine.in_place_convert(&mut tensor, BitNetDType::F16).unwrap(), Placement::New);
    assert_eq!((tensor.dtype(), tensor.memory().kind()), (BitNetDType::F16, "pool"));
}
