//! Between ternary tensors of GGUF files and packed codes in row quarters.

use bitnet_kernels::layout::row_quarters;
use half::f16;

use super::ternary::{self, BLOCK};
use super::{GgmlError, GgmlType, I2_S_TAIL, I2sLayout};
use crate::pack::{fill_lines, find_row};

/// A TQ1_0, TQ2_0 or I2_S tensor `[rows, cols]`, borrowed from a file.
#[derive(Debug, Clone, Copy)]
pub struct TernaryTensor<'a> {
    ty: GgmlType,
    layout: I2sLayout,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    row_bytes: usize,
}

/// Bytes and elements that are decoded at a time.
#[derive(Clone, Copy)]
struct Unit {
    bytes: usize,
    elements: usize,
}

fn unit(ty: GgmlType, layout: I2sLayout) -> Unit {
    match ty {
        GgmlType::I2_S => Unit { bytes: layout.group_bytes(), elements: 4 * layout.group_bytes() },
        _ => Unit { bytes: ty.block_bytes(), elements: ty.block_len() },
    }
}

impl<'a> TernaryTensor<'a> {
    /// Borrows the bytes of a whole tensor; `layout` matters for I2_S only.
    ///
    /// # Errors
    /// Another type; rows that are no whole number of blocks; bytes that are not those of the shape.
    pub fn new(
        ty: GgmlType,
        layout: I2sLayout,
        bytes: &'a [u8],
        rows: usize,
        cols: usize,
    ) -> Result<Self, GgmlError> {
        if !ty.is_ternary() {
            return Err(GgmlError::Type { expected: "TQ1_0, TQ2_0 or I2_S", ty });
        }
        let block = unit(ty, layout).elements;
        let row_bytes = ty.row_bytes(cols).filter(|_| cols.is_multiple_of(block));
        let row_bytes = row_bytes.ok_or(GgmlError::Elements { ty, block, found: cols })?;
        match ty.tensor_bytes(rows, cols) {
            Some(expected) if expected == bytes.len() => {
                Ok(TernaryTensor { ty, layout, bytes, rows, cols, row_bytes })
            }
            expected => Err(GgmlError::Bytes {
                ty,
                elements: rows.saturating_mul(cols),
                expected: expected.unwrap_or(usize::MAX),
                found: bytes.len(),
            }),
        }
    }

    /// Returns the scale of one block, as stored.
    pub(super) fn stored_scale(&self, row: usize, block: usize) -> f32 {
        if self.ty == GgmlType::I2_S {
            let tail = &self.bytes[self.bytes.len() - I2_S_TAIL..];
            return f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
        }
        ternary::scale_of(self.ty, self.block(row, block))
    }

