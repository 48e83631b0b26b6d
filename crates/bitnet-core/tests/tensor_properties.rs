//! Tensor operations against a naive implementation, on random shapes and views.
//!
//! The naive tensor is a list of f64 with an index for each; views are functions of that index. Every test draws
//! tensors of rank 0 to 4 with lengths 0 to 5, and cuts, turns, flips and repeats them at random.

// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_core::backend::{BitNetDType, Device};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::BitNetTensor;
use proptest::prelude::*;

/// A row-major array.
#[derive(Debug, Clone, PartialEq)]
struct Naive {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Naive {
    fn by(shape: &[usize], value: impl Fn(&[usize]) -> f64) -> Self {
        let count = shape.iter().product();
        let values = (0..count).map(|flat| value(&Self::index(shape, flat))).collect();
        Naive { shape: shape.to_vec(), values }
    }

    fn index(shape: &[usize], mut flat: usize) -> Vec<usize> {
        let mut index = vec![0; shape.len()];
        for dim in (0..shape.len()).rev() {
            index[dim] = flat % shape[dim];
            flat /= shape[dim];
        }
        index
    }

    fn at(&self, index: &[usize]) -> f64 {
        let flat = index.iter().zip(&self.shape).fold(0, |flat, (i, length)| flat * length + i);
        self.values[flat]
    }

    /// Reads with the rules of broadcasting.
    fn broadcast_at(&self, index: &[usize]) -> f64 {
        let skip = index.len() - self.shape.len();
        let own: Vec<usize> = index[skip..]
            .iter()
            .zip(&self.shape)
            .map(|(&i, &length)| if length == 1 { 0 } else { i })
            .collect();
        self.at(&own)
    }

