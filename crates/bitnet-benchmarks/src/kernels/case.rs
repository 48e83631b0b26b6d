//! The operands of one product, as the CPU backend holds them.

use std::hint::black_box;
use std::ops::Range;

use bitnet_core::backend::Device;
use bitnet_core::cpu::{HeadPrecision, TernaryLayout};
use bitnet_core::device::{Pass, share_out};
use bitnet_core::memory::{Element, HybridMemoryPool, PoolBuffer};
use bitnet_kernels::layout::int6_rows;
use bitnet_kernels::scalar::{int6, int8};
use bitnet_kernels::{DenseRow, Kernels};
use half::{bf16, f16};

use crate::BenchError;

/// Sums of a call, as the CPU backend cuts them.
const SUMS: usize = 8192;
/// Different lines of weights.
const PATTERN: usize = 31;

/// A product with one kind of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Ternary, two bits a weight.
    RowQuarters,
    /// Ternary, 1.6 bits a weight.
    RowFifths,
    /// binary16, as a head is stored.
    F16,
    /// Upper halves of binary32, as a head is stored.
    Bf16,
    /// Narrow rows of a head in int8.
    Int8,
    /// The same in six bits.
    Int6,
}

impl From<TernaryLayout> for Product {
    fn from(layout: TernaryLayout) -> Self {
        match layout {
            TernaryLayout::RowQuarters => Product::RowQuarters,
            TernaryLayout::RowFifths => Product::RowFifths,
        }
    }
}

impl Product {
    /// Every product.
    pub const ALL: [Product; 6] =
        [Product::RowQuarters, Product::RowFifths, Product::Bf16, Product::F16, Product::Int8, Product::Int6];

    /// Returns the products of a head; a stored one is of either type of 16 bits.
    pub const fn of_head(head: HeadPrecision) -> &'static [Product] {
        match head {
            HeadPrecision::Stored => &[Product::Bf16, Product::F16],
            HeadPrecision::Int8 => &[Product::Int8],
            HeadPrecision::Int6 => &[Product::Int6],
        }
    }

    /// Returns the name that reports print.
    pub const fn name(self) -> &'static str {
        match self {
            Product::RowQuarters => "quarters",
            Product::RowFifths => "fifths",
            Product::F16 => "f16",
            Product::Bf16 => "bf16",
            Product::Int8 => "i8",
            Product::Int6 => "i6",
        }
    }

    /// Reports whether the weights are ternary, and the tier's compute probe thus their limit.
    pub const fn is_ternary(self) -> bool {
        matches!(self, Product::RowQuarters | Product::RowFifths)
    }

    /// Reports whether loading makes this form of the weights, in the pool, rather than finding it in a file.
    pub const fn is_made_by_loading(self) -> bool {
        matches!(self, Product::RowFifths | Product::Int8 | Product::Int6)
    }

    /// Returns how many rows a line holds.
    const fn rows_of_line(self) -> usize {
        match self {
            Product::RowQuarters => 4,
            Product::RowFifths => 5,
            _ => 1,
        }
    }

    /// Returns some lines of weights, all different.
    fn pattern(self, cols: usize) -> Vec<u8> {
        let numbers = (0..PATTERN * cols).map(|i| i * 7919);
        let floats = numbers.clone().map(|i| ((i % 251) as f32 - 125.0) / 1000.0);
        match self {
            Product::RowQuarters => {
                numbers.map(|i| [0x00, 0x55, 0xaa, 0x91, 0x46, 0x18, 0x24][i % 251 % 7]).collect()
            }
            Product::RowFifths => numbers.map(|i| (i % 243) as u8).collect(),
            Product::F16 => floats.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            Product::Bf16 => floats.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
            Product::Int8 => numbers.map(|i| ((i % 251) as i32 - 125) as u8).collect(),
            Product::Int6 => {
                let codes: Vec<i8> = numbers.map(|i| ((i % 61) as i32 - 30) as i8).collect();
                let mut lines = vec![0; PATTERN * int6_rows::row_bytes(cols)];
                let rows = codes.chunks_exact(cols).zip(lines.chunks_exact_mut(int6_rows::row_bytes(cols)));
                rows.for_each(|(codes, line)| int6_rows::pack_row(codes, line));
                lines
            }
        }
    }
}

/// What weights lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Those of ordinary memory.
    Small,
    /// Those of the pool, huge ones where the system has them.
    Huge,
}

/// Weights, from the start of a cache line on.
enum Weights {
    Small(Vec<u8>, usize),
    Huge(PoolBuffer<u8>),
}

/// Operands of one product.
pub struct Case {
    /// The kind of weights.
    pub product: Product,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Tokens.
    pub tokens: usize,
    /// What the weights lie on.
    pub pages: Pages,
    copies: usize,
    line_bytes: usize,
    weights: Weights,
    x_i8: PoolBuffer<i8>,
    x_i16: PoolBuffer<i16>,
    x_f32: PoolBuffer<f32>,
    sums: Vec<i32>,
}

