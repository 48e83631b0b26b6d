//! The tensor suite: `cargo bench -p bitnet-benchmarks --bench tensor`, with candle beside it under
//! `--features tensor-peers`.
//!
//! Every work runs in turn with its rivals, round by round, back and forth: a loop written by hand that moves the same
//! bytes into memory that it has already, ndarray, candle, or `gemm` called directly. Printed are milliseconds (medians)
//! and how many times as fast ours is as each rival. `-- --test` looks only whether it runs; other words choose works by name.
#![allow(missing_docs)]
// Only candle is added to a list of contenders.
#![cfg_attr(not(feature = "tensor-peers"), allow(unused_mut))]

use std::convert::Infallible;
use std::hint::black_box;

use bitnet_benchmarks::rounds::{alternate, seconds};
use bitnet_benchmarks::statistics::Summary;
use bitnet_core::backend::{BitNetDType, Device};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::BitNetTensor;
use ndarray::{Array2, Axis};

/// Rounds of which the median counts.
const ROUNDS: usize = 9;

type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

struct Suite {
    rounds: usize,
    chosen: Vec<String>,
}

impl Suite {
    /// Times contenders in turn; the first is ours.
    fn run(&self, work: &str, mut contenders: Vec<Contender<'_>>) {
        if !self.chosen.is_empty() && !self.chosen.iter().any(|word| work.contains(word.as_str())) {
            return;
        }
        let mut timed: Vec<_> = contenders
            .iter_mut()
            .map(|(_, run)| move || Ok::<f64, Infallible>(seconds(&mut *run) * 1e3))
            .collect();
        let mut timed: Vec<_> = timed.iter_mut().map(|timed| timed as &mut dyn FnMut() -> _).collect();
        let Ok(samples) = alternate(self.rounds, &mut timed);
        let medians: Vec<f64> = samples.iter().map(|samples| Summary::of(samples).median).collect();
        print!("{work:<34} {:>8.2} ms", medians[0]);
        for ((name, _), median) in contenders.iter().zip(&medians).skip(1) {
            print!("   {name} {median:.2} ms ({:.2}x)", median / medians[0]);
        }
        println!();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let test = args.iter().any(|arg| arg == "--test");
    let chosen = args.into_iter().filter(|arg| !arg.starts_with("--")).collect();
    let suite = Suite { rounds: if test { 1 } else { ROUNDS }, chosen };
    let side = if test { 128 } else { 4096 };
    println!("f32 [{side}, {side}], {} threads", rayon::current_num_threads());
    elementwise(&suite, side)?;
    reductions(&suite, side)?;
    products(&suite, if test { 64 } else { 1024 })?;
    Ok(())
}

/// Makes equal arrays of both kinds.
fn arrays(side: usize, seed: u64) -> Result<(BitNetTensor, Array2<f32>), Box<dyn std::error::Error>> {
    let pool = HybridMemoryPool::new()?;
    let ours = BitNetTensor::rand(&[side, side], seed, BitNetDType::F32, &Device::Cpu, &pool)?;
    let theirs = Array2::from_shape_vec((side, side), ours.to_vec::<f32>()?)?;
    Ok((ours, theirs))
}

fn ours<'a>(run: impl Fn() -> bitnet_core::error::Result<BitNetTensor> + 'a) -> Contender<'a> {
    (
        "ours",
        Box::new(move || {
            black_box(run().expect("the shapes fit"));
        }),
    )
}

fn rival<'a, T>(name: &'static str, mut run: impl FnMut() -> T + 'a) -> Contender<'a> {
    (
        name,
        Box::new(move || {
            black_box(run());
        }),
    )
}

/// Adds candle's version of a work where the peers are built.
macro_rules! candle {
    ($contenders:ident, |$a:ident, $b:ident| $run:expr, $arrays:expr) => {
        #[cfg(feature = "tensor-peers")]
        {
            let (left, right): (&Array2<f32>, &Array2<f32>) = $arrays;
            let make = |array: &Array2<f32>| {
                let shape = array.dim();
                candle_core::Tensor::from_vec(
                    array.as_standard_layout().iter().copied().collect(),
                    shape,
                    &candle_core::Device::Cpu,
                )
            };
            let ($a, $b) = (make(left)?, make(right)?);
            $contenders.push(rival("candle", move || {
                let _ = &$b;
                $run.expect("the shapes fit")
            }));
        }
    };
}