    /// Folds dimension `dim`.
    fn fold(&self, dim: usize, of: impl Fn(&[f64]) -> f64) -> Self {
        let mut shape = self.shape.clone();
        shape[dim] = 1;
        Self::by(&shape, |index| {
            let line: Vec<f64> = (0..self.shape[dim])
                .map(|i| {
                    let mut index = index.to_vec();
                    index[dim] = i;
                    self.at(&index)
                })
                .collect();
            of(&line)
        })
    }
}

/// A view operation, with numbers that are brought into range where it is applied.
#[derive(Debug, Clone)]
enum View {
    Transpose(usize, usize),
    Slice(usize, isize, isize, isize),
    Flip(usize),
    Narrow(usize, usize, usize),
    Unsqueeze(usize),
    Expand(usize),
    Select(usize, usize),
}

fn view() -> impl Strategy<Value = View> {
    let dim = 0usize..6;
    prop_oneof![
        (dim.clone(), 0usize..6).prop_map(|(a, b)| View::Transpose(a, b)),
        (dim.clone(), -7isize..7, -7isize..7, prop_oneof![1isize..4, -3isize..0])
            .prop_map(|(d, a, b, s)| View::Slice(d, a, b, s)),
        dim.clone().prop_map(View::Flip),
        (dim.clone(), 0usize..6, 0usize..6).prop_map(|(d, a, b)| View::Narrow(d, a, b)),
        dim.clone().prop_map(View::Unsqueeze),
        (1usize..4).prop_map(View::Expand),
        (dim, 0usize..6).prop_map(|(d, i)| View::Select(d, i)),
    ]
}

/// Applies a view to both; does nothing where it has no meaning.
fn apply(view: &View, tensor: &BitNetTensor, naive: &Naive) -> (BitNetTensor, Naive) {
    let rank = naive.shape.len();
    let shape = &naive.shape;
    if let View::Unsqueeze(dim) = view {
        let dim = dim % (rank + 1);
        let mut wanted = shape.clone();
        wanted.insert(dim, 1);
        let naive = Naive { shape: wanted, values: naive.values.clone() };
        return (tensor.unsqueeze(dim as isize).unwrap(), naive);
    }
    if let View::Expand(count) = view {
        let wanted = [&[*count], &shape[..]].concat();
        let repeated = Naive::by(&wanted, |index| naive.at(&index[1..]));
        return (tensor.expand(&wanted).unwrap(), repeated);
    }
    if rank == 0 {
        return (tensor.clone(), naive.clone());
    }
    match *view {
        View::Transpose(a, b) => {
            let (a, b) = (a % rank, b % rank);
            let mut wanted = shape.clone();
            wanted.swap(a, b);
            let turned = Naive::by(&wanted, |index| {
                let mut index = index.to_vec();
                index.swap(a, b);
                naive.at(&index)
            });
            (tensor.transpose(a as isize, b as isize).unwrap(), turned)
        }
        View::Slice(dim, start, end, step) => {
            let dim = dim % rank;
            let length = shape[dim] as isize;
            let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
            let bound = |at: isize| (if at < 0 { at + length } else { at }).clamp(low, high);
            let (mut at, end_at, mut kept) = (bound(start), bound(end), Vec::new());
            while if step > 0 { at < end_at } else { at > end_at } {
                kept.push(at as usize);
                at += step;
            }
            let mut wanted = shape.clone();
            wanted[dim] = kept.len();
            let cut = Naive::by(&wanted, |index| {
                let mut index = index.to_vec();
                index[dim] = kept[index[dim]];
                naive.at(&index)
            });
            (tensor.slice(dim as isize, Some(start), Some(end), step).unwrap(), cut)
        }
        View::Flip(dim) => {
            let dim = dim % rank;
            let turned = Naive::by(shape, |index| {
                let mut index = index.to_vec();
                index[dim] = shape[dim] - 1 - index[dim];
                naive.at(&index)
            });
            (tensor.flip(&[dim as isize - rank as isize]).unwrap(), turned)
        }
        View::Narrow(dim, start, length) => {
            let dim = dim % rank;
            let start = start.min(shape[dim]);
            let length = length.min(shape[dim] - start);
            let mut wanted = shape.clone();
            wanted[dim] = length;
            let cut = Naive::by(&wanted, |index| {
                let mut index = index.to_vec();
                index[dim] += start;
                naive.at(&index)
            });
            (tensor.narrow(dim as isize, start, length).unwrap(), cut)
        }
        View::Select(dim, index) => {
            let dim = dim % rank;
            if index >= shape[dim] {
                assert!(tensor.select(dim as isize, index).is_err());
                return (tensor.clone(), naive.clone());
            }
            let mut wanted = shape.clone();
            wanted.remove(dim);
            let cut = Naive::by(&wanted, |rest| {
                let mut whole = rest.to_vec();
                whole.insert(dim, index);
                naive.at(&whole)
            });
            (tensor.select(dim as isize, index).unwrap(), cut)
        }
        View::Unsqueeze(_) | View::Expand(_) => unreachable!("handled above"),
    }
}

const TYPES: [BitNetDType; 7] = [
    BitNetDType::F32,
    BitNetDType::F64,
    BitNetDType::F16,
    BitNetDType::BF16,
    BitNetDType::I32,
    BitNetDType::I8,
    BitNetDType::I64,
];

/// Draws a tensor of small integers, which every type holds, and its naive form.
fn drawn() -> impl Strategy<Value = (BitNetTensor, Naive)> {
    let shape = prop::collection::vec(0usize..6, 0..4);
    (shape, prop::collection::vec(view(), 0..5), 0..TYPES.len(), any::<u64>()).prop_map(
        |(shape, views, dtype, seed)| {
            let pool = HybridMemoryPool::new().unwrap();
            let mut state = seed;
            let naive = Naive {
                values: (0..shape.iter().product::<usize>())
                    .map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        ((state >> 33) % 9) as f64 - 4.0
                    })
                    .collect(),
                shape,
            };
            let tensor = BitNetTensor::from_slice(&naive.values, &naive.shape, &Device::Cpu, &pool).unwrap();
            let mut both = (tensor.cast(TYPES[dtype]).unwrap(), naive);
            for view in &views {
                if both.1.values.len() < 500 {
                    both = apply(view, &both.0, &both.1);
                }
            }
            both
        },
    )
}

fn found(tensor: &BitNetTensor) -> Naive {
    let values = tensor.cast(BitNetDType::F64).unwrap().to_vec::<f64>().unwrap();
    Naive { shape: tensor.shape().to_vec(), values }
}

/// Makes a shape that repeats to `shape`: some lengths become 1, some outer dimensions go.
fn repeatable(shape: &[usize], mask: u8) -> Vec<usize> {
    let skip = usize::from(mask & 3).min(shape.len());
    let cut = |(dim, &length): (usize, &usize)| if mask >> (dim % 6 + 2) & 1 == 1 { 1 } else { length };
    shape.iter().enumerate().skip(skip).map(cut).collect()
}

