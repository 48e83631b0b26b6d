//! Ternary products alone, on one thread.

use std::hint::black_box;
use std::time::Instant;

use bitnet_kernels::Kernels;

use crate::roofline::{ReadProbe, compute_round};
use crate::statistics::median;

/// Output and input features of the products: those of a 2B-4T model.
pub const SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];
/// Tokens of the products.
pub const TOKENS: [usize; 5] = [1, 4, 8, 16, 128];
/// Bytes of weights over which a cold product goes: far above any cache.
const COLD_BYTES: usize = 512 << 20;
const ROUNDS: usize = 7;
/// Operations of a round: some tens of milliseconds.
const ROUND_OPERATIONS: f64 = 6e9;

/// Operands of one product, aligned to cache lines.
#[derive(Debug)]
pub struct Case {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    codes: Aligned<u8>,
    x: Aligned<i8>,
    sums: Vec<i32>,
    out: Vec<[i32; 4]>,
}

/// Elements that start at a cache line.
#[derive(Debug)]
struct Aligned<T> {
    values: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize, value: impl Fn(usize) -> T) -> Self {
        let mut values = vec![T::default(); len + 64];
        let start = values.as_ptr().align_offset(64).min(64);
        values[start..start + len].iter_mut().enumerate().for_each(|(i, place)| *place = value(i));
        values.truncate(start + len);
        Aligned { values, start }
    }

    fn get(&self) -> &[T] {
        &self.values[self.start..]
    }
}

impl Case {
    /// Makes a case with `copies` different matrices, one after the other in memory.
    pub fn new(rows: usize, cols: usize, tokens: usize, copies: usize) -> Case {
        let code = |i: usize| [0x00, 0x55, 0xaa, 0x91, 0x46, 0x18, 0x24][i * 7919 % 251 % 7];
        let x = Aligned::new(tokens * cols, |i| ((i * 7919 % 251) as i32 - 125) as i8);
        let sums = x.get().chunks_exact(cols).map(|row| row.iter().map(|&x| i32::from(x)).sum()).collect();
        Case {
            rows,
            cols,
            tokens,
            codes: Aligned::new(copies.max(1) * rows.div_ceil(4) * cols, code),
            x,
            sums,
            out: vec![[0; 4]; Self::block(tokens) * tokens],
        }
    }

    /// Lines of a call: as the CPU backend cuts them.
    fn block(tokens: usize) -> usize {
        (2048 / tokens).max(1)
    }

    /// Multiplies the matrices, one after the other.
    pub fn run(&mut self, kernels: &Kernels) {
        let cols = self.cols;
        for codes in self.codes.get().chunks(Self::block(self.tokens) * cols) {
            let out = &mut self.out[..codes.len() / cols * self.tokens];
            (kernels.row_quarters.i8)(codes, self.x.get(), &self.sums, out);
            black_box(&out);
        }
    }

    /// Returns the operations of a run: two for every weight and token.
    pub fn operations(&self) -> f64 {
        (self.bytes() * 4 * 2 * self.tokens) as f64
    }

    /// Returns the bytes of the weights.
    pub fn bytes(&self) -> usize {
        self.codes.get().len()
    }
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    /// Weights came from memory rather than a cache.
    pub cold: bool,
    /// Billions of operations a second.
    pub gops: f64,
    /// Share of the limit measured in the same rounds: read bandwidth when cold, else the compute probe. NaN
    /// where there is no probe.
    pub share: f64,
}

/// Measures all shapes and token counts of a tier.
pub fn measure(kernels: &Kernels) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (rows, cols) in SHAPES {
        let copies = COLD_BYTES / (rows.div_ceil(4) * cols);
        let probe = ReadProbe::new(COLD_BYTES / 2, 1);
        figures.push(figure(kernels, &mut Case::new(rows, cols, 1, copies), Some(&probe)));
        for tokens in TOKENS {
            figures.push(figure(kernels, &mut Case::new(rows, cols, tokens, 1), None));
        }
    }
    figures
}

fn figure(kernels: &Kernels, case: &mut Case, cold: Option<&ReadProbe>) -> Figure {
    let repeats = (ROUND_OPERATIONS / case.operations()).ceil().max(1.0) as usize;
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        (0..repeats).for_each(|_| case.run(kernels));
        let seconds = started.elapsed().as_secs_f64();
        let rate = case.operations() * repeats as f64 / seconds;
        let limit = match cold {
            // Eight operations a byte of two-bit weights.
            Some(probe) => probe.round() * 8.0,
            None => compute_round().unwrap_or(f64::NAN),
        };
        rates.push(rate / 1e9);
        shares.push(rate / limit);
    }
    let Case { rows, cols, tokens, .. } = *case;
    Figure { rows, cols, tokens, cold: cold.is_some(), gops: median(&rates), share: median(&shares) }
}
