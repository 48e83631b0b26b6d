//! One small case of each frame and kernel that needs no feature, for interpreters too: views, packed operands, other
//! types on the way in and out. The suites under `tests` compare values at length.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::memory::HybridMemoryPool;
use bitnet_backend::Device;

fn counting(pool: &HybridMemoryPool) -> BitNetTensor {
    let values: Vec<f32> = (0..24).map(|i| (i * 7 % 24) as f32).collect();
    BitNetTensor::from_slice(&values, &[2, 3, 4], &Device::Cpu, pool).unwrap()
}

/// A view that neither lies together nor walks forward: `[4, 3]`, from the second half of `counting`.
fn turned(of: &BitNetTensor) -> BitNetTensor {
    of.select(0, 1).unwrap().transpose(0, 1).unwrap().flip(&[0]).unwrap()
}

fn floats(tensor: &BitNetTensor) -> Vec<f32> {
    tensor.to_vec::<f32>().unwrap()
}

#[test]
fn views_of_every_stride_are_walked() {
    let pool = HybridMemoryPool::new().unwrap();
    let whole = counting(&pool);
    let view = turned(&whole);
    assert_eq!(floats(&view), [9.0, 13.0, 17.0, 2.0, 6.0, 10.0, 19.0, 23.0, 3.0, 12.0, 16.0, 20.0]);
    let row = view.select(0, 1).unwrap();
    assert_eq!(floats(&view.sub(&row).unwrap())[..4], [7.0, 7.0, 7.0, 0.0]);
    let halves = view.cast(BitNetDType::F16).unwrap();
    assert_eq!(floats(&halves.mul(&view).unwrap())[..2], [81.0, 169.0]);
    let less = view.lt(&row).unwrap();
    assert_eq!(less.as_bytes().unwrap(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(floats(&less.where_cond(&row, &view).unwrap())[8], 10.0);
    assert_eq!(floats(&view.relu().unwrap()), floats(&view));
    let backward = view.neg().unwrap().activate_backward(Activation::Relu, &view).unwrap();
    assert_eq!(floats(&backward), [0.0; 12]);
    assert_eq!(floats(&view.slice(0, None, None, 2).unwrap().sqrt().unwrap())[0], 3.0);
    let bytes = view.cast(BitNetDType::U8).unwrap();
    assert_eq!(bytes.as_slice::<u8>().unwrap()[..3], [9, 13, 17]);
}

#[test]
fn rows_columns_and_lines_are_folded() {
    let pool = HybridMemoryPool::new().unwrap();
    let whole = counting(&pool);
    let view = turned(&whole);
    for view in [view.clone(), view.contiguous().unwrap()] {
        assert_eq!(floats(&view.sum(&[1], false).unwrap()), [39.0, 18.0, 45.0, 48.0]);
        assert_eq!(floats(&view.sum(&[0], false).unwrap()), [42.0, 58.0, 50.0]);
        assert_eq!(floats(&view.max(&[0], true).unwrap()), [19.0, 23.0, 20.0]);
        assert_eq!(view.argmin(1, false).unwrap().as_slice::<i64>().unwrap(), [0, 0, 2, 0]);
        assert_eq!(view.argmax(0, false).unwrap().as_slice::<i64>().unwrap(), [2, 2, 3]);
        assert_eq!(
            view.prod(&[], false).unwrap().item().unwrap() as f32,
            floats(&view).iter().product::<f32>()
        );
        assert_eq!(floats(&view.var(&[1], 1.0, false).unwrap())[..2], [16.0, 16.0]);
        assert_eq!(view.norm(f64::INFINITY, &[], false).unwrap().item().unwrap(), 23.0);
        assert!((view.logsumexp(&[], false).unwrap().item().unwrap() - 23.069_114).abs() < 1e-4);
        assert_eq!(view.any(&[0], false).unwrap().as_bytes().unwrap(), [1; 3]);
        let sums = view.softmax(0).unwrap().sum(&[0], false).unwrap();
        assert!(floats(&sums).iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        assert_eq!(floats(&view.cumsum(0).unwrap())[9..], [42.0, 58.0, 50.0]);
        let (values, places) = view.sort(1, true).unwrap();
        assert_eq!(floats(&values)[6..9], [23.0, 19.0, 3.0]);
        assert_eq!(places.as_slice::<i64>().unwrap()[6..9], [1, 0, 2]);
        assert_eq!(floats(&view.topk(1, 0, false).unwrap().0), [2.0, 6.0, 3.0]);
    }
}

#[test]
fn elements_are_chosen_and_joined() {
    let pool = HybridMemoryPool::new().unwrap();
    let whole = counting(&pool);
    let view = turned(&whole);
    let places = BitNetTensor::from_slice(&[2i64, 0], &[2], &Device::Cpu, &pool).unwrap();
    assert_eq!(floats(&view.index_select(1, &places).unwrap())[..4], [17.0, 9.0, 10.0, 2.0]);
    assert_eq!(floats(&view.gather(1, &places.unsqueeze(0).unwrap()).unwrap()), [17.0, 9.0]);
    assert_eq!(places.one_hot(3).unwrap().as_slice::<i64>().unwrap(), [0, 0, 1, 1, 0, 0]);
    let parts = view.split(3, 0).unwrap();
    let joined = BitNetTensor::concat(&[&parts[1], &parts[0]], 0).unwrap();
    assert_eq!(floats(&joined)[..3], [12.0, 16.0, 20.0]);
    assert_eq!(floats(&joined.narrow(0, 1, 3).unwrap()), floats(&view)[..9]);
    let stacked = BitNetTensor::stack(&[&view, &view], -1).unwrap();
    assert_eq!(floats(&stacked)[..4], [9.0, 9.0, 13.0, 13.0]);
}

#[test]
fn integers_and_packed_weights_are_multiplied() {
    let pool = HybridMemoryPool::new().unwrap();
    let codes: Vec<i8> = (0..35).map(|i| (i % 3) - 1).collect();
    let weights = BitNetTensor::from_slice(&codes, &[5, 7], &Device::Cpu, &pool).unwrap();
    let x: Vec<i8> = (0..14).map(|i| i * 9 - 60).collect();
    let x = BitNetTensor::from_slice(&x, &[2, 7], &Device::Cpu, &pool).unwrap();
    let expected = x.matmul(&weights.transpose(0, 1).unwrap()).unwrap();
    let naive = |row: usize, col: usize| {
        (0..7)
            .map(|k| (row * 7 + k) as i32 * 9 - 60)
            .zip(&codes[col * 7..])
            .map(|(x, &w)| x * i32::from(w))
            .sum()
    };
    let all: Vec<i32> = (0..10).map(|at| naive(at / 5, at % 5)).collect();
    assert_eq!(expected.as_slice::<i32>().unwrap(), all);
    for dtype in [BitNetDType::BitNet158, BitNetDType::TernaryBase3] {
        let packed = weights.cast(dtype).unwrap();
        assert_eq!(x.linear(&packed).unwrap().as_slice::<i32>().unwrap(), all);
        let columns = packed.matmul(&x.transpose(0, 1).unwrap()).unwrap();
        assert_eq!(columns.transpose(0, 1).unwrap().contiguous().unwrap().as_slice::<i32>().unwrap(), all);
        assert_eq!(packed.sum(&[], false).unwrap().item().unwrap(), f64::from(codes.iter().sum::<i8>()));
        assert_eq!(packed.add(&weights).unwrap().as_slice::<i8>().unwrap()[..4], [-2, 0, 2, -2]);
    }
}
