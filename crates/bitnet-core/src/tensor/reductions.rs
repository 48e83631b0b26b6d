//! What reductions fold: sums, products, extremes and their places, moments, exponentials.
//!
//! Sums of floats run in lanes over blocks of 256 elements and add the blocks in f64: the error does not grow with
//! the number of elements. Of halves and f32 the blocks are f32, of f64 they are f64.

use super::arithmetic::Arithmetic;
use super::cast::Cast;
use super::math::Real;
use super::reduce::{ROWS, Reduction};
use super::source::Number;

/// Lanes of a sum: what a few vector registers hold.
const LANES: usize = 32;
/// Elements that are summed in their own type.
const BLOCK: usize = 256;

/// Sums in f64 of what `map` makes of floats.
pub(crate) struct FloatSum<F>(pub F);

impl<C: Real, F: Fn(C) -> C + Sync> Reduction<C> for FloatSum<F>
where
    f64: Cast<C>,
{
    type Acc = f64;

    fn start(&self) -> f64 {
        0.0
    }

    #[inline]
    fn run(&self, mut acc: f64, values: &[C], _: usize) -> f64 {
        for block in values.chunks(BLOCK) {
            let mut lanes = [C::default(); LANES];
            let (whole, rest) = block.as_chunks::<LANES>();
            for values in whole {
                lanes.iter_mut().zip(values).for_each(|(lane, &value)| *lane = lane.plus((self.0)(value)));
            }
            lanes.iter_mut().zip(rest).for_each(|(lane, &value)| *lane = lane.plus((self.0)(value)));
            let mut width = LANES / 2;
            while width > 0 {
                let (low, high) = lanes.split_at_mut(width);
                low.iter_mut().zip(high).for_each(|(low, high)| *low = low.plus(*high));
                width /= 2;
            }
            acc += f64::cast(lanes[0]);
        }
        acc
    }

    #[inline]
    fn columns(&self, accs: &mut [f64], rows: &[&[C]], _: usize) {
        let width = accs.len();
        if let Ok(rows) = <[&[C]; ROWS]>::try_from(rows) {
            let [a, b, c, d, e, f, g, h] = rows.map(|row| &row[..width]);
            for (i, acc) in accs.iter_mut().enumerate() {
                let of = |row: &[C]| (self.0)(row[i]);
                let low = of(a).plus(of(b)).plus(of(c).plus(of(d)));
                let high = of(e).plus(of(f)).plus(of(g).plus(of(h)));
                *acc += f64::cast(low.plus(high));
            }
            return;
        }
        for row in rows {
            accs.iter_mut().zip(*row).for_each(|(acc, &value)| *acc += f64::cast((self.0)(value)));
        }
    }

    fn merge(&self, acc: f64, later: f64) -> f64 {
        acc + later
    }
}

/// Folds numbers of which order does not matter, after conversion to `A`: integer sums, products, extremes.
pub(crate) struct Fold<A, F> {
    pub start: A,
    pub fold: F,
}

impl<C: Number, A: Arithmetic + Cast<C>, F: Fn(A, A) -> A + Sync> Reduction<C> for Fold<A, F> {
    type Acc = A;

    fn start(&self) -> A {
        self.start
    }

    #[inline]
    fn run(&self, acc: A, values: &[C], _: usize) -> A {
        let mut lanes = [self.start; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for values in whole {
            lanes
                .iter_mut()
                .zip(values)
                .for_each(|(lane, &value)| *lane = (self.fold)(*lane, A::cast(value)));
        }
        lanes.iter_mut().zip(rest).for_each(|(lane, &value)| *lane = (self.fold)(*lane, A::cast(value)));
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = lanes.split_at_mut(width);
            low.iter_mut().zip(high).for_each(|(low, high)| *low = (self.fold)(*low, *high));
            width /= 2;
        }
        (self.fold)(acc, lanes[0])
    }

    #[inline]
    fn columns(&self, accs: &mut [A], rows: &[&[C]], _: usize) {
        for row in rows {
            accs.iter_mut().zip(*row).for_each(|(acc, &value)| *acc = (self.fold)(*acc, A::cast(value)));
        }
    }

    fn merge(&self, acc: A, later: A) -> A {
        (self.fold)(acc, later)
    }
}

/// Finds the index of the first greatest number, or the first least one; NaN counts as either.
pub(crate) struct Extreme {
    pub least: bool,
}

impl Extreme {
    /// Reports whether `value` takes the place of `best`.
    #[inline(always)]
    fn replaces<C: Arithmetic>(&self, value: C, best: C) -> bool {
        let beyond = if self.least { value < best } else { value > best };
        beyond || (value.is_not_a_number() && !best.is_not_a_number())
    }
}

impl<C: Arithmetic> Reduction<C> for Extreme {
    /// The number and its index, which is beyond all while there is none.
    type Acc = (C, usize);

    fn start(&self) -> (C, usize) {
        (if self.least { C::HIGHEST } else { C::LOWEST }, usize::MAX)
    }

    #[inline]
    fn run(&self, mut acc: (C, usize), values: &[C], first: usize) -> (C, usize) {
        // The best of a block is found in lanes, and its place only where it is the best of all so far.
        for (block, values) in values.chunks(BLOCK).enumerate() {
            let best = if self.least {
                Reduction::<C>::run(&Fold { start: C::HIGHEST, fold: C::lesser }, C::HIGHEST, values, 0)
            } else {
                Reduction::<C>::run(&Fold { start: C::LOWEST, fold: C::greater }, C::LOWEST, values, 0)
            };
            if acc.1 == usize::MAX || self.replaces(best, acc.0) {
                let is_best =
                    |value: &C| *value == best || (best.is_not_a_number() && value.is_not_a_number());
                if let Some(at) = values.iter().position(is_best) {
                    acc = (best, first + block * BLOCK + at);
                }
            }
        }
        acc
    }

