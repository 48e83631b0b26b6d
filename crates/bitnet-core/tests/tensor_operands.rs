//! Operands of every kind: packed, in memory without a pool, with a scale, of absurd lengths, and bytes that are no
//! elements. Each is computed with, or refused with one line that names the operation and the type.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bitnet_core::backend::{BitNetDType, Device, ErrorKind};
use bitnet_core::memory::tensor::file::{TensorFile, TensorSpec, TensorWriter, load, to_bytes};
use bitnet_core::memory::tensor::{Layout, TensorMetadata};
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::tensor::BitNetTensor;

const PACKED: [BitNetDType; 3] = [BitNetDType::I4, BitNetDType::BitNet158, BitNetDType::TernaryBase3];

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn ternary(len: usize) -> Vec<i8> {
    (0..len as i64).map(|i| (i * i % 7 % 3) as i8 - 1).collect()
}

fn of(values: &[i8], shape: &[usize], pool: &HybridMemoryPool) -> BitNetTensor {
    BitNetTensor::from_slice(values, shape, &Device::Cpu, pool).unwrap()
}

/// The same elements in memory that belongs to no pool.
fn without_pool(tensor: &BitNetTensor) -> BitNetTensor {
    let bytes = tensor.contiguous().unwrap().as_bytes().unwrap().to_vec();
    let memory = match tensor.dtype() {
        BitNetDType::F32 => {
            let values =
                bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect::<Vec<_>>();
            BitNetTensor::from_vec(values, &[bytes.len() / 4]).unwrap()
        }
        _ => BitNetTensor::from_vec(bytes.clone(), &[bytes.len()]).unwrap(),
    };
    let metadata = TensorMetadata::new(tensor.shape().to_vec(), tensor.dtype(), Device::Cpu);
    BitNetTensor::from_memory(metadata, Arc::clone(memory.memory())).unwrap()
}

