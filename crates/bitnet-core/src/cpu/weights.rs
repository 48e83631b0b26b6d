//! Matrices as the CPU kernels read them.

#![allow(unsafe_code)]

use bitnet_backend::{
    BitNetDType, BitNetError, Device, LinearId, LinearWeights, Result, TernaryWire, WeightBytes, WeightScale,
    WeightStorage,
};
use bitnet_kernels::layout::{int6_rows, row_fifths, row_quarters};
use bitnet_kernels::scalar::{int6, int8, narrow};
use bitnet_kernels::{DenseRow, Kernels};
use half::{bf16, f16};

use super::shared::SharedSlice;
use super::team::Team;

use crate::memory::{HybridMemoryPool, PoolBuffer};

/// A prepared matrix.
pub struct Matrix {
    /// Name in the checkpoint.
    pub name: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Elements.
    pub elements: Elements,
    /// Added to the product.
    pub bias: Option<Vec<f32>>,
}

/// The elements of a matrix.
pub enum Elements {
    /// Ternary codes: a layout, the codes and their scale.
    Ternary(TernaryLayout, Bytes, WeightScale),
    /// Dense floats, in place where the file aligned them.
    Dense(BitNetDType, Bytes),
    /// Rows of narrow codes.
    Narrow(Box<NarrowRows>),
}

/// How wide the codes of a narrow matrix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarrowWidth {
    /// Int8, one after the other.
    Eight,
    /// Six bits, in the blocks of `layout::int6_rows`.
    Six,
}

impl NarrowWidth {
    /// Returns the bytes of a row.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            NarrowWidth::Eight => cols,
            NarrowWidth::Six => int6_rows::row_bytes(cols),
        }
    }

    /// Returns the greatest code.
    fn max_code(self) -> i8 {
        match self {
            NarrowWidth::Eight => i8::MAX,
            NarrowWidth::Six => int6_rows::MAX_CODE as i8,
        }
    }

    /// Returns the greatest quantised activation that its products take.
    pub fn activation_limit(self, cols: usize) -> i32 {
        match self {
            NarrowWidth::Eight => int8::limit(cols),
            NarrowWidth::Six => int6::limit(cols),
        }
    }
}

/// The narrow form of a dense matrix, with what bounds its error.
pub struct NarrowRows {
    /// How wide the codes are.
    pub width: NarrowWidth,
    /// `[rows, row_bytes]`.
    pub codes: PoolBuffer<u8>,
    /// Step of each row.
    pub steps: PoolBuffer<f32>,
    /// Euclidean norm of `stored - codes * step`, of each row, rounded up.
    pub errors: PoolBuffer<f32>,
    /// Euclidean norm of the stored row, rounded up.
    pub norms: PoolBuffer<f32>,
    /// The matrix as stored.
    pub stored: LinearId,
}

impl NarrowRows {
    /// Returns what is known of some rows.
    pub fn facts(&self, rows: std::ops::Range<usize>) -> narrow::RowFacts<'_> {
        narrow::RowFacts { errors: &self.errors[rows.clone()], norms: &self.norms[rows] }
    }
}

/// How the CPU backend keeps ternary codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TernaryLayout {
    /// Two bits a weight, in place: the layout of Hugging Face checkpoints.
    #[default]
    RowQuarters,
    /// 1.6 bits a weight, repacked when loaded.
    RowFifths,
}

impl TernaryLayout {
    /// Returns how many rows a line of codes holds.
    pub(super) fn rows(self) -> usize {
        match self {
            TernaryLayout::RowQuarters => 4,
            TernaryLayout::RowFifths => 5,
        }
    }
}