/// Compares floats within what their type allows of the sum of the magnitudes of the terms: a millionth of f32, a rounding
/// of halves.
fn close(result: &BitNetTensor, expected: &Naive, terms: &Naive) {
    let found = found(result);
    assert_eq!(found.shape, expected.shape);
    let bound = match result.dtype() {
        BitNetDType::F64 => 1e-12,
        BitNetDType::F16 => 1.01 * f64::exp2(-11.0),
        BitNetDType::BF16 => 1.01 * f64::exp2(-8.0),
        _ => 1e-6,
    };
    for ((found, expected), terms) in found.values.iter().zip(&expected.values).zip(&terms.values) {
        let is_close = (found - expected).abs() <= bound * terms || found == expected;
        assert!(is_close || (found.is_nan() && expected.is_nan()), "{}: {found} {expected}", result.dtype());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn views_are_the_naive_ones((tensor, naive) in drawn()) {
        prop_assert_eq!(found(&tensor), naive.clone());
        prop_assert_eq!(found(&tensor.contiguous().unwrap()), naive.clone());
        let flat = tensor.reshape(&[naive.values.len()]).unwrap();
        prop_assert_eq!(found(&flat).values, naive.values);
    }

    #[test]
    fn two_operands_are_broadcast((left, a) in drawn(), mask in any::<u8>(), wide in 0usize..2) {
        // The other operand is a part of the same tensor, so that their shapes repeat to one another.
        let shape = repeatable(&a.shape, mask);
        let mut right = left.clone();
        while right.shape().len() > shape.len() {
            if right.shape()[0] == 0 {
                return Ok(());
            }
            right = right.select(0, 0).unwrap();
        }
        for (dim, &length) in shape.iter().enumerate() {
            if length > right.shape()[dim] {
                return Ok(());
            }
            right = right.narrow(dim as isize, 0, length).unwrap();
        }
        let right = if wide == 1 { right.cast(BitNetDType::F64).unwrap() } else { right };
        let b = found(&right);
        let naive = |of: fn(f64, f64) -> f64| Naive::by(&a.shape, |index| of(a.at(index), b.broadcast_at(index)));
        prop_assert_eq!(found(&left.add(&right).unwrap()), naive(|a, b| a + b));
        prop_assert_eq!(found(&right.sub(&left).unwrap()), naive(|a, b| b - a));
        prop_assert_eq!(found(&left.mul(&right).unwrap()), naive(|a, b| a * b));
        prop_assert_eq!(found(&left.maximum(&right).unwrap()), naive(f64::max));
        prop_assert_eq!(found(&left.minimum(&right).unwrap()), naive(f64::min));
        let less = left.lt(&right).unwrap();
        prop_assert_eq!(found(&less), naive(|a, b| f64::from(u8::from(a < b))));
        prop_assert_eq!(found(&less.where_cond(&left, &right).unwrap()), naive(f64::min));
        let quotient = naive(|a, b| a / b);
        close(&left.div(&right).unwrap(), &quotient, &naive(|a, b| (a / b).abs()));
    }

    #[test]
    fn reductions_fold_every_line((tensor, naive) in drawn(), dim in 0usize..8) {
        if naive.shape.is_empty() {
            return Ok(());
        }
        let dim = dim % naive.shape.len();
        let d = dim as isize;
        prop_assert_eq!(found(&tensor.sum(&[d], true).unwrap()), naive.fold(dim, |line| line.iter().sum()));
        let all = |value: f64| Naive { shape: vec![], values: vec![value] };
        let total = naive.values.iter().sum::<f64>();
        // The terms are small integers: the sum is exact before it is rounded.
        close(&tensor.sum(&[], false).unwrap(), &all(total), &all(total.abs()));
        let mean = naive.fold(dim, |line| line.iter().sum::<f64>() / line.len() as f64);
        close(
            &tensor.mean(&[d], true).unwrap(),
            &mean,
            &naive.fold(dim, |line| (line.iter().sum::<f64>() / line.len() as f64).abs()),
        );
        let variance = naive.fold(dim, |line| {
            let mean = line.iter().sum::<f64>() / line.len() as f64;
            line.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / line.len() as f64
        });
        close(&tensor.var(&[d], 0.0, true).unwrap(), &variance, &variance);
        prop_assert_eq!(
            found(&tensor.any(&[d], true).unwrap()),
            naive.fold(dim, |line| f64::from(u8::from(line.iter().any(|v| *v != 0.0))))
        );
        let running = tensor.cast(BitNetDType::F64).unwrap().cumsum(d).unwrap();
        prop_assert_eq!(found(&running), Naive::by(&naive.shape, |index| (0..=index[dim]).map(|i| {
            let mut index = index.to_vec();
            index[dim] = i;
            naive.at(&index)
        }).sum()));
        if naive.shape[dim] == 0 {
            if !naive.shape.iter().enumerate().any(|(at, length)| at != dim && *length == 0) {
                prop_assert!(tensor.max(&[d], true).is_err() && tensor.argmax(d, true).is_err());
            }
            return Ok(());
        }
        let greatest = |line: &[f64]| line.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert_eq!(found(&tensor.max(&[d], true).unwrap()), naive.fold(dim, greatest));
        let place = |line: &[f64]| line.iter().position(|v| *v == greatest(line)).unwrap_or(usize::MAX) as f64;
        prop_assert_eq!(found(&tensor.argmax(d, true).unwrap()), naive.fold(dim, place));
        let softmax = tensor.cast(BitNetDType::F32).unwrap().softmax(d).unwrap();
        let sums = naive.fold(dim, |line| line.iter().map(|v| v.exp()).sum());
        let shares = Naive::by(&naive.shape, |index| naive.at(index).exp() / sums.broadcast_at(index));
        close(&softmax, &shares, &shares);
        close(
            &tensor.cast(BitNetDType::F32).unwrap().logsumexp(&[d], true).unwrap(),
            &naive.fold(dim, |line| line.iter().map(|v| v.exp()).sum::<f64>().ln()),
            // The logarithm may cancel the greatest exponent.
            &naive.fold(dim, |line| line.iter().fold(1.0, |most, v| v.abs().max(most))),
        );
    }

    #[test]
    fn orders_and_choices_are_the_naive_ones((tensor, naive) in drawn(), dim in 0usize..8, descending in any::<bool>()) {
        if naive.shape.is_empty() {
            return Ok(());
        }
        let dim = dim % naive.shape.len();
        let d = dim as isize;
        let (values, indices) = tensor.sort(d, descending).unwrap();
        prop_assert_eq!(found(&tensor.gather(d, &indices).unwrap()), found(&values));
        let (values, indices) = (found(&values), found(&indices));
        for index in (0..values.values.len()).map(|flat| Naive::index(&values.shape, flat)) {
            if index[dim] > 0 {
                let mut before = index.clone();
                before[dim] -= 1;
                let (a, b) = (values.at(&before), values.at(&index));
                let in_order = if descending { a >= b } else { a <= b };
                prop_assert!(in_order);
                prop_assert!(a != b || indices.at(&before) < indices.at(&index));
            }
        }
        let count = naive.shape[dim] / 2;
        let (top, _) = tensor.topk(count, d, descending).unwrap();
        prop_assert_eq!(found(&top), found(&tensor.sort(d, descending).unwrap().0.narrow(d, 0, count).unwrap()));
        let parts = tensor.split(2, d).unwrap();
        prop_assert_eq!(found(&BitNetTensor::concat(&parts.iter().collect::<Vec<_>>(), d).unwrap()), naive.clone());
        let stacked = BitNetTensor::stack(&[&tensor, &tensor], d).unwrap();
        prop_assert_eq!(found(&stacked.select(d, 1).unwrap()), naive.clone());
        let pool = HybridMemoryPool::new().unwrap();
        let places: Vec<i32> = (0..naive.shape[dim] as i32).rev().collect();
        let places = BitNetTensor::from_slice(&places, &[places.len()], &Device::Cpu, &pool).unwrap();
        prop_assert_eq!(found(&tensor.index_select(d, &places).unwrap()), found(&tensor.flip(&[d]).unwrap()));
    }

    #[test]
    fn products_are_the_naive_ones((left, a) in drawn(), (right, b) in drawn()) {
        let (m, n) = (a.shape.len(), b.shape.len());
        if m < 2 || n < 2 {
            return Ok(());
        }
        // Both are cut to the same depth; outer dimensions other than the last two are dropped from the right one.
        let depth = a.shape[m - 1].min(b.shape[n - 2]);
        let mut right = right.narrow(-2, 0, depth).unwrap();
        while right.shape().len() > 2 {
            if right.shape()[0] == 0 {
                return Ok(());
            }
            right = right.select(0, 0).unwrap();
        }
        let left = left.narrow(-1, 0, depth).unwrap();
        let (a, b) = (found(&left), found(&right));
        let shape = [&a.shape[..m - 1], &b.shape[1..]].concat();
        let expected = Naive::by(&shape, |index| {
            (0..depth).map(|k| a.at(&[&index[..m - 1], &[k]].concat()) * b.at(&[k, index[m - 1]])).sum()
        });
        prop_assert_eq!(found(&left.matmul(&right).unwrap()), expected.clone());
        let turned = right.transpose(0, 1).unwrap();
        prop_assert_eq!(found(&left.linear(&turned).unwrap()), expected);
    }
}
