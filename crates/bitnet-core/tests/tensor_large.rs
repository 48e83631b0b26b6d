//! Operations on tensors so large that they are cut into pieces: by a naive loop over the same elements, on one thread
//! and on four, whose results have to be the same bits.
//!
//! Lengths are no multiples of a tile, a piece or a block of columns; values have a prime period, so that pieces that
//! change places do not cancel.
#![cfg(feature = "parallel")]
// A test may panic anywhere, its helpers too.
#![allow(clippy::unwrap_used)]

use bitnet_core::backend::{BitNetDType, Device, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::{Activation, BitNetTensor};

/// Runs on a team of one thread and on one of four, and returns what both gave.
#[track_caller]
fn on_any_threads(name: &str, run: impl Fn() -> Result<BitNetTensor> + Sync) -> BitNetTensor {
    let [one, four] = [1, 4].map(|threads| {
        let team = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        team.install(|| run().unwrap_or_else(|error| panic!("{name}: {error}")))
    });
    assert_eq!((one.dtype(), one.shape()), (four.dtype(), four.shape()), "{name}");
    let (one_bytes, four_bytes) = (one.contiguous().unwrap(), four.contiguous().unwrap());
    assert!(one_bytes.as_bytes().unwrap() == four_bytes.as_bytes().unwrap(), "{name}: threads show");
    four
}

/// A tensor, and its elements in row-major order.
struct Case {
    name: &'static str,
    tensor: BitNetTensor,
    values: Vec<f64>,
}

impl Case {
    fn new(name: &'static str, tensor: BitNetTensor) -> Self {
        // The index of every element by the definition of strides, not by the code that is tested.
        let (layout, memory) = (tensor.layout(), tensor.memory().bytes());
        let mut index = vec![0; layout.rank()];
        let read = |at: isize| {
            let at = usize::try_from(at).unwrap() * 4;
            let bytes: [u8; 4] = memory[at..at + 4].try_into().unwrap();
            match tensor.dtype() {
                BitNetDType::F32 => f64::from(f32::from_ne_bytes(bytes)),
                BitNetDType::I32 => f64::from(i32::from_ne_bytes(bytes)),
                other => unreachable!("{other}"),
            }
        };
        let mut values = Vec::with_capacity(tensor.element_count());
        for _ in 0..tensor.element_count() {
            let steps = index.iter().zip(layout.strides()).map(|(&i, &stride)| i as isize * stride);
            values.push(read(layout.offset() as isize + steps.sum::<isize>()));
            for (place, length) in index.iter_mut().zip(layout.shape()).rev() {
                *place += 1;
                if *place < *length {
                    break;
                }
                *place = 0;
            }
        }
        Case { name, tensor, values }
    }

    /// Returns the elements that meet in each result when dimensions `dims` go, all where none is named.
    fn lines(&self, dims: &[isize]) -> Vec<Vec<f64>> {
        let shape = self.tensor.shape();
        let kept: Vec<usize> =
            (0..shape.len()).filter(|&dim| !dims.is_empty() && !dims.contains(&(dim as isize))).collect();
        let mut lines = vec![Vec::new(); kept.iter().map(|&dim| shape[dim]).product()];
        for (flat, &value) in self.values.iter().enumerate() {
            let index = |dim: usize| flat / shape[dim + 1..].iter().product::<usize>() % shape[dim];
            lines[kept.iter().fold(0, |line, &dim| line * shape[dim] + index(dim))].push(value);
        }
        lines
    }
}

fn sum_of(line: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    line.iter().map(|&x| of(x)).sum()
}

fn extreme(line: &[f64], least: bool) -> (f64, usize) {
    let mut best = (line[0], 0);
    for (index, &value) in line.iter().enumerate() {
        let beyond = if least { value < best.0 } else { value > best.0 };
        if !best.0.is_nan() && (beyond || value.is_nan()) {
            best = (value, index);
        }
    }
    best
}

/// A reduction: its name, the operation, the naive result of a line, and the sum of the magnitudes of its terms, of which
/// the error may be a millionth.
type Reduction =
    (&'static str, fn(&BitNetTensor, &[isize]) -> Result<BitNetTensor>, fn(&[f64]) -> f64, fn(&[f64]) -> f64);

fn variance(line: &[f64]) -> f64 {
    let mean = sum_of(line, |x| x) / line.len() as f64;
    sum_of(line, |x| (x - mean) * (x - mean)) / (line.len() - 1) as f64
}

fn log_sum(line: &[f64]) -> f64 {
    let (greatest, _) = extreme(line, false);
    greatest + sum_of(line, |x| (x - greatest).exp()).ln()
}

const REDUCTIONS: [Reduction; 12] = [
    ("sum", |t, d| t.sum(d, false), |l| sum_of(l, |x| x), |l| sum_of(l, f64::abs)),
    (
        "mean",
        |t, d| t.mean(d, false),
        |l| sum_of(l, |x| x) / l.len() as f64,
        |l| sum_of(l, f64::abs) / l.len() as f64,
    ),
    ("max", |t, d| t.max(d, false), |l| extreme(l, false).0, |_| 0.0),
    ("min", |t, d| t.min(d, false), |l| extreme(l, true).0, |_| 0.0),
    ("var", |t, d| t.var(d, 1.0, false), variance, variance),
    ("std", |t, d| t.std(d, 1.0, false), |l| variance(l).sqrt(), |l| variance(l).sqrt()),
    ("norm 0", |t, d| t.norm(0.0, d, false), |l| sum_of(l, |x| f64::from(x != 0.0)), |_| 0.0),
    ("norm 1", |t, d| t.norm(1.0, d, false), |l| sum_of(l, f64::abs), |l| sum_of(l, f64::abs)),
    (
        "norm 2",
        |t, d| t.norm(2.0, d, false),
        |l| sum_of(l, |x| x * x).sqrt(),
        |l| sum_of(l, |x| x * x).sqrt(),
    ),
    (
        "norm inf",
        |t, d| t.norm(f64::INFINITY, d, false),
        |l| extreme(l, false).0.max(-extreme(l, true).0),
        |_| 0.0,
    ),
    ("logsumexp", |t, d| t.logsumexp(d, false), log_sum, |l| log_sum(l).abs() + extreme(l, false).0.abs()),
    (
        "any",
        |t, d| t.with(BitNetTensor::gt, 2.9)?.any(d, false)?.cast(BitNetDType::F32),
        |l| f64::from(l.iter().any(|&x| x > f64::from(2.9f32))),
        |_| 0.0,
    ),
];

#[track_caller]
fn check(what: &str, found: &BitNetTensor, expected: impl Iterator<Item = (f64, f64)>) {
    let found = found.cast(BitNetDType::F64).unwrap().to_vec::<f64>().unwrap();
    let mut count = 0;
    for (index, (found, (expected, terms))) in found.iter().zip(expected).enumerate() {
        let is_close = (found - expected).abs() <= 1e-6 * terms || *found == expected;
        assert!(
            is_close || (found.is_nan() && expected.is_nan()),
            "{what}[{index}]: expected {expected}, found {found}"
        );
        count += 1;
    }
    assert_eq!(count, found.len(), "{what}");
}

/// Values with a prime period, about -3 to 3 with a mean beside zero.
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + i / 8191) % 65_521) as f32 / 11_000.0 - 2.97).collect()
}

