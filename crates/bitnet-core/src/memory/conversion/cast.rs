//! A conversion with everything decided: from which type to which, with which scale, rounded how.

use bitnet_backend::{BitNetDType, Result};
use bitnet_kernels::scalar::stochastic;
use bitnet_kernels::{CodeRule, Kernels};

use super::number::{
    BLOCK, Kind, codes_of, kind_of, load_codes, load_double, load_integers, load_single, round_half_even,
    store_codes, store_double, store_integers, store_rounded, store_single,
};

/// How values become elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rounding {
    /// The nearest element.
    Nearest,
    /// The elements that stand for the source's codes: for types that hold them all.
    Codes,
    /// The nearest multiple of `scale` up to `limit` of them, multiplied by `inverse` in f32 or divided in f64.
    Scaled { inverse: f32, scale: f32, limit: i8, exact: bool },
    /// The nearest element to the value times a power of two.
    Shifted { factor: f32 },
    /// One of the two neighbouring multiples of `scale`, by the random bits of an element's index.
    Stochastic { scale: f32, seed: u64 },
}

/// A conversion of elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cast {
    /// Type of the source.
    pub from: BitNetDType,
    /// What numbers of the source are multiplied by, in f32 or f64; 1 leaves them as they are.
    pub from_scale: f32,
    /// Type of the result.
    pub to: BitNetDType,
    /// How values become elements.
    pub rounding: Rounding,
    /// Whether the result is too large for the caches.
    pub past: bool,
}

impl Cast {
    /// Converts to the nearest elements.
    pub fn nearest(from: BitNetDType, to: BitNetDType) -> Self {
        Cast { from, from_scale: 1.0, to, rounding: Rounding::Nearest, past: false }
    }

    /// Converts `count` elements, the first of which is element `first` of its tensor.
    ///
    /// # Errors
    /// `Mismatch` for packed bytes that are no codes.
    pub fn run(
        &self,
        kernels: &Kernels,
        first: usize,
        count: usize,
        source: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        if self.run_whole(kernels, source, out) {
            return Ok(());
        }
        let bytes_of = |dtype: BitNetDType| dtype.size_bytes(BLOCK).unwrap_or(1);
        let sources = source.chunks(bytes_of(self.from));
        let outs = out.chunks_mut(bytes_of(self.to));
        for (index, (source, out)) in sources.zip(outs).enumerate() {
            let at = index * BLOCK;
            self.run_block(kernels, first + at, (count - at).min(BLOCK), source, out)?;
        }
        Ok(())
    }

    /// Converts all at once where a kernel does that, and says whether one did.
    fn run_whole(&self, kernels: &Kernels, source: &[u8], out: &mut [u8]) -> bool {
        use BitNetDType::{BF16, F16, F32, I8};
        let (casts, past) = (&kernels.casts, self.past);
        let (two, four) = (|| source.as_chunks::<2>().0, || source.as_chunks::<4>().0);
        match (self.from, self.to, self.rounding) {
            (from, to, Rounding::Codes) if from == to => out.copy_from_slice(source),
            (I8, F32, Rounding::Nearest) => {
                let codes = bytemuck::cast_slice(source);
                (casts.codes_to_f32)(codes, self.from_scale, out.as_chunks_mut().0, past);
            }
            _ if self.from_scale != 1.0 => return false,
            (F32, I8, Rounding::Nearest) => {
                let rule = CodeRule { inverse: 1.0, least: i8::MIN, greatest: i8::MAX };
                (casts.f32_to_codes)(four(), rule, bytemuck::cast_slice_mut(out), past);
            }
            (F32, I8, Rounding::Scaled { inverse, limit, exact: false, .. }) => {
                let rule = CodeRule { inverse, least: -limit, greatest: limit };
                (casts.f32_to_codes)(four(), rule, bytemuck::cast_slice_mut(out), past);
            }
            (from, to, Rounding::Nearest) => match (from, to) {
                // What is stored may be no valid code or number, and stays what it is.
                _ if from == to && !from.is_packed() => out.copy_from_slice(source),
                (F32, F16) => (casts.f32_to_f16)(four(), out.as_chunks_mut().0, past),
                (F32, BF16) => (casts.f32_to_bf16)(four(), out.as_chunks_mut().0, past),
                (F16, F32) => (casts.f16_to_f32)(two(), out.as_chunks_mut().0, past),
                (BF16, F32) => (casts.bf16_to_f32)(two(), out.as_chunks_mut().0, past),
                (F16, BF16) => (casts.f16_to_bf16)(two(), out.as_chunks_mut().0, past),
                (BF16, F16) => (casts.bf16_to_f16)(two(), out.as_chunks_mut().0, past),
                _ => return false,
            },
            _ => return false,
        }
        true
    }