#[track_caller]
fn refused(result: bitnet_core::backend::Result<BitNetTensor>, words: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[test]
fn an_item_is_read_wherever_it_lies() {
    let pool = pool();
    for dtype in PACKED {
        let per_byte = dtype.block().0;
        let values = ternary(3 * per_byte);
        let tensor = of(&values, &[values.len()], &pool).cast(dtype).unwrap();
        let last = tensor.narrow(0, 2 * per_byte, per_byte).unwrap();
        let metadata = TensorMetadata::with_layout(
            Layout::strided(vec![1], vec![1], last.layout().offset()),
            dtype,
            Device::Cpu,
        );
        let one = BitNetTensor::from_memory(metadata, Arc::clone(last.memory())).unwrap();
        assert_eq!(one.item().unwrap(), f64::from(values[2 * per_byte]), "{dtype}");
        assert_eq!(without_pool(&one.copy_to(&pool).unwrap()).item().unwrap(), one.item().unwrap());
    }
    let codes = of(&[3], &[1], &pool);
    let scaled = codes.metadata().clone().with_scale(Some(0.5)).unwrap();
    let scaled = BitNetTensor::from_memory(scaled, Arc::clone(codes.memory())).unwrap();
    let error = scaled.item().unwrap_err().to_string();
    assert!(error.contains("item of a i8 tensor of shape [1] with the scale 5e-1"), "{error}");
}

#[test]
fn one_operand_with_a_pool_is_enough() {
    let pool = pool();
    let (values, other) = (ternary(60), of(&[1, -1, 2, 3, 5, 7], &[6], &pool));
    let plain = of(&values, &[10, 6], &pool);
    let wide = plain.cast(BitNetDType::F32).unwrap();
    for dtype in PACKED {
        let lone = without_pool(&plain.cast(dtype).unwrap());
        assert!(lone.memory().pool().is_none());
        refused(lone.add(&lone), "add of a tensor of shape [10, 6] in a vector");
        let same = |found: BitNetTensor, expected: BitNetTensor| {
            assert_eq!(found.dtype(), expected.dtype());
            assert_eq!(found.as_bytes().unwrap(), expected.as_bytes().unwrap(), "{dtype}");
        };
        same(lone.add(&other).unwrap(), plain.add(&other).unwrap());
        same(other.lt(&lone).unwrap(), other.lt(&plain).unwrap());
        same(lone.where_cond(&plain, &other).unwrap(), plain.where_cond(&plain, &other).unwrap());
        same(wide.activate_backward(bitnet_core::tensor::Activation::Relu, &lone).unwrap(), {
            wide.activate_backward(bitnet_core::tensor::Activation::Relu, &plain).unwrap()
        });
        same(wide.matmul(&lone.reshape(&[6, 10]).unwrap()).unwrap(), {
            wide.matmul(&plain.reshape(&[6, 10]).unwrap()).unwrap()
        });
        same(other.linear(&lone).unwrap(), other.linear(&plain).unwrap());
        let square = plain.abs().unwrap().narrow(0, 0, 6).unwrap();
        let chosen = without_pool(&square.cast(BitNetDType::I4).unwrap());
        same(plain.gather(0, &chosen).unwrap(), plain.gather(0, &square).unwrap());
        same(
            BitNetTensor::concat(&[&lone, &wide], 0).unwrap(),
            BitNetTensor::concat(&[&plain, &wide], 0).unwrap(),
        );
    }
    // Views that do not lie together, and other types.
    let lone = without_pool(&plain).transpose(0, 1).unwrap();
    let turned = plain.transpose(0, 1).unwrap();
    let same = |found: BitNetTensor, expected: BitNetTensor| {
        assert_eq!(found.as_bytes().unwrap(), expected.as_bytes().unwrap());
    };
    let packed = of(&ternary(70), &[7, 10], &pool).cast(BitNetDType::TernaryBase3).unwrap();
    same(lone.linear(&packed).unwrap(), turned.linear(&packed).unwrap());
    same(lone.matmul(&plain).unwrap(), turned.matmul(&plain).unwrap());
    let long = plain.cast(BitNetDType::I16).unwrap();
    same(lone.matmul(&long).unwrap(), turned.matmul(&long).unwrap());
    same(lone.matmul(&wide).unwrap(), turned.matmul(&wide).unwrap());
    same(
        without_pool(&wide).transpose(0, 1).unwrap().matmul(&wide.cast(BitNetDType::F64).unwrap()).unwrap(),
        wide.transpose(0, 1).unwrap().matmul(&wide.cast(BitNetDType::F64).unwrap()).unwrap(),
    );
}

#[test]
fn packed_types_count_as_i8_in_every_dimension() {
    let pool = pool();
    let plain = of(&ternary(90), &[3, 5, 6], &pool);
    let index = BitNetTensor::from_slice(&[2i64, 0], &[2], &Device::Cpu, &pool).unwrap();
    for dtype in PACKED {
        let packed = plain.cast(dtype).unwrap();
        for dim in 0..3 {
            let expected = plain.softmax(dim).unwrap();
            assert_eq!(packed.softmax(dim).unwrap().as_bytes().unwrap(), expected.as_bytes().unwrap());
            let expected = plain.log_softmax(dim).unwrap();
            assert_eq!(packed.log_softmax(dim).unwrap().as_bytes().unwrap(), expected.as_bytes().unwrap());
            let (chosen, expected) =
                (packed.index_select(dim, &index).unwrap(), plain.index_select(dim, &index).unwrap());
            assert_eq!(chosen.as_slice::<i8>().unwrap(), expected.as_slice::<i8>().unwrap());
        }
        let places = index.reshape(&[1, 2, 1]).unwrap();
        let (chosen, expected) = (packed.gather(1, &places).unwrap(), plain.gather(1, &places).unwrap());
        assert_eq!(chosen.as_slice::<i8>().unwrap(), expected.as_slice::<i8>().unwrap());
        for rounded in [packed.floor(), packed.ceil(), packed.round()] {
            assert_eq!(rounded.unwrap().as_slice::<i8>().unwrap(), plain.as_slice::<i8>().unwrap());
        }
    }
}

#[test]
fn integers_stay_when_rounded_and_what_is_no_number_is_refused() {
    let pool = pool();
    let codes = of(&[-3, 7], &[2], &pool);
    assert_eq!(codes.floor().unwrap().as_slice::<i8>().unwrap(), [-3, 7]);
    let scaled = codes.metadata().clone().with_scale(Some(0.3)).unwrap();
    let scaled = BitNetTensor::from_memory(scaled, Arc::clone(codes.memory())).unwrap();
    refused(scaled.round(), "round of a i8 tensor of shape [2] with the scale 3e-1");
    refused(scaled.softmax(0), "softmax of a i8 tensor");
    let truth = BitNetTensor::ones(&[2], BitNetDType::Bool, &Device::Cpu, &pool).unwrap();
    refused(truth.ceil(), "ceil of bool [2]: truth values are no numbers");
}

#[test]
fn weights_that_stay_packed_give_exact_products() {
    let pool = pool();
    for (rows, cols) in [(1, 1), (3, 7), (4, 64), (9, 33), (10, 250), (130, 1029)] {
        let (x, w) =
            (of(&ternary(2 * cols), &[2, cols], &pool), of(&ternary(rows * cols), &[rows, cols], &pool));
        let expected = x.matmul(&w.transpose(0, 1).unwrap()).unwrap();
        for dtype in [BitNetDType::BitNet158, BitNetDType::TernaryBase3] {
            let found = x.linear(&w.cast(dtype).unwrap()).unwrap();
            assert_eq!(
                found.as_slice::<i32>().unwrap(),
                expected.as_slice::<i32>().unwrap(),
                "{rows} {cols}"
            );
        }
    }
    // The weights of a large matrix never stand beside it unpacked: the pool of the product has no room for them.
    let (rows, cols) = (2048, 1024);
    let weights = BitNetTensor::ones(&[rows, cols], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
    let limits = MemoryPoolConfig { max_large_pool_size: 1 << 20, ..MemoryPoolConfig::default() };
    let small = HybridMemoryPool::with_config(limits).unwrap();
    let x = of(&vec![1; cols], &[1, cols], &small);
    assert_eq!(x.linear(&weights).unwrap().as_slice::<i32>().unwrap(), vec![cols as i32; rows]);
}

#[test]
fn lengths_that_no_memory_holds_are_typed_errors() {
    let pool = pool();
    let one = BitNetTensor::from_slice(&[0i64], &[1], &Device::Cpu, &pool).unwrap();
    let absurd = one.broadcast_to(&[1 << 50]).unwrap();
    let bytes = of(&[1], &[1, 1], &pool).broadcast_to(&[1 << 30, 1 << 22]).unwrap();
    let results = [
        one.index_select(0, &absurd),
        one.gather(0, &absurd),
        absurd.one_hot(2),
        absurd.cumsum(0),
        bytes.argsort(0, true),
        bytes.cumsum(1),
    ];
    let others = [
        absurd.split(1, 0).map(|_| ()),
        to_bytes(&[("a", &absurd)]).map(|_| ()),
        bytes.to_vec::<i8>().map(|_| ()),
    ];
    for (case, result) in results.map(|result| result.map(|_| ())).into_iter().chain(others).enumerate() {
        let error = result.unwrap_err();
        let out = matches!(error.kind(), ErrorKind::OutOfMemory { .. } | ErrorKind::TensorTooLarge { .. });
        assert!(out, "{case}: {error}");
    }
}

#[test]
fn bytes_that_are_no_elements_are_refused_where_they_come_in() {
    let pool = pool();
    let folder = bitnet_testing::temp::TempDir::new("odd-bytes");
    let cases = [
        (BitNetDType::Bool, 2u8, "bool elements: expected 0 or 1, found 2"),
        (
            BitNetDType::BitNet158,
            0b01_11_01_01,
            "bitnet158 elements: expected 0, 1 and 2 in two bits each, found 117",
        ),
        (BitNetDType::TernaryBase3, 243, "ternary-base3 elements: expected five base-3 digits, found 243"),
    ];
    for (dtype, odd, words) in cases {
        let shape = [6 * dtype.block().0];
        let path = folder.path().join(dtype.name());
        let write = |bytes: &[u8]| {
            let mut file = TensorWriter::create(&path, &[TensorSpec::new("w", dtype, &shape)]).unwrap();
            file.write(bytes).unwrap();
            file.commit().unwrap();
        };
        write(&[1, 1, 0, 1, 1, 1]);
        assert_eq!(load(&path, &pool).unwrap()["w"].as_bytes().unwrap(), [1, 1, 0, 1, 1, 1]);
        let bytes = [1, 1, 0, odd, 1, 1];
        write(&bytes);
        let named = |error: String| {
            assert!(error.ends_with(&format!("byte 3 of {words}")), "{error}");
        };
        let error = load(&path, &pool).unwrap_err().to_string();
        assert!(error.contains("tensor w"), "{error}");
        named(error);
        let image =
            BitNetTensor::from_vec(std::fs::read(&path).unwrap(), &[std::fs::read(&path).unwrap().len()]);
        let file = TensorFile::parse(Arc::clone(image.unwrap().memory()), "image").unwrap();
        let error = file.tensor("w").unwrap_err().to_string();
        assert!(error.starts_with("image: tensor w: "), "{error}");
        named(error);
        let raw = BitNetTensor::from_vec(bytes.to_vec(), &[6]).unwrap();
        let metadata = TensorMetadata::new(shape.to_vec(), dtype, Device::Cpu);
        let error = BitNetTensor::from_memory(metadata, Arc::clone(raw.memory())).unwrap_err().to_string();
        assert!(error.starts_with("memory (vector) of a tensor of shape"), "{error}");
        named(error);
    }
    // What lies between the elements of a view is not its own, and what repeats is read once.
    let raw = BitNetTensor::from_vec(vec![1u8, 7, 0, 9, 1, 9], &[6]).unwrap();
    let view = |stride: isize, length: usize| {
        let layout = Layout::strided(vec![length, 3], vec![0, stride], 0);
        let metadata = TensorMetadata::with_layout(layout, BitNetDType::Bool, Device::Cpu);
        BitNetTensor::from_memory(metadata, Arc::clone(raw.memory()))
    };
    assert!(view(2, 1 << 40).is_ok());
    assert!(view(1, 2).is_err());
}

#[test]
fn a_scale_that_cannot_be_read_back_is_not_written() {
    let folder = bitnet_testing::temp::TempDir::new("odd-scales");
    let path = folder.path().join("a.safetensors");
    for scale in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let spec = TensorSpec { scale: Some(scale), ..TensorSpec::new("w", BitNetDType::I8, &[1]) };
        let error = TensorWriter::create(&path, &[spec]).err().unwrap().to_string();
        assert!(
            error.contains("tensor w: scale of a tensor: expected a finite number above zero"),
            "{error}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn the_variance_of_the_greatest_and_least_numbers_does_not_depend_on_the_layout() {
    let pool = pool();
    fn both<T: bitnet_core::memory::Element>(values: &[T], pool: &HybridMemoryPool) -> [f64; 2] {
        let row = BitNetTensor::from_slice(values, &[values.len()], &Device::Cpu, pool).unwrap();
        let twice: Vec<T> = values.iter().flat_map(|&value| [value; 2]).collect();
        let columns = BitNetTensor::from_slice(&twice, &[values.len(), 2], &Device::Cpu, pool).unwrap();
        let columns = columns.std(&[0], 0.0, false).unwrap().narrow(0, 0, 1).unwrap();
        [row.std(&[], 0.0, false).unwrap().item().unwrap(), columns.item().unwrap()]
    }
    for value in [1e200, 1.7e308, f64::MAX, 0.0, 1e-310] {
        assert_eq!(both(&[value; 2], &pool), [0.0; 2], "{value}");
        assert_eq!(both(&vec![value; 10_000], &pool), [0.0; 2], "{value}");
    }
    for value in [3e38f32, f32::MAX, 1e-40] {
        assert_eq!(both(&[value; 5000], &pool), [0.0; 2], "{value}");
    }
    // Squares of deviations that f32 holds not at all, or not with all its bits.
    for value in [1e20f32, 1e-19, 1e-25, 3e-40] {
        let values: Vec<f32> = (0..5000).map(|i| if i % 2 == 0 { value } else { -value }).collect();
        for found in both(&values, &pool) {
            assert!((found / f64::from(value) - 1.0).abs() < 1e-6, "{value}: {found}");
        }
    }
    for odd in [f64::NAN, f64::INFINITY] {
        assert!(both(&[1.0, odd, 2.0], &pool).iter().all(|found| found.is_nan()), "{odd}");
    }
}

#[test]
fn activations_of_great_numbers_have_their_limits() {
    use bitnet_core::tensor::Activation;
    let pool = pool();
    let great = [1e19f32, 1e20, 3e38, -1e19, -1e20, -3e38];
    let x = BitNetTensor::from_slice(&great, &[6], &Device::Cpu, &pool).unwrap();
    let ones = BitNetTensor::ones(&[6], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    for activation in Activation::ALL {
        let values = x.activate(activation).unwrap().to_vec::<f32>().unwrap();
        let slopes = x.activate_backward(activation, &ones).unwrap().to_vec::<f32>().unwrap();
        for ((x, value), slope) in great.into_iter().zip(values).zip(slopes) {
            let at_infinity = match activation {
                Activation::Sigmoid => [1.0, 0.0],
                Activation::Tanh => [x.signum(), 0.0],
                Activation::SquaredRelu => [x.max(0.0) * x.max(0.0), 2.0 * x.max(0.0)],
                _ => [x.max(0.0), 1.0],
            };
            let below = if activation == Activation::Tanh { [-1.0, 0.0] } else { [0.0, 0.0] };
            let expected = if x > 0.0 { at_infinity } else { below };
            assert_eq!([value, slope], expected, "{} of {x}", activation.name());
        }
    }
}