fn of(values: &[f32], shape: &[usize], pool: &HybridMemoryPool) -> BitNetTensor {
    BitNetTensor::from_slice(values, shape, &Device::Cpu, pool).unwrap()
}

fn check_reductions(case: &Case, dims: &[isize]) {
    let lines = case.lines(dims);
    for (name, run, naive, terms) in REDUCTIONS {
        let what = format!("{name} of {} by {dims:?}", case.name);
        let found = on_any_threads(&what, || run(&case.tensor, dims));
        check(&what, &found, lines.iter().map(|line| (naive(line), terms(line))));
    }
    let &[dim] = dims else { return };
    for least in [false, true] {
        let what = format!("place of the extreme ({least}) of {} by {dim}", case.name);
        let run = || if least { case.tensor.argmin(dim, false) } else { case.tensor.argmax(dim, false) };
        let found = on_any_threads(&what, run);
        check(&what, &found, lines.iter().map(|line| (extreme(line, least).1 as f64, 0.0)));
    }
}

/// More than three times what threads begin to share, and an odd rest.
const LONG: usize = 3 * (1 << 18) + 77;

#[test]
fn long_lines_are_folded_in_pieces() {
    let pool = HybridMemoryPool::new().unwrap();
    let whole = of(&values(2 * LONG), &[2 * LONG], &pool);
    let line = whole.narrow(0, 5, LONG).unwrap();
    check_reductions(&Case::new("a line", line.clone()), &[]);
    check_reductions(&Case::new("a line", line.clone()), &[0]);
    check_reductions(&Case::new("a flipped line", line.flip(&[0]).unwrap()), &[0]);
    check_reductions(&Case::new("every second", whole.slice(0, Some(1), None, 2).unwrap()), &[0]);
    // Fewer results than pieces, and two dimensions that go.
    let few = whole.narrow(0, 3, 3 * 2 * 131_113).unwrap().reshape(&[2, 3, 131_113]).unwrap();
    check_reductions(&Case::new("few long rows", few.clone()), &[2]);
    check_reductions(&Case::new("few long rows", few), &[0, 2]);
}