impl Case {
    /// Makes a case with `copies` matrices, one after the other in memory.
    ///
    /// # Errors
    /// The system refuses the memory.
    pub fn new(
        product: Product,
        (rows, cols): (usize, usize),
        tokens: usize,
        copies: usize,
        pages: Pages,
    ) -> Result<Case, BenchError> {
        let pool = HybridMemoryPool::new()?;
        let pattern = product.pattern(cols);
        let line_bytes = pattern.len() / PATTERN;
        let len = copies * rows.div_ceil(product.rows_of_line()) * line_bytes;
        let mut weights = match pages {
            Pages::Small => {
                let bytes = vec![0; len + 64];
                let start = bytes.as_ptr().align_offset(64).min(64);
                Weights::Small(bytes, start)
            }
            Pages::Huge => Weights::Huge(PoolBuffer::zeroed(&pool, len, &Device::Cpu, "weights")?),
        };
        let bytes = match &mut weights {
            Weights::Small(bytes, start) => &mut bytes[*start..*start + len],
            Weights::Huge(bytes) => bytes,
        };
        bytes.chunks_mut(pattern.len()).for_each(|part| part.copy_from_slice(&pattern[..part.len()]));
        if let Weights::Small(bytes, start) = &mut weights {
            bytes.truncate(*start + len);
        }
        // Activations in `-125..=125`, or the same times what the product takes of them.
        let value = |i: usize| (i * 7919 % 251) as i32 - 125;
        let sum = |row: &[i32]| row.iter().sum::<i32>();
        let values =
            |most: i32| -> Vec<i32> { (0..tokens * cols).map(|i| value(i) * (most / 125)).collect() };
        let (mut x_i8, mut x_i16, mut x_f32, mut sums) = (vec![], vec![], vec![], vec![]);
        match product {
            Product::RowQuarters | Product::RowFifths => {
                let values = values(125);
                x_i8 = values.iter().map(|&value| value as i8).collect();
                sums = values.chunks_exact(cols).map(sum).collect();
            }
            Product::F16 | Product::Bf16 => x_f32 = values(125).iter().map(|&value| value as f32).collect(),
            Product::Int8 => x_i16 = values(int8::limit(cols)).iter().map(|&value| value as i16).collect(),
            Product::Int6 => {
                let values: Vec<i16> = values(int6::limit(cols)).iter().map(|&value| value as i16).collect();
                let width = 2 * int6_rows::padded(cols);
                x_i8 = vec![0; tokens * width];
                let rows = values.chunks_exact(cols).zip(x_i8.chunks_exact_mut(width));
                sums = rows.map(|(row, planes)| int6::split(row, planes)).collect();
            }
        }
        Ok(Case {
            product,
            rows,
            cols,
            tokens,
            pages,
            copies,
            line_bytes,
            weights,
            x_i8: pooled(&pool, &x_i8)?,
            x_i16: pooled(&pool, &x_i16)?,
            x_f32: pooled(&pool, &x_f32)?,
            sums,
        })
    }

    /// Returns the weights.
    pub fn bytes(&self) -> &[u8] {
        match &self.weights {
            Weights::Small(bytes, start) => &bytes[*start..],
            Weights::Huge(bytes) => bytes,
        }
    }

    /// Returns the operations of a run: two for every weight and token.
    pub fn operations(&self) -> f64 {
        2.0 * (self.copies * self.rows * self.cols * self.tokens) as f64
    }

    /// Returns the lines of a call by one of `threads` threads: as the CPU backend cuts them, and some for each.
    fn block(&self, threads: usize) -> usize {
        let most = (SUMS / self.product.rows_of_line() / self.tokens).max(1);
        let lines = self.bytes().len() / self.line_bytes;
        if threads == 1 { most } else { most.min(lines.div_ceil(4 * threads)).max(1) }
    }

    /// Returns room for what each of `threads` threads computes at once.
    pub fn outputs(&self, threads: usize) -> Vec<Vec<i32>> {
        let len = self.block(threads) * self.tokens * self.product.rows_of_line();
        vec![vec![0; len]; threads]
    }

    /// Multiplies the matrices `repeats` times over, a thread with each of the [`outputs`](Self::outputs); done are
    /// lines.
    pub fn run(&self, kernels: &Kernels, outputs: &mut [Vec<i32>], repeats: usize) -> Pass {
        let (block, lines) = (self.block(outputs.len()), self.bytes().len() / self.line_bytes);
        share_out(outputs, lines.div_ceil(block), repeats, |out, index| {
            let part = index * block..lines.min((index + 1) * block);
            let done = part.len();
            black_box(self.multiply(kernels, part, out));
            done
        })
    }