    fn block(&self, row: usize, block: usize) -> &'a [u8] {
        let Unit { bytes, .. } = unit(self.ty, self.layout);
        &self.bytes[row * self.row_bytes + block * bytes..][..bytes]
    }

    /// Returns the scales of all blocks in order, as stored: one for I2_S.
    pub fn block_scales(&self) -> impl Iterator<Item = f32> + '_ {
        let (rows, blocks) = match self.ty {
            GgmlType::I2_S => (1, 1),
            _ => (self.rows, self.cols / BLOCK),
        };
        (0..rows).flat_map(move |row| (0..blocks).map(move |block| self.stored_scale(row, block)))
    }

    /// Returns the one scale of the tensor; `None` when every value is zero and no scale is stored.
    ///
    /// A block of zeros may have any scale, zero included.
    ///
    /// # Errors
    /// Blocks whose scales differ; a scale that is negative, not finite, or zero over codes that are not.
    pub fn scale(&self) -> Result<Option<f32>, GgmlError> {
        let mut found: Option<f32> = None;
        let blocks = if self.ty == GgmlType::I2_S { 1 } else { self.cols / BLOCK };
        for row in 0..if self.ty == GgmlType::I2_S { 1 } else { self.rows } {
            for block in 0..blocks {
                let scale = self.stored_scale(row, block);
                if found == Some(scale) {
                    continue;
                }
                if scale > 0.0 && scale.is_finite() {
                    if found.is_none() {
                        found = Some(scale);
                        continue;
                    }
                } else if scale != 0.0 {
                    return Err(GgmlError::Scale { row, block, found: scale });
                }
                if !self.is_zero(row, block) {
                    return Err(match found {
                        Some(expected) if scale != 0.0 => {
                            GgmlError::Scales { row, block, expected, found: scale }
                        }
                        _ => GgmlError::Scale { row, block, found: scale },
                    });
                }
            }
        }
        Ok(found)
    }

    /// Reports whether a block (TQ) or the whole tensor (I2_S) holds zeros only.
    fn is_zero(&self, row: usize, block: usize) -> bool {
        let Unit { bytes, elements } = unit(self.ty, self.layout);
        let mut codes = [0; BLOCK];
        let mut zero = |bytes: &[u8]| {
            let codes = &mut codes[..elements];
            ternary::codes(self.ty, self.layout, bytes, codes);
            codes.iter().all(|&code| code == 1)
        };
        match self.ty {
            GgmlType::I2_S => self.bytes[..self.rows * self.row_bytes].chunks_exact(bytes).all(zero),
            _ => zero(self.block(row, block)),
        }
    }

    /// Writes line `line` of the row-quarters form (`cols` bytes) of a matrix whose row `r` is the row
    /// `source(r)` of this tensor. Absent rows get the code of zero.
    ///
    /// Lines are independent: a caller may give them to several threads. Codes are not checked.
    ///
    /// # Panics
    /// When `out` is not `cols` long, or `line` or a source row is not there.
    pub fn fill_line(&self, line: usize, source: impl Fn(usize) -> usize, out: &mut [u8]) {
        assert_eq!(out.len(), self.cols, "a line of {} columns", self.cols);
        let Unit { bytes, elements } = unit(self.ty, self.layout);
        let lines = row_quarters::quads(self.rows);
        assert!(line < lines, "line {line} of {lines}");
        let rows: [Option<&[u8]>; 4] = std::array::from_fn(|lane| {
            let row = lane * lines + line;
            (row < self.rows).then(|| &self.bytes[source(row) * self.row_bytes..][..self.row_bytes])
        });
        let zeros = ternary::zeros(self.ty);
        for (index, out) in out.chunks_exact_mut(elements).enumerate() {
            let blocks = rows.map(|row| row.map_or(&zeros[..bytes], |row| &row[index * bytes..][..bytes]));
            ternary::quarters(self.ty, self.layout, blocks, out);
        }
    }

    /// Packs the whole tensor by row quarters, on all cores, and checks its codes.
    ///
    /// # Errors
    /// A code 3.
    pub fn pack(&self) -> Result<Vec<u8>, GgmlError> {
        self.pack_rows(|row| row)
    }

    /// Packs the matrix whose row `r` is the row `source(r)` of this tensor, as [`pack`](Self::pack) does.
    ///
    /// # Errors
    /// A code 3, by the row of the result.
    ///
    /// # Panics
    /// When a source row is not there.
    pub fn pack_rows(&self, source: impl Fn(usize) -> usize + Sync + Send) -> Result<Vec<u8>, GgmlError> {
        let mut packed = vec![0; row_quarters::quads(self.rows) * self.cols];
        self.pack_rows_into(source, &mut packed)?;
        Ok(packed)
    }

    /// Packs into memory that is there already, as [`pack_rows`](Self::pack_rows) does.
    ///
    /// # Errors
    /// A code 3, by the row of the result.
    ///
    /// # Panics
    /// When `packed` is not as long as the result, or a source row is not there.
    pub fn pack_rows_into(
        &self,
        source: impl Fn(usize) -> usize + Sync + Send,
        packed: &mut [u8],
    ) -> Result<(), GgmlError> {
        fill_lines(packed, self.rows, self.cols, |line, out| self.fill_line(line, &source, out));
        let packed = &*packed;
        // Digits in base 3 cannot be anything else.
        if self.ty != GgmlType::TQ1_0 {
            let lines = row_quarters::quads(self.rows);
            let invalid = |line: usize| {
                let line_bytes = &packed[line * self.cols..][..self.cols];
                let at = row_quarters::find_invalid(line_bytes)?;
                let lane = row_quarters::codes(line_bytes[at]).iter().position(|&code| code == 3)?;
                Some(lane * lines + line)
            };
            if let Some(row) = find_row(lines, self.cols, invalid) {
                return Err(GgmlError::Code { row });
            }
        }
        Ok(())
    }
}