#[test]
fn many_rows_and_columns_are_shared() {
    let pool = HybridMemoryPool::new().unwrap();
    let (rows, cols) = (607, 2048 + 77);
    let matrix = of(&values(rows * cols), &[rows, cols], &pool);
    check_reductions(&Case::new("rows", matrix.clone()), &[1]);
    // Two pieces of columns of 2048, one of the rest.
    check_reductions(&Case::new("columns", matrix.clone()), &[0]);
    let turned = matrix.transpose(0, 1).unwrap();
    check_reductions(&Case::new("turned columns", turned.flip(&[1]).unwrap()), &[1]);
    // All of what no single stride walks through: pieces begin within rows.
    check_reductions(&Case::new("turned columns", turned), &[]);
    // More outer rows than pieces, each in columns.
    let cube = matrix.narrow(0, 0, 600).unwrap().reshape(&[20, 30, cols]).unwrap();
    check_reductions(&Case::new("columns of many", cube.slice(2, None, None, 2).unwrap()), &[1]);
    check_reductions(&Case::new("columns in steps", cube.slice(1, Some(1), Some(28), 2).unwrap()), &[0, 1]);
}

#[test]
fn the_first_extreme_is_found_in_any_piece() {
    let pool = HybridMemoryPool::new().unwrap();
    for at in [0, 65_535, 65_536, 65_537, 300_000, LONG - 1] {
        let mut line = values(LONG);
        for (value, found) in [(9.0f32, "greatest"), (f32::NAN, "NaN")] {
            line[at] = value;
            // A second one later does not count.
            *line.last_mut().unwrap() = value;
            let tensor = of(&line, &[LONG], &pool);
            let place = on_any_threads(found, || tensor.argmax(0, false));
            assert_eq!(place.item().unwrap(), at as f64, "{found}");
            let greatest = on_any_threads(found, || tensor.max(&[], false)).item().unwrap();
            assert!(
                greatest == f64::from(value) || (value.is_nan() && greatest.is_nan()),
                "{found} {greatest}"
            );
        }
    }
}

#[test]
fn integers_wrap_around_in_any_piece() {
    let pool = HybridMemoryPool::new().unwrap();
    let (rows, cols) = (131, 2100);
    let numbers: Vec<i32> = (0..rows * cols).map(|i| ((i * i % 65_521) as i32 - 30_000) | 1).collect();
    let tensor = BitNetTensor::from_slice(&numbers, &[rows, cols], &Device::Cpu, &pool).unwrap();
    let turned = tensor.transpose(0, 1).unwrap();
    let line = |col: usize| (0..rows).map(move |row| row * cols + col);
    let products: Vec<i64> =
        (0..cols).map(|col| line(col).fold(1i64, |p, at| p.wrapping_mul(numbers[at].into()))).collect();
    for (tensor, dim) in [(&tensor, 0), (&turned, 1)] {
        let product = on_any_threads("prod", || tensor.prod(&[dim], false));
        assert_eq!(product.as_slice::<i64>().unwrap(), products);
        let all = on_any_threads("prod of all", || tensor.prod(&[], false));
        let expected = products.iter().fold(1i64, |p, &x| p.wrapping_mul(x));
        assert_eq!(all.as_slice::<i64>().unwrap(), [expected]);
        let sum = on_any_threads("sum", || tensor.sum(&[], false));
        assert_eq!(sum.as_slice::<i64>().unwrap(), [numbers.iter().map(|&x| i64::from(x)).sum::<i64>()]);
        let naive = Case::new("integers", tensor.clone());
        let means = on_any_threads("mean", || tensor.mean(&[dim], false));
        let lines = naive.lines(&[dim]);
        check(
            "mean",
            &means,
            lines.iter().map(|l| (sum_of(l, |x| x) / rows as f64, sum_of(l, f64::abs) / rows as f64)),
        );
    }
}

