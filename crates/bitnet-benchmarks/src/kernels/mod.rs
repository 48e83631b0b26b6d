//! Products alone: ternary ones, and those of the head.

mod case;

use bitnet_kernels::Kernels;
use bitnet_kernels::probe::ComputeProbe;

pub use self::case::{Case, Pages, Product};
use crate::BenchError;
use crate::roofline::{compute_round, read_round};
use crate::rounds::{Effort, alternate};
use crate::shape::Shape;
use crate::statistics::{Summary, ratio};

/// Tokens of the products.
pub const TOKENS: [usize; 8] = [1, 2, 3, 4, 8, 16, 32, 128];
/// Bytes of weights over which a cold product goes: far above any cache.
const COLD_BYTES: usize = 512 << 20;
/// Rows of a head that stay in a cache.
const WARM_ROWS: usize = 1024;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan<'a> {
    /// Whose matrices.
    pub shape: Shape,
    /// Kinds of their weights.
    pub products: &'a [Product],
    /// What weights lie on that are used as a file has them.
    pub pages: Pages,
    /// Numbers of threads.
    pub threads: &'a [usize],
    /// How much is measured.
    pub effort: Effort,
}

impl Plan<'_> {
    fn case(
        &self,
        product: Product,
        shape: (usize, usize),
        tokens: usize,
        cold: bool,
    ) -> Result<Case, BenchError> {
        let pages = if product.is_made_by_loading() { Pages::Huge } else { self.pages };
        let one = Case::new(product, shape, tokens, 1, pages)?;
        if !cold || self.effort == Effort::Smoke {
            return Ok(one);
        }
        Case::new(product, shape, tokens, COLD_BYTES.div_ceil(one.bytes().len().max(1)), pages)
    }
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The kind of weights.
    pub product: Product,
    /// What they lie on.
    pub pages: Pages,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    /// Threads.
    pub threads: usize,
    /// Weights came from memory rather than a cache.
    pub cold: bool,
    /// Billions of operations a second.
    pub gops: Summary,
    /// Billions of bytes of weights a second.
    pub gb_per_s: f64,
    /// Share of the limit measured in the same rounds: reads of the same weights when cold, else, of ternary products,
    /// the [`ComputeProbe`] of the tier. NaN where there is none.
    pub share: f64,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figure { rows, cols, tokens, threads, gops, gb_per_s, .. } = self;
        let (product, gops) = (self.product.name(), gops.median);
        let kind = if self.cold { "cold" } else { "warm" };
        let pages = if self.pages == Pages::Huge { "huge pages" } else { "" };
        write!(
            f,
            "{product:<8} {rows:>6} x {cols:<5} {tokens:>4} tokens {threads:>3} threads {kind} {pages:<10}"
        )?;
        write!(f, "  {gops:>7.1} GOPS  {gb_per_s:>6.1} GB/s")
    }
}

/// Measures ternary matrices of a layer, warm for all token counts and cold for one token, and heads for one token, each
/// compared with the scalar tier before it is timed; passes every figure on as it comes.
///
/// # Errors
/// A product that differs; the system refuses the memory.
pub fn measure(kernels: &Kernels, plan: &Plan<'_>, mut each: impl FnMut(Figure)) -> Result<(), BenchError> {
    let mut figures = |case: &Case, cold: bool| -> Result<(), BenchError> {
        case.check(kernels)?;
        plan.threads.iter().for_each(|&threads| each(figure(kernels, case, threads, cold, plan.effort)));
        Ok(())
    };
    for &product in plan.products {
        if product.is_ternary() {
            for shape in plan.shape.products() {
                figures(&plan.case(product, shape, 1, true)?, true)?;
                for tokens in TOKENS {
                    figures(&plan.case(product, shape, tokens, false)?, false)?;
                }
            }
        } else {
            let Shape { hidden, vocab, .. } = plan.shape;
            figures(&plan.case(product, (vocab, hidden), 1, true)?, true)?;
            figures(&plan.case(product, (vocab.min(WARM_ROWS), hidden), 1, false)?, false)?;
        }
    }
    Ok(())
}

