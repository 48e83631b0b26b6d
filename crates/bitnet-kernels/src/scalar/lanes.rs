//! Sums over 32 virtual lanes.
//!
//! Term `i` is added to lane `i % 32`, in ascending order of `i`; then lanes `l` and `l + 16` are added,
//! then `l` and `l + 8`, and so on down to one. Registers of 4, 8 or 16 floats all divide 32, so every
//! tier can do exactly these additions.

/// Virtual lanes of every floating-point sum.
pub const LANES: usize = 32;

/// Lanes that one register of the widest common kind holds; keeps the arrays below in registers.
const WIDTH: usize = 8;
/// Registers of one sum.
const REGISTERS: usize = LANES / WIDTH;

/// The running lanes of one sum.
#[derive(Debug, Clone, Copy)]
pub struct Lanes([[f32; WIDTH]; REGISTERS]);

impl Lanes {
    /// The sum of nothing.
    pub const ZERO: Lanes = Lanes([[0.0; WIDTH]; REGISTERS]);

    /// Adds the product of 32 pairs.
    #[inline(always)]
    pub fn multiply_add(&mut self, a: &[f32; LANES], b: &[f32; LANES]) {
        for (r, lanes) in self.0.iter_mut().enumerate() {
            for (l, lane) in lanes.iter_mut().enumerate() {
                *lane += a[r * WIDTH + l] * b[r * WIDTH + l];
            }
        }
    }

    /// Adds a term to each lane.
    #[inline(always)]
    pub fn add_all(&mut self, terms: &[f32; LANES]) {
        for (r, lanes) in self.0.iter_mut().enumerate() {
            for (l, lane) in lanes.iter_mut().enumerate() {
                *lane += terms[r * WIDTH + l];
            }
        }
    }

    /// Adds a term to lane `index % 32`.
    #[inline(always)]
    pub fn add(&mut self, index: usize, term: f32) {
        self.0[index % LANES / WIDTH][index % WIDTH] += term;
    }

    /// Adds `a[i] * b[i]` for all `i`. `a` starts at a multiple of 32 of the whole sum.
    #[inline(always)]
    pub fn multiply_add_all(&mut self, a: &[f32], b: &[f32]) {
        // A local copy, so that the lanes stay in registers.
        let mut lanes = *self;
        let (a_whole, a_rest) = a.as_chunks::<LANES>();
        let (b_whole, b_rest) = b.as_chunks::<LANES>();
        for (a, b) in a_whole.iter().zip(b_whole) {
            lanes.multiply_add(a, b);
        }
        for (index, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes.add(index, a * b);
        }
        *self = lanes;
    }

    /// Adds the lanes up by halving.
    #[inline(always)]
    pub fn reduce(self) -> f32 {
        let [a, b, c, d] = self.0;
        let sum = |x: [f32; WIDTH], y: [f32; WIDTH]| -> [f32; WIDTH] { std::array::from_fn(|l| x[l] + y[l]) };
        let eight = sum(sum(a, c), sum(b, d));
        let four: [f32; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}

/// Returns the inner product of two vectors of one length.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = Lanes::ZERO;
    lanes.multiply_add_all(a, b);
    lanes.reduce()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reduction_halves_the_lanes() {
        let mut lanes = [0f32; LANES];
        let mut state = Lanes::ZERO;
        for index in 0..100 {
            let term = (index * 37 % 101) as f32 * 0.731 - 20.0;
            lanes[index % LANES] += term;
            state.add(index, term);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
            width /= 2;
        }
        assert_eq!(state.reduce().to_bits(), lanes[0].to_bits());
    }
}