#[test]
fn large_results_are_filled_in_pieces() {
    let pool = HybridMemoryPool::new().unwrap();
    let line = of(&values(LONG), &[LONG], &pool);
    let naive = Case::new("a line", line.clone());
    let turned = Case::new("a flipped line", line.flip(&[0]).unwrap());
    // One long row, of two that lie together and of one that does not.
    let sum = on_any_threads("add", || line.add(&turned.tensor));
    check("add", &sum, naive.values.iter().zip(&turned.values).map(|(a, b)| (a + b, a.abs() + b.abs())));
    let square = on_any_threads("square", || line.square());
    check("square", &square, naive.values.iter().map(|a| (a * a, a * a)));
    let halves = on_any_threads("halves", || line.cast(BitNetDType::F16)?.mul(&line.cast(BitNetDType::F16)?));
    check("halves", &halves, naive.values.iter().map(|a| (a * a, a * a * 2e3 + 1.0)));
    let less = on_any_threads("less", || line.lt(&turned.tensor));
    check("less", &less, naive.values.iter().zip(&turned.values).map(|(a, b)| (f64::from(a < b), 0.0)));
    // Few long rows, many short ones, rows that are columns in memory, operands that repeat.
    for (rows, cols) in [(3, 262_145), (607, 1031), (131_113, 3)] {
        let matrix = line.narrow(0, 0, rows * cols).unwrap().reshape(&[rows, cols]).unwrap();
        let columns = line.narrow(0, 0, rows * cols).unwrap().reshape(&[cols, rows]).unwrap();
        let columns = columns.transpose(0, 1).unwrap();
        let (row, col) =
            (line.narrow(0, 7, cols).unwrap(), line.narrow(0, 9, rows).unwrap().unsqueeze(1).unwrap());
        for (name, other) in [("columns", columns), ("a row", row), ("a column", col)] {
            let what = format!("{rows} times {cols} with {name}");
            let repeated = Case::new(name, other.broadcast_to(&[rows, cols]).unwrap());
            let found = on_any_threads(&what, || matrix.mul(&other));
            let pairs = naive.values.iter().zip(&repeated.values);
            check(&what, &found, pairs.clone().map(|(a, b)| (a * b, (a * b).abs())));
            let chosen = on_any_threads(&what, || matrix.lt(&other)?.where_cond(&matrix, &other));
            check(&what, &chosen, pairs.clone().map(|(a, b)| (a.min(*b), 0.0)));
            let copied = on_any_threads(&what, || repeated.tensor.contiguous());
            check(&what, &copied, repeated.values.iter().map(|&value| (value, 0.0)));
            let slope = on_any_threads(&what, || other.activate_backward(Activation::Relu, &matrix));
            check(&what, &slope, pairs.map(|(a, b)| (if *b > 0.0 { *a } else { 0.0 }, 0.0)));
        }
    }
}

#[test]
fn softmax_of_many_rows_is_shared() {
    let pool = HybridMemoryPool::new().unwrap();
    let matrix = of(&values(307 * 331), &[307, 331], &pool);
    for (name, tensor, dim) in [
        ("rows", matrix.clone(), 1usize),
        ("columns", matrix.clone(), 0),
        ("turned", matrix.transpose(0, 1).unwrap().flip(&[1]).unwrap(), 1),
        ("one row", matrix.reshape(&[307 * 331]).unwrap(), 0),
    ] {
        let case = Case::new(name, tensor);
        let shape = case.tensor.shape();
        let (length, inner) = (shape[dim], shape[dim + 1..].iter().product::<usize>());
        let sums: Vec<f64> = case.lines(&[dim as isize]).iter().map(|line| log_sum(line)).collect();
        let logs = case.values.iter().enumerate();
        let logs = logs.map(|(at, x)| x - sums[at / inner / length * inner + at % inner]);
        let found = on_any_threads(name, || case.tensor.softmax(dim as isize));
        check(name, &found, logs.clone().map(|log| (log.exp(), log.exp())));
        let found = on_any_threads(name, || case.tensor.log_softmax(dim as isize));
        check(name, &found, logs.map(|log| (log, log.abs() + 3.0)));
    }
}