/// Bytes of a matrix: the loader's, or a copy of them in the pool.
pub enum Bytes {
    /// Adopted without a copy.
    InPlace(WeightBytes),
    /// Copied, because the file did not align the elements.
    Copied(PoolBuffer<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::InPlace(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl Matrix {
    /// Returns how many lines a product shares out: of rows, or of the codes of several.
    pub fn lines(&self) -> usize {
        match &self.elements {
            Elements::Ternary(layout, ..) => self.rows.div_ceil(layout.rows()),
            Elements::Dense(..) | Elements::Narrow(..) => self.rows,
        }
    }

    /// Returns what a line costs in a product with `tokens` tokens, where a byte of codes for each is one.
    pub fn cost_of_line(&self, tokens: usize) -> usize {
        match &self.elements {
            Elements::Ternary(..) | Elements::Narrow(..) => self.cols * tokens,
            Elements::Dense(..) => 2 * self.cols * tokens,
        }
    }

    /// Adopts what a loader read, ternary codes in `layout`.
    pub fn prepare(
        weights: LinearWeights,
        layout: TernaryLayout,
        pool: &HybridMemoryPool,
        team: &mut Team,
    ) -> Result<Matrix> {
        weights.validate()?;
        let LinearWeights { name, rows, cols, storage, bias } = weights;
        let elements = match storage {
            WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes, scale } => {
                check_ternary(&name, cols, scale)?;
                let bytes = match layout {
                    TernaryLayout::RowQuarters => Bytes::InPlace(bytes),
                    TernaryLayout::RowFifths => Bytes::Copied(fifths(&name, rows, cols, &bytes, pool, team)?),
                };
                Elements::Ternary(layout, bytes, scale)
            }
            WeightStorage::Dense { dtype, bytes } => dense(&name, dtype, bytes, pool)?,
            other => return Err(unsupported(format!("matrix {name} stored as {other:?}"))),
        };
        Ok(Matrix { name, rows, cols, elements, bias })
    }

    /// Makes the narrow form of a dense matrix, whose own id is `stored`; `None` when it is not dense.
    pub fn to_narrow(
        &self,
        width: NarrowWidth,
        stored: LinearId,
        kernels: &Kernels,
        pool: &HybridMemoryPool,
        team: &mut Team,
    ) -> Result<Option<Matrix>> {
        if self.dense_row(0).is_none() {
            return Ok(None);
        }
        let purpose = format!("{} in narrow rows", self.name);
        if self.cols > narrow::MAX_COLS {
            let expected = format!("at most {} input features", narrow::MAX_COLS);
            return Err(BitNetError::mismatch(purpose, expected, self.cols));
        }
        let row_bytes = width.row_bytes(self.cols);
        // Of what follows every element is written.
        let mut codes = PoolBuffer::<u8>::for_overwrite(pool, self.rows * row_bytes, &Device::Cpu, &purpose)?;
        let vector = || PoolBuffer::<f32>::for_overwrite(pool, self.rows, &Device::Cpu, &purpose);
        let (mut steps, mut errors, mut norms) = (vector()?, vector()?, vector()?);
        let mut wide =
            PoolBuffer::<f32>::for_overwrite(pool, self.cols * team.size(), &Device::Cpu, &purpose)?;
        let mut loose =
            PoolBuffer::<i8>::for_overwrite(pool, self.cols * team.size(), &Device::Cpu, &purpose)?;
        let (shared_codes, shared_wide) = (SharedSlice::new(&mut codes), SharedSlice::new(&mut wide));
        let shared_loose = SharedSlice::new(&mut loose);
        let per_row = [&mut steps, &mut errors, &mut norms].map(|vector| SharedSlice::new(vector));
        team.run(&|worker| {
            let own = worker.index * self.cols..(worker.index + 1) * self.cols;
            // SAFETY: each worker has its own part.
            let (wide, loose) = unsafe { (shared_wide.get_mut(own.clone()), shared_loose.get_mut(own)) };
            for row in worker.share(self.rows, 1) {
                let Some(weights) = self.dense_row(row) else { continue };
                (kernels.widen)(weights, wide);
                // SAFETY: rows are shared out disjointly.
                let (codes, [step, error, norm]) = unsafe {
                    let codes = shared_codes.get_mut(row * row_bytes..(row + 1) * row_bytes);
                    (codes, per_row.map(|vector| &mut vector.get_mut(row..row + 1)[0]))
                };
                let row = match width {
                    NarrowWidth::Eight => {
                        (kernels.quantize_row)(wide, width.max_code(), bytemuck::cast_slice_mut(codes))
                    }
                    NarrowWidth::Six => {
                        let row = (kernels.quantize_row)(wide, width.max_code(), loose);
                        int6_rows::pack_row(loose, codes);
                        row
                    }
                };
                (*step, *error, *norm) = (row.step, row.error, row.norm);
            }
        });
        if let Some(row) = steps.iter().position(|step| !step.is_finite()) {
            return Err(BitNetError::mismatch(
                format!("{} row {row}", self.name),
                "finite weights",
                steps[row],
            ));
        }
        let elements = Elements::Narrow(Box::new(NarrowRows { width, codes, steps, errors, norms, stored }));
        let (name, bias) = (self.name.clone(), self.bias.clone());
        Ok(Some(Matrix { name, rows: self.rows, cols: self.cols, elements, bias }))
    }

    /// Returns a row of a dense matrix; `None` when the matrix is ternary.
    pub fn dense_row(&self, row: usize) -> Option<DenseRow<'_>> {
        self.dense_rows(row..row + 1)
    }

    /// Returns rows of a dense matrix, one after the other; `None` when the matrix is ternary.
    pub fn dense_rows(&self, rows: std::ops::Range<usize>) -> Option<DenseRow<'_>> {
        let Elements::Dense(dtype, bytes) = &self.elements else { return None };
        let width = dtype.size_bytes(self.cols)?;
        let bytes = &bytes[rows.start * width..rows.end * width];
        // Alignment was checked when the matrix was prepared.
        match dtype {
            BitNetDType::F32 => bytemuck::try_cast_slice(bytes).ok().map(DenseRow::F32),
            BitNetDType::F16 => bytemuck::try_cast_slice::<u8, f16>(bytes).ok().map(DenseRow::F16),
            BitNetDType::BF16 => bytemuck::try_cast_slice::<u8, bf16>(bytes).ok().map(DenseRow::BF16),
            _ => None,
        }
    }

