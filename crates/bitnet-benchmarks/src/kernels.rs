//! Ternary products alone, on one thread.

use std::hint::black_box;
use std::time::Instant;

use bitnet_kernels::Kernels;
use bitnet_kernels::probe::ComputeProbe;

use crate::roofline::{compute_round, read_round};
use crate::statistics::Summary;

/// Output and input features of the products: those of a 2B-4T model.
pub const SHAPES: [(usize, usize); 3] = [(2560, 2560), (6912, 2560), (2560, 6912)];
/// Tokens of the products.
pub const TOKENS: [usize; 8] = [1, 2, 3, 4, 8, 16, 32, 128];
/// Bytes of weights over which a cold product goes: far above any cache.
const COLD_BYTES: usize = 512 << 20;
const ROUNDS: usize = 7;
/// Seconds that a round takes at least.
const ROUND_SECONDS: f64 = 0.02;

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
    pub gops: Summary,
    /// Share of the limit measured in the same rounds: reads of the same weights when cold, else the
    /// [`ComputeProbe`] of the tier. NaN where there is none.
    pub share: f64,
}

/// Measures all shapes and token counts of a tier.
pub fn measure(kernels: &Kernels) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (rows, cols) in SHAPES {
        let copies = COLD_BYTES.div_ceil(rows.div_ceil(4) * cols);
        figures.push(figure(kernels, &mut Case::new(rows, cols, 1, copies), true));
        for tokens in TOKENS {
            figures.push(figure(kernels, &mut Case::new(rows, cols, tokens, 1), false));
        }
    }
    figures
}

fn figure(kernels: &Kernels, case: &mut Case, cold: bool) -> Figure {
    let probe = ComputeProbe::for_isa(kernels.isa);
    let timed = |case: &mut Case, repeats: usize| {
        let started = Instant::now();
        (0..repeats).for_each(|_| case.run(kernels));
        started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    };
    // The first run touches the pages and is not counted.
    timed(case, 1);
    let repeats = (ROUND_SECONDS / timed(case, 1)).ceil().max(1.0) as usize;
    let (mut rates, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let rate = case.operations() * repeats as f64 / timed(case, repeats);
        let limit = match (cold, probe) {
            // Eight operations a byte of two-bit weights.
            (true, _) => read_round(&[case.codes.get()], 1) * 8.0,
            (false, Some(probe)) => compute_round(probe, 1),
            (false, None) => f64::NAN,
        };
        rates.push(rate / 1e9);
        shares.push(rate / limit);
    }
    let Case { rows, cols, tokens, .. } = *case;
    Figure { rows, cols, tokens, cold, gops: Summary::of(&rates), share: Summary::of(&shares).median }
}

#[cfg(test)]
mod tests {
    use bitnet_kernels::Isa;

    use super::*;

    /// Every element of every call is written: a case that stops short would look fast.
    #[test]
    fn a_case_computes_all_lines_for_all_tokens() {
        let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
        for tokens in [1, 3, 128] {
            let mut case = Case::new(20, 96, tokens, 2);
            assert_eq!((case.bytes(), case.operations()), (2 * 5 * 96, (2 * 20 * 96 * 2 * tokens) as f64));
            let lines = 10.min(Case::block(tokens));
            case.out.fill([i32::MAX; 4]);
            case.run(scalar);
            assert!(case.out[..lines * tokens].iter().all(|out| !out.contains(&i32::MAX)), "{tokens}");
        }
    }

    #[test]
    fn a_figure_holds_a_rate_and_a_share() {
        let kernels = Kernels::select().unwrap();
        let cold = figure(kernels, &mut Case::new(64, 256, 1, 3), true);
        assert!(cold.cold && cold.share > 0.0, "{cold:?}");
        assert!(
            cold.gops.min > 0.0 && cold.gops.min <= cold.gops.median && cold.gops.median <= cold.gops.max
        );
        let warm = figure(kernels, &mut Case::new(64, 256, 5, 1), false);
        assert_eq!(warm.share.is_nan(), ComputeProbe::for_isa(kernels.isa).is_none(), "{warm:?}");
    }
}