fn figure(kernels: &Kernels, case: &Case, threads: usize, cold: bool, effort: Effort) -> Figure {
    let probe = ComputeProbe::for_isa(kernels.isa).filter(|_| case.product.is_ternary());
    let mut outputs = case.outputs(threads);
    let mut timed = |repeats: usize| {
        let pass = case.run(kernels, &mut outputs, repeats);
        pass.span.as_secs_f64().max(f64::MIN_POSITIVE)
    };
    // The first run touches the pages and is not counted.
    timed(1);
    let repeats = effort.repeats(timed(1));
    let mut rate = || Ok(case.operations() * repeats as f64 / timed(repeats));
    let operations_of_byte = case.operations() / case.bytes().len() as f64;
    let mut limit = || {
        Ok(match (cold, probe) {
            (true, _) => read_round(&[case.bytes()], threads) * operations_of_byte,
            (false, Some(probe)) => compute_round(probe, threads),
            (false, None) => f64::NAN,
        })
    };
    let Ok(found) = alternate::<std::convert::Infallible>(effort.rounds(), &mut [&mut rate, &mut limit]);
    let gops = Summary::of(&found[0].iter().map(|rate| rate / 1e9).collect::<Vec<_>>());
    let Case { product, pages, rows, cols, tokens, .. } = *case;
    let gb_per_s = gops.median / operations_of_byte;
    Figure {
        product,
        pages,
        rows,
        cols,
        tokens,
        threads,
        cold,
        gops,
        gb_per_s,
        share: ratio(&found[0], &found[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::SHAPES;

    #[test]
    fn a_figure_holds_a_rate_and_a_share() {
        let kernels = Kernels::select().unwrap();
        for (product, threads) in [(Product::RowQuarters, 1), (Product::Bf16, 2)] {
            let case = Case::new(product, (64, 256), 1, 3, Pages::Small).unwrap();
            let cold = figure(kernels, &case, threads, true, Effort::Smoke);
            assert!(cold.cold && cold.share > 0.0 && cold.threads == threads, "{cold:?}");
            // Two operations a weight, four weights a byte or half of one.
            let bytes = cold.gops.median / if product.is_ternary() { 8.0 } else { 1.0 };
            assert!((cold.gb_per_s / bytes - 1.0).abs() < 1e-9 && bytes > 0.0, "{cold:?}");
            let warm = figure(kernels, &case, threads, false, Effort::Smoke);
            let probe = ComputeProbe::for_isa(kernels.isa).filter(|_| product.is_ternary());
            assert_eq!(warm.share.is_nan(), probe.is_none(), "{warm:?}");
        }
    }

    #[test]
    fn a_plan_measures_its_shape_products_and_threads() {
        let kernels = Kernels::select().unwrap();
        let shape = Shape { vocab: 300, hidden: 64, intermediate: 160, ..SHAPES[3] };
        let products = [Product::RowQuarters, Product::RowFifths, Product::Bf16, Product::Int6];
        let (pages, effort) = (Pages::Small, Effort::Smoke);
        let plan = Plan { shape, products: &products, pages, threads: &[1, 2], effort };
        let mut figures = Vec::new();
        measure(kernels, &plan, |figure| figures.push(figure)).unwrap();
        assert!(figures.iter().step_by(2).all(|figure| figure.threads == 1), "{figures:?}");
        assert_eq!(figures.len(), 2 * (2 * 3 * 9 + 2 * 2));
        for figure in figures {
            assert_eq!(figure.pages == Pages::Huge, figure.product.is_made_by_loading(), "{figure:?}");
            let sizes = (figure.rows, figure.cols);
            let expected = if figure.product.is_ternary() { &shape.products()[..] } else { &[(300, 64)][..] };
            assert!(expected.contains(&sizes) && (!figure.cold || figure.tokens == 1), "{figure:?}");
        }
    }
}