fn elementwise(suite: &Suite, side: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (a, na) = arrays(side, 1)?;
    let (b, nb) = arrays(side, 2)?;
    let (sa, sb) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let mut out = vec![0.0f32; side * side];

    let mut contenders = vec![
        ours(|| a.add(&b)),
        rival("by hand", || {
            for ((out, a), b) in out.iter_mut().zip(&sa).zip(&sb) {
                *out = a + b;
            }
            black_box(&mut out);
        }),
        rival("ndarray", || &na + &nb),
    ];
    candle!(contenders, |x, y| &x + &y, (&na, &nb));
    suite.run("add", contenders);

    let mut out = vec![0.0f32; side * side];
    let mut contenders = vec![
        ours(|| a.with(BitNetTensor::mul, 1.5)),
        rival("by hand", || {
            for (out, a) in out.iter_mut().zip(&sa) {
                *out = a * 1.5;
            }
            black_box(&mut out);
        }),
        rival("ndarray", || &na * 1.5f32),
    ];
    candle!(contenders, |x, y| (&x * 1.5), (&na, &nb));
    suite.run("mul by a number", contenders);

    let mut out = vec![0.0f32; side * side];
    let row = a.select(0, 0)?;
    let nrow = na.row(0);
    let srow = &sa[..side];
    suite.run(
        "add a row",
        vec![
            ours(|| a.add(&row)),
            rival("by hand", || {
                for (out, a) in out.chunks_exact_mut(side).zip(sa.chunks_exact(side)) {
                    for ((out, a), b) in out.iter_mut().zip(a).zip(srow) {
                        *out = a + b;
                    }
                }
                black_box(&mut out);
            }),
            rival("ndarray", || &na + &nrow),
        ],
    );

    let mut out = vec![0.0f32; side * side];
    let mut contenders = vec![
        ours(|| a.relu()),
        rival("by hand", || {
            for (out, a) in out.iter_mut().zip(&sa) {
                *out = a.max(0.0);
            }
            black_box(&mut out);
        }),
        rival("ndarray", || na.mapv(|a| a.max(0.0))),
    ];
    candle!(contenders, |x, y| x.relu(), (&na, &nb));
    suite.run("relu", contenders);

    let mut out = vec![0.0f32; side * side];
    let mut contenders = vec![
        ours(|| a.exp()),
        rival("by hand", || {
            for (out, a) in out.iter_mut().zip(&sa) {
                *out = a.exp();
            }
            black_box(&mut out);
        }),
        rival("ndarray", || na.exp()),
    ];
    candle!(contenders, |x, y| x.exp(), (&na, &nb));
    suite.run("exp", contenders);

    let turned = b.transpose(0, 1)?;
    let nturned = nb.t();
    let mut contenders =
        vec![ours(|| a.add(&turned)), rival("contiguous", || a.add(&b)), rival("ndarray", || &na + &nturned)];
    candle!(contenders, |x, y| &x + y.t(), (&na, &nb));
    suite.run("add a transposed one", contenders);

    let columns = |tensor: &BitNetTensor| tensor.slice(1, None, None, 2);
    let (left, right) = (columns(&a)?, columns(&b)?);
    let halves = (a.narrow(0, 0, side / 2)?, b.narrow(0, 0, side / 2)?);
    let (nleft, nright) = (na.slice(ndarray::s![.., ..;2]), nb.slice(ndarray::s![.., ..;2]));
    suite.run(
        "add every second column",
        vec![
            ours(|| left.add(&right)),
            rival("contiguous", || halves.0.add(&halves.1)),
            rival("ndarray", || &nleft + &nright),
        ],
    );

    let backwards = a.flip(&[0, 1])?;
    let nback = na.slice(ndarray::s![..;-1, ..;-1]);
    suite.run(
        "add one backwards",
        vec![
            ours(|| backwards.add(&b)),
            rival("contiguous", || a.add(&b)),
            rival("ndarray", || &nback + &nb),
        ],
    );
    Ok(())
}