    /// Multiplies some lines and returns the products, of floats their bits.
    fn multiply<'a>(&self, kernels: &Kernels, lines: Range<usize>, out: &'a mut [i32]) -> &'a [i32] {
        let out = &mut out[..lines.len() * self.tokens * self.product.rows_of_line()];
        let weights = &self.bytes()[lines.start * self.line_bytes..lines.end * self.line_bytes];
        let mut dense = |rows: DenseRow<'_>| {
            (kernels.dense_rows)(rows, self.cols, &self.x_f32, bytemuck::cast_slice_mut(&mut *out));
        };
        match self.product {
            Product::RowQuarters => {
                (kernels.row_quarters.i8)(weights, &self.x_i8, &self.sums, out.as_chunks_mut().0);
            }
            Product::RowFifths => {
                (kernels.row_fifths.i8)(weights, &self.x_i8, &self.sums, out.as_chunks_mut().0);
            }
            Product::F16 => dense(DenseRow::F16(bytemuck::cast_slice(weights))),
            Product::Bf16 => dense(DenseRow::BF16(bytemuck::cast_slice(weights))),
            Product::Int8 => (kernels.int8_i16)(bytemuck::cast_slice(weights), self.cols, &self.x_i16, out),
            Product::Int6 => (kernels.int6_planes)(weights, &self.x_i8, &self.sums, out),
        }
        out
    }

    /// Compares the products of one matrix with those of the scalar tier, bit for bit.
    ///
    /// # Errors
    /// [`BenchError::ProductDiffers`].
    pub fn check(&self, kernels: &Kernels) -> Result<(), BenchError> {
        let (block, lines) = (self.block(1), self.bytes().len() / self.line_bytes / self.copies);
        let [mut expected, mut found] = [0, 1].map(|_| self.outputs(1).remove(0));
        for first in (0..lines).step_by(block) {
            let part = first..lines.min(first + block);
            let expected = self.multiply(Kernels::SCALAR, part.clone(), &mut expected);
            let found = self.multiply(kernels, part, &mut found);
            if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
                return Err(BenchError::ProductDiffers {
                    tier: kernels.isa,
                    product: format!(
                        "{} {} x {}, {} tokens",
                        self.product.name(),
                        self.rows,
                        self.cols,
                        self.tokens
                    ),
                    at: first * self.product.rows_of_line() * self.tokens + at,
                    expected: expected[at] as u32,
                    found: found[at] as u32,
                });
            }
        }
        Ok(())
    }
}

fn pooled<T: Element>(pool: &HybridMemoryPool, values: &[T]) -> Result<PoolBuffer<T>, BenchError> {
    let mut buffer = PoolBuffer::zeroed(pool, values.len(), &Device::Cpu, "activations")?;
    buffer.copy_from_slice(values);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use bitnet_kernels::Isa;

    use super::*;

    #[test]
    fn a_case_counts_the_bytes_and_operations_of_its_weights() {
        let bytes = [2 * 5 * 300, 2 * 4 * 300, 2 * 20 * 600, 2 * 20 * 600, 2 * 20 * 300, 2 * 20 * 384];
        for (product, bytes) in Product::ALL.into_iter().zip(bytes) {
            let case = Case::new(product, (20, 300), 3, 2, Pages::Small).unwrap();
            assert_eq!((case.bytes().len(), case.operations()), (bytes, 2.0 * 2.0 * 20.0 * 300.0 * 3.0));
        }
    }

    /// Every element of every call is written: a case that stops short would look fast.
    #[test]
    fn a_case_computes_all_lines_for_all_tokens() {
        for product in Product::ALL {
            for (tokens, threads, pages) in [(1, 1, Pages::Small), (3, 2, Pages::Huge), (128, 3, Pages::Huge)]
            {
                let case = Case::new(product, (20, 300), tokens, 2, pages).unwrap();
                let lines = case.bytes().len() / case.line_bytes;
                let mut outputs = case.outputs(threads);
                let pass = case.run(Kernels::SCALAR, &mut outputs, 3);
                assert_eq!((pass.workers, pass.done), (threads, 3 * lines), "{product:?}");
                let mut out = vec![i32::MAX; case.outputs(1)[0].len()];
                let part = lines - 1..lines;
                let found = case.multiply(Kernels::SCALAR, part, &mut out);
                assert_eq!(found.len(), tokens * product.rows_of_line());
                assert!(!found.contains(&i32::MAX), "{product:?}, {tokens}");
            }
        }
    }

    #[test]
    fn every_tier_passes_the_check_and_another_product_does_not() {
        let mut wrong = Kernels::for_isa(Isa::Scalar).unwrap().row_quarters;
        wrong.i8 = |codes, x, sums, out| {
            (Kernels::SCALAR.row_quarters.i8)(codes, x, sums, out);
            out[out.len() - 1][3] ^= 1;
        };
        let wrong = Kernels { row_quarters: wrong, ..*Kernels::SCALAR };
        for product in Product::ALL {
            for tokens in [1, 5, 70] {
                let case = Case::new(product, (43, 300), tokens, 2, Pages::Small).unwrap();
                for isa in Isa::available() {
                    case.check(Kernels::for_isa(isa).unwrap()).unwrap();
                }
                let is_quarters = product == Product::RowQuarters;
                let error = case.check(&wrong).err().map(|error| error.to_string());
                assert_eq!(error.is_some(), is_quarters, "{product:?}: {error:?}");
                assert!(
                    error.is_none_or(|error| error.contains(&format!("quarters 43 x 300, {tokens} tokens")))
                );
            }
        }
    }
}