    #[inline]
    fn columns(&self, accs: &mut [(C, usize)], rows: &[&[C]], first: usize) {
        for (index, row) in rows.iter().enumerate() {
            for (acc, &value) in accs.iter_mut().zip(*row) {
                if acc.1 == usize::MAX || self.replaces(value, acc.0) {
                    *acc = (value, first + index);
                }
            }
        }
    }

    fn merge(&self, acc: (C, usize), later: (C, usize)) -> (C, usize) {
        if acc.1 == usize::MAX || (later.1 != usize::MAX && self.replaces(later.0, acc.0)) {
            later
        } else {
            acc
        }
    }
}

/// Number, mean and sum of squared deviations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Returns the variance with `correction` taken off the number.
    pub fn variance(self, correction: f64) -> f64 {
        if self.count == 0.0 { f64::NAN } else { self.squares / (self.count - correction).max(0.0) }
    }

    /// Takes in one number (Welford 1962).
    #[inline(always)]
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    /// Puts the moments of two parts together (Chan, Golub, LeVeque 1979).
    fn with(self, other: Moments) -> Moments {
        // Of no numbers there is no mean that a deviation could be taken from.
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let share = other.count / count;
        Moments {
            count,
            mean: self.mean + delta * share,
            squares: self.squares + other.squares + delta * delta * self.count * share,
        }
    }
}

/// Finds moments in one pass over the memory.
pub(crate) struct Variance;

impl<C: Real> Reduction<C> for Variance
where
    f64: Cast<C>,
{
    type Acc = Moments;

    fn start(&self) -> Moments {
        Moments { count: 0.0, mean: 0.0, squares: 0.0 }
    }

    #[inline]
    fn run(&self, mut acc: Moments, values: &[C], _: usize) -> Moments {
        const IN_CACHE: usize = 4096;
        for block in values.chunks(IN_CACHE) {
            let count = block.len() as f64;
            let mean = FloatSum(|value: C| value).run(0.0, block, 0) / count;
            let shift = C::of(mean);
            let deviation = |value: C| {
                let deviation = value.minus(shift);
                deviation.times(deviation)
            };
            let squares = FloatSum(deviation).run(0.0, block, 0);
            // The shift is the mean rounded to `C`; the squares are around the shift.
            let off = mean - f64::cast(shift);
            let moments = Moments { count, mean, squares: (squares - count * off * off).max(0.0) };
            let fits = mean.is_finite() && squares.is_finite();
            // Squares below the least number of full precision have lost some of it, or all.
            let small = squares < count * f64::from(f32::MIN_POSITIVE);
            // Without an early exit the comparison becomes vectors.
            let differ =
                |block: &[C]| block.iter().fold(false, |differ, &value| differ | (value != block[0]));
            let exact = fits && !(small && differ(block));
            acc = acc.with(if exact { moments } else { one_by_one(block) });
        }
        acc
    }

    #[inline]
    fn columns(&self, accs: &mut [Moments], rows: &[&[C]], _: usize) {
        for row in rows {
            for (acc, &value) in accs.iter_mut().zip(*row) {
                acc.add(f64::cast(value));
            }
        }
    }

    fn merge(&self, acc: Moments, later: Moments) -> Moments {
        acc.with(later)
    }
}

/// Finds moments in f64, for numbers whose sum or squares their own type does not hold.
#[cold]
fn one_by_one<C: Real>(values: &[C]) -> Moments
where
    f64: Cast<C>,
{
    let mut moments = Moments { count: 0.0, mean: 0.0, squares: 0.0 };
    values.iter().for_each(|&value| moments.add(f64::cast(value)));
    moments
}

/// Sums exponentials relative to the greatest exponent: the greatest, and the sum.
pub(crate) struct ExpSum;

impl ExpSum {
    /// Returns the logarithm of the sum.
    pub fn log(acc: (f64, f64)) -> f64 {
        // Of nothing, or of nothing but -inf, the logarithm is -inf; with +inf it is that.
        if acc.0.is_infinite() { acc.0 } else { acc.0 + libm::log(acc.1) }
    }
}

impl<C: Real> Reduction<C> for ExpSum
where
    f64: Cast<C>,
{
    type Acc = (f64, f64);

    fn start(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, 0.0)
    }

    #[inline]
    fn run(&self, mut acc: (f64, f64), values: &[C], _: usize) -> (f64, f64) {
        for block in values.chunks(4096) {
            let greatest =
                Reduction::<C>::run(&Fold { start: C::LOWEST, fold: C::greater }, C::LOWEST, block, 0);
            let shift = if greatest == C::LOWEST { C::default() } else { greatest };
            let sum = FloatSum(|value: C| value.minus(shift).exp()).run(0.0, block, 0);
            acc = Reduction::<C>::merge(self, acc, (f64::cast(greatest), sum));
        }
        acc
    }

    #[inline]
    fn columns(&self, accs: &mut [(f64, f64)], rows: &[&[C]], _: usize) {
        for row in rows {
            for (acc, &value) in accs.iter_mut().zip(*row) {
                *acc = Reduction::<C>::merge(self, *acc, (f64::cast(value), 1.0));
            }
        }
    }

    #[inline]
    fn merge(&self, acc: (f64, f64), later: (f64, f64)) -> (f64, f64) {
        let greatest = acc.0.greater(later.0);
        if greatest.is_infinite() {
            return (greatest, 1.0);
        }
        (greatest, acc.1 * libm::exp(acc.0 - greatest) + later.1 * libm::exp(later.0 - greatest))
    }
}