/// Packed codes in row quarters on their way into rows of a ternary type.
#[derive(Debug, Clone, Copy)]
pub struct TernaryRows<'a> {
    ty: GgmlType,
    packed: &'a [u8],
    rows: usize,
    cols: usize,
    row_bytes: usize,
    scale: f32,
}

impl<'a> TernaryRows<'a> {
    /// Borrows a matrix of valid codes that is to become `ty`; I2_S gets the x86 order.
    ///
    /// # Errors
    /// Another type; rows that are no whole number of blocks; a scale that is not positive and finite, or that
    /// is neither in f16 where the type stores it so.
    ///
    /// # Panics
    /// When `packed` is not the packed form of `rows` x `cols`.
    pub fn new(
        ty: GgmlType,
        packed: &'a [u8],
        rows: usize,
        cols: usize,
        scale: f32,
    ) -> Result<Self, GgmlError> {
        assert_eq!(Some(packed.len()), row_quarters::packed_len(rows, cols), "codes of {rows} x {cols}");
        if !ty.is_ternary() {
            return Err(GgmlError::Type { expected: "TQ1_0, TQ2_0 or I2_S", ty });
        }
        let block = unit(ty, I2sLayout::X86).elements;
        let row_bytes = ty.row_bytes(cols).filter(|_| cols.is_multiple_of(block));
        let row_bytes = row_bytes.ok_or(GgmlError::Elements { ty, block, found: cols })?;
        let stored = if ty == GgmlType::I2_S { scale } else { f16::from_f32(scale).to_f32() };
        if !(stored > 0.0 && stored.is_finite()) {
            return Err(GgmlError::Scale { row: 0, block: 0, found: scale });
        }
        Ok(TernaryRows { ty, packed, rows, cols, row_bytes, scale })
    }

    /// Returns the bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Writes one row.
    ///
    /// # Panics
    /// When the row is not there or `out` is not [`row_bytes`](Self::row_bytes) long.
    pub fn encode_row(&self, row: usize, out: &mut [u8]) {
        assert!(row < self.rows && out.len() == self.row_bytes, "row {row} of {}", self.rows);
        let lines = row_quarters::quads(self.rows);
        let (line, shift) = (&self.packed[row % lines * self.cols..][..self.cols], 2 * (row / lines));
        let Unit { bytes, elements } = unit(self.ty, I2sLayout::X86);
        let mut codes = [0u8; BLOCK];
        for (line, block) in line.chunks_exact(elements).zip(out.chunks_exact_mut(bytes)) {
            codes.iter_mut().zip(line).for_each(|(code, byte)| *code = byte >> shift & 3);
            ternary::put_codes(self.ty, I2sLayout::X86, &codes[..elements], block);
            if self.ty != GgmlType::I2_S {
                ternary::put_scale(self.ty, f16::from_f32(self.scale), block);
            }
        }
    }

    /// Returns what stands behind the rows: the scale and zeros for I2_S, nothing else.
    pub fn tail(&self) -> Vec<u8> {
        let mut tail = vec![0; self.ty.tail_bytes()];
        if let Some(scale) = tail.first_chunk_mut::<4>() {
            *scale = self.scale.to_le_bytes();
        }
        tail
    }
}