fn reductions(suite: &Suite, side: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (a, na) = arrays(side, 1)?;
    let sa = a.to_vec::<f32>()?;

    let mut contenders = vec![
        ours(|| a.sum(&[], false)),
        rival("by hand", || {
            let mut lanes = [0.0f32; 16];
            for values in sa.as_chunks::<16>().0 {
                lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += value);
            }
            lanes.iter().sum::<f32>()
        }),
        rival("ndarray", || na.sum()),
    ];
    candle!(contenders, |x, y| x.sum_all(), (&na, &na));
    suite.run("sum", contenders);

    let mut contenders = vec![
        ours(|| a.sum(&[1], false)),
        rival("by hand", || {
            let sum = |row: &[f32]| {
                let mut lanes = [0.0f32; 16];
                for values in row.as_chunks::<16>().0 {
                    lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += value);
                }
                lanes.iter().sum::<f32>()
            };
            sa.chunks_exact(side).map(sum).collect::<Vec<f32>>()
        }),
        rival("ndarray", || na.sum_axis(Axis(1))),
    ];
    candle!(contenders, |x, y| x.sum(1), (&na, &na));
    suite.run("sum of rows", contenders);

    let mut contenders = vec![
        ours(|| a.sum(&[0], false)),
        rival("by hand", || {
            let mut sums = vec![0.0f32; side];
            for row in sa.chunks_exact(side) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        }),
        rival("ndarray", || na.sum_axis(Axis(0))),
    ];
    candle!(contenders, |x, y| x.sum(0), (&na, &na));
    suite.run("sum of columns", contenders);

    let mut contenders = vec![
        ours(|| a.max(&[], false)),
        rival("by hand", || {
            let mut lanes = [f32::NEG_INFINITY; 16];
            for values in sa.as_chunks::<16>().0 {
                lanes.iter_mut().zip(values).for_each(|(lane, &value)| {
                    *lane = if value > *lane { value } else { *lane };
                });
            }
            lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        }),
        rival("ndarray", || na.fold(f32::NEG_INFINITY, |a, &b| a.max(b))),
    ];
    candle!(contenders, |x, y| x.max_all(), (&na, &na));
    suite.run("max", contenders);

    let mut contenders = vec![ours(|| a.argmax(1, false)), ours(|| a.max(&[1], false))];
    contenders[1].0 = "max";
    candle!(contenders, |x, y| x.argmax(1), (&na, &na));
    suite.run("argmax of rows", contenders);

    let mut contenders = vec![
        ours(|| a.var(&[1], 1.0, false)),
        rival("by hand", || {
            let variance = |row: &[f32]| {
                let mean = row.iter().sum::<f32>() / side as f32;
                row.iter().map(|value| (value - mean) * (value - mean)).sum::<f32>() / (side - 1) as f32
            };
            sa.chunks_exact(side).map(variance).collect::<Vec<f32>>()
        }),
        rival("ndarray", || na.var_axis(Axis(1), 1.0)),
    ];
    candle!(contenders, |x, y| x.var(1), (&na, &na));
    suite.run("variance of rows", contenders);

    let turned = a.transpose(0, 1)?.slice(0, None, None, 2)?;
    let narrow = a.narrow(0, 0, side / 2)?;
    let sliced = na.t();
    let sliced = sliced.slice(ndarray::s![..;2, ..]);
    suite.run(
        "sum of every second column",
        vec![
            ours(|| turned.sum(&[1], false)),
            rival("contiguous", || narrow.sum(&[1], false)),
            rival("ndarray", || sliced.sum_axis(Axis(1))),
        ],
    );
    suite.run("softmax of rows", vec![ours(|| a.softmax(1)), ours(|| a.exp())]);
    Ok(())
}

fn products(suite: &Suite, side: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (a, na) = arrays(side, 1)?;
    let (b, nb) = arrays(side, 2)?;
    let (sa, sb) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let direct = |rhs_col: isize, rhs_row: isize| {
        let (sa, sb) = (&sa, &sb);
        let mut out = vec![0.0f32; side * side];
        move || {
            let (stride, parallelism) =
                (side as isize, gemm::Parallelism::Rayon(rayon::current_num_threads()));
            // SAFETY: the three matrices are `side` times `side` elements of slices of that length, and `out` is
            // borrowed exclusively.
            #[allow(unsafe_code)]
            unsafe {
                gemm::gemm(
                    side,
                    side,
                    side,
                    out.as_mut_ptr(),
                    1,
                    stride,
                    false,
                    sa.as_ptr(),
                    1,
                    stride,
                    sb.as_ptr(),
                    rhs_col,
                    rhs_row,
                    0.0f32,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                );
            }
            black_box(&mut out);
        }
    };
    let mut contenders = vec![
        ours(|| a.matmul(&b)),
        rival("gemm", direct(1, side as isize)),
        rival("ndarray", || na.dot(&nb)),
    ];
    candle!(contenders, |x, y| x.matmul(&y), (&na, &nb));
    suite.run("matmul", contenders);
    let turned = b.transpose(0, 1)?;
    suite.run(
        "matmul with a transposed one",
        vec![
            ours(|| a.matmul(&turned)),
            rival("gemm", direct(side as isize, 1)),
            rival("ndarray", || na.dot(&nb.t())),
        ],
    );
    let half = (a.cast(BitNetDType::F16)?, b.cast(BitNetDType::F16)?);
    suite.run("matmul of f16", vec![ours(|| half.0.matmul(&half.1)), rival("f32", || a.matmul(&b))]);
    Ok(())
}