    /// Returns the rows of a narrow matrix.
    pub fn narrow(&self) -> Option<&NarrowRows> {
        match &self.elements {
            Elements::Narrow(rows) => Some(rows),
            _ => None,
        }
    }

    /// Lends all that a product reads: elements, what is known of the rows, bias.
    pub fn slices(&self) -> Vec<&[u8]> {
        let mut slices: Vec<&[u8]> = match &self.elements {
            Elements::Ternary(_, bytes, _) | Elements::Dense(_, bytes) => vec![bytes],
            Elements::Narrow(rows) => {
                let of_rows =
                    [&rows.steps, &rows.errors, &rows.norms].map(|facts| bytemuck::cast_slice(facts));
                [&rows.codes[..]].into_iter().chain(of_rows).collect()
            }
        };
        slices.extend(self.bias.as_deref().map(bytemuck::cast_slice));
        slices
    }
}

fn check_ternary(name: &str, cols: usize, scale: WeightScale) -> Result<()> {
    if cols > row_quarters::MAX_COLS {
        let expected = format!("at most {} input features", row_quarters::MAX_COLS);
        return Err(BitNetError::mismatch(name, expected, cols));
    }
    if !(scale.value().is_finite() && scale.value() > 0.0) {
        return Err(BitNetError::mismatch(format!("{name}: scale"), "a positive number", scale.value()));
    }
    Ok(())
}

/// Repacks codes to row fifths, every worker its lines.
fn fifths(
    name: &str,
    rows: usize,
    cols: usize,
    quarters: &[u8],
    pool: &HybridMemoryPool,
    team: &mut Team,
) -> Result<PoolBuffer<u8>> {
    let lines = row_fifths::lines(rows);
    let mut out = PoolBuffer::for_overwrite(pool, lines * cols, &Device::Cpu, name)?;
    let shared = SharedSlice::new(&mut out);
    team.run(&|worker| {
        let share = worker.share(lines, 1);
        // SAFETY: lines are shared out disjointly.
        let part = unsafe { shared.get_mut(share.start * cols..share.end * cols) };
        row_fifths::repack(quarters, rows, cols, share.start, part);
    });
    Ok(out)
}

fn dense(name: &str, dtype: BitNetDType, bytes: WeightBytes, pool: &HybridMemoryPool) -> Result<Elements> {
    let align = match dtype {
        BitNetDType::F32 => align_of::<f32>(),
        BitNetDType::F16 | BitNetDType::BF16 => align_of::<u16>(),
        other => return Err(unsupported(format!("matrix {name} of {other}"))),
    };
    if cfg!(target_endian = "big") {
        return Err(unsupported(format!("little-endian matrix {name} in place")));
    }
    if bytes.as_ptr().addr().is_multiple_of(align) {
        return Ok(Elements::Dense(dtype, Bytes::InPlace(bytes)));
    }
    let mut copy = PoolBuffer::for_overwrite(pool, bytes.len(), &Device::Cpu, name)?;
    copy.copy_from_slice(&bytes);
    Ok(Elements::Dense(dtype, Bytes::Copied(copy)))
}

fn unsupported(operation: String) -> BitNetError {
    bitnet_backend::ErrorKind::Unsupported {
        backend: super::NAME,
        operation,
        reason: "the CPU kernels read row-quarter codes and f32, f16 or bf16 rows".into(),
    }
    .into()
}