    fn run_block(
        &self,
        kernels: &Kernels,
        first: usize,
        count: usize,
        source: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        if self.rounding == Rounding::Codes {
            let mut codes = [0; BLOCK];
            load_codes(kernels, self.from, source, &mut codes[..count])?;
            return store_codes(kernels, self.to, &codes[..count], out);
        }
        match kind_of(self.from) {
            Kind::Single if self.from == BitNetDType::F32 && self.from_scale == 1.0 => {
                self.write_single(kernels, first, source.as_chunks().0, out)
            }
            Kind::Single if self.is_codes_to_f32() => {
                let mut codes = [0; BLOCK];
                load_codes(kernels, self.from, source, &mut codes[..count])?;
                let out = out.as_chunks_mut().0;
                (kernels.casts.codes_to_f32)(&codes[..count], self.from_scale, out, self.past);
                Ok(())
            }
            Kind::Single => {
                let mut x = [[0; 4]; BLOCK];
                self.read_single(kernels, source, &mut x[..count])?;
                self.write_single(kernels, first, &x[..count], out)
            }
            Kind::Integer if self.rounding == Rounding::Nearest && self.from_scale == 1.0 => {
                let mut x = [0; BLOCK];
                load_integers(self.from, source, &mut x[..count]);
                store_integers(kernels, self.to, &x[..count], out)
            }
            Kind::Double | Kind::Integer => {
                let mut x = [0.0; BLOCK];
                self.read_double(kernels, source, &mut x[..count])?;
                self.write_double(kernels, first, &x[..count], out)
            }
        }
    }

    fn is_codes_to_f32(&self) -> bool {
        let nearest = self.rounding == Rounding::Nearest;
        nearest && self.to == BitNetDType::F32 && codes_of(self.from).is_some()
    }

    /// Reads up to a block of values of a type that f32 holds, or rounds them to it.
    pub fn read_single(&self, kernels: &Kernels, source: &[u8], out: &mut [[u8; 4]]) -> Result<()> {
        if kind_of(self.from) != Kind::Single {
            let mut x = [0.0; BLOCK];
            self.read_double(kernels, source, &mut x[..out.len()])?;
            out.iter_mut().zip(x).for_each(|(out, x)| *out = (x as f32).to_ne_bytes());
            return Ok(());
        }
        load_single(kernels, self.from, source, out)?;
        if self.from_scale != 1.0 {
            out.iter_mut().for_each(|x| *x = (f32::from_ne_bytes(*x) * self.from_scale).to_ne_bytes());
        }
        Ok(())
    }

    /// Reads up to a block of values; integers of 64 bits are rounded to f64.
    pub fn read_double(&self, kernels: &Kernels, source: &[u8], out: &mut [f64]) -> Result<()> {
        match kind_of(self.from) {
            Kind::Single => {
                let mut x = [[0; 4]; BLOCK];
                let x = &mut x[..out.len()];
                self.read_single(kernels, source, x)?;
                out.iter_mut().zip(x).for_each(|(out, x)| *out = f32::from_ne_bytes(*x).into());
                return Ok(());
            }
            Kind::Double => load_double(self.from, source, out),
            Kind::Integer => {
                let mut x = [0; BLOCK];
                load_integers(self.from, source, &mut x[..out.len()]);
                out.iter_mut().zip(x).for_each(|(out, x)| *out = x as f64);
            }
        }
        if self.from_scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= f64::from(self.from_scale));
        }
        Ok(())
    }

    fn write_single(&self, kernels: &Kernels, first: usize, x: &[[u8; 4]], out: &mut [u8]) -> Result<()> {
        match self.rounding {
            Rounding::Nearest | Rounding::Codes => store_single(kernels, self.to, x, out),
            Rounding::Scaled { inverse, limit, exact: false, .. } => {
                let rule = CodeRule { inverse, least: -limit, greatest: limit };
                store_rounded(kernels, self.to, x, rule, out)
            }
            Rounding::Scaled { .. } | Rounding::Shifted { .. } | Rounding::Stochastic { .. } => {
                let mut wide = [0.0; BLOCK];
                let wide = &mut wide[..x.len()];
                wide.iter_mut().zip(x).for_each(|(wide, &x)| *wide = f32::from_ne_bytes(x).into());
                self.write_double(kernels, first, wide, out)
            }
        }
    }

    fn write_double(&self, kernels: &Kernels, first: usize, x: &[f64], out: &mut [u8]) -> Result<()> {
        let mut y = [0.0; BLOCK];
        let y = &mut y[..x.len()];
        let pairs = y.iter_mut().zip(x);
        match self.rounding {
            Rounding::Nearest | Rounding::Codes => return store_double(kernels, self.to, x, out),
            Rounding::Scaled { scale, limit, .. } => {
                let (scale, limit) = (f64::from(scale), f64::from(limit));
                pairs.for_each(|(y, x)| *y = round_half_even(x / scale).clamp(-limit, limit));
            }
            Rounding::Shifted { factor } => pairs.for_each(|(y, x)| *y = x * f64::from(factor)),
            Rounding::Stochastic { scale, seed } => {
                let format = stochastic::Format::of_bits(float_bits(self.to));
                for (index, (y, &x)) in pairs.enumerate() {
                    let random = stochastic::random(seed, (first + index) as u64);
                    *y = match format {
                        Some(format) => format.round(x, random),
                        None => stochastic::round(x / f64::from(scale), random),
                    };
                }
                if let Some((_, greatest)) = codes_of(self.to) {
                    let limit = f64::from(greatest);
                    y.iter_mut().for_each(|y| *y = y.clamp(-limit, limit));
                }
            }
        }
        // Where the number is one of the target's already this rounds nothing.
        store_double(kernels, self.to, y, out)
    }
}

/// Returns bits of significand and exponent of the float types that f64 is wider than.
fn float_bits(dtype: BitNetDType) -> Option<(u32, u32)> {
    match dtype {
        BitNetDType::F32 => Some((24, 8)),
        BitNetDType::F16 => Some((11, 5)),
        BitNetDType::BF16 => Some((8, 8)),
        _ => None,
    }
}
