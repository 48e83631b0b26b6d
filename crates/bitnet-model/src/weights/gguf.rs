//! One projection of a GGUF file.
//!
//! | stored as | in a bitnet architecture | in a llama |
//! |---|---|---|
//! | I2_S | ternary | ternary, with int8 activations |
//! | TQ1_0, TQ2_0 of one scale | ternary | ternary, with float activations |
//! | TQ1_0, TQ2_0 of several scales | refused | decoded |
//! | F32, F16, BF16 of one magnitude | ternary | ternary, with float activations |
//! | F32, F16, BF16 | quantised by absmean | as stored |
//! | other blocks of one magnitude | ternary | decoded |
//! | other blocks | refused | decoded |
//!
//! Decoded means F16: half the bytes of F32 to hold and to read for each token, and its rounding of 2^-11 is far
//! below the steps of the blocks. A tensor with values beyond the range of F16 is decoded to F32. A `.scale` tensor
//! beside a matrix is multiplied into it.

use bitnet_core::backend::{BitNetDType, TernaryWire, WeightBytes, WeightScale, WeightStorage};
use bitnet_core::memory::PoolBuffer;
use bitnet_core::memory::conversion::to_file_order;
use bitnet_quant::ggml::{GgmlError, GgmlType, TernaryTensor};
use bitnet_quant::{FloatMatrix, absmean};

use crate::checkpoint::StoredDType;
use crate::config::ModelClass;
use crate::error::{LoadError, LoadErrorKind};
use crate::family::{ActivationMode, Family};

use super::linear::Matrix;
use super::model::StoredAs;
use super::reader::Reader;
use super::rows::{Blocks, RowOrder, reorder};

/// A float matrix in memory or in the file, its rows in our order.
struct Floats {
    dtype: BitNetDType,
    bytes: WeightBytes,
}

impl Reader<'_, '_> {
    /// Reads a projection in whatever form the file has it.
    pub(super) fn gguf_storage(&mut self, matrix: &Matrix<'_>) -> Result<WeightStorage, LoadError> {
        self.check_shape(&matrix.name, matrix.tensor, &[matrix.rows, matrix.cols])?;
        let scale_name = format!("{}.scale", matrix.module);
        let factor = if self.has(&scale_name) { self.scale(&scale_name)? } else { 1.0 };
        match matrix.tensor.dtype {
            StoredDType::Ggml(ty) if ty.is_ternary() => self.gguf_ternary(matrix, ty, factor),
            StoredDType::Ggml(ty) => self.gguf_blocks(matrix, ty, factor),
            StoredDType::Known(dtype @ (BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16)) => {
                let bytes = match matrix.order {
                    RowOrder::AsStored => matrix.tensor.bytes.clone(),
                    order => {
                        let width = matrix.tensor.bytes.len() / matrix.rows.max(1);
                        let mut rows = self.room(&matrix.name, matrix.rows, width)?;
                        reorder(&matrix.tensor.bytes, width, order, &mut rows);
                        rows.into()
                    }
                };
                self.gguf_floats(matrix, Floats { dtype, bytes }, factor)
            }
            ref other => {
                let expected = "a type that can be decoded: floats, TQ, I2_S, Q4_0 to Q8_0 or Q2_K to Q6_K";
                Err(self.refuse(LoadErrorKind::DType, &matrix.name, expected, other))
            }
        }
    }

    /// Codes of TQ1_0, TQ2_0 and I2_S, which are put in row quarters in one pass.
    fn gguf_ternary(
        &mut self,
        matrix: &Matrix<'_>,
        ty: GgmlType,
        factor: f32,
    ) -> Result<WeightStorage, LoadError> {
        let Matrix { tensor, rows, cols, order, .. } = *matrix;
        let blocks = TernaryTensor::new(ty, self.i2s_layout(), &tensor.bytes, rows, cols);
        let blocks = blocks.map_err(|error| self.invalid(&matrix.name, error))?;
        let scale = match blocks.scale() {
            // Where all is zero any scale does.
            Ok(scale) => scale.unwrap_or(1.0),
            Err(GgmlError::Scales { .. }) if !self.quantises() => {
                return self.gguf_dense_blocks(matrix, ty, factor);
            }
            Err(error) => return Err(self.invalid(&matrix.name, error)),
        };
        let pack = |packed: &mut [u8]| blocks.pack_rows_into(|row| order.source(row), packed);
        let (packed, ()) = self.codes(matrix, pack)?;
        self.release(tensor);
        self.record(&matrix.name, tensor, StoredAs::Ternary, "ternary codes, put in row quarters at load");
        self.gguf_codes(matrix, packed, scale, factor)
    }

    /// Blocks of ordinary weights.
    fn gguf_blocks(
        &mut self,
        matrix: &Matrix<'_>,
        ty: GgmlType,
        factor: f32,
    ) -> Result<WeightStorage, LoadError> {
        if !self.quantises() {
            return self.gguf_dense_blocks(matrix, ty, factor);
        }
        let mut wide = self.room(&matrix.name, matrix.rows, matrix.cols.saturating_mul(4))?;
        let decoded = self.blocks_of(matrix, ty).to_f32(1.0, &mut wide);
        decoded.map_err(|error| self.invalid(&matrix.name, error))?;
        let floats = FloatMatrix::new(BitNetDType::F32, &wide, matrix.rows, matrix.cols);
        let floats = floats.map_err(|error| self.invalid(&matrix.name, error))?;
        if let Some((packed, magnitude)) = self.uniform_codes(matrix, &floats)? {
            self.release(matrix.tensor);
            self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, "blocks of one magnitude");
            return self.gguf_codes(matrix, packed, magnitude, factor);
        }
        drop(wide);
        if self.is_bitnet() {
            let expected = "ternary values of one magnitude in a bitnet architecture";
            let found = format_args!("{ty} blocks of other values");
            return Err(self.refuse(LoadErrorKind::Values, &matrix.name, expected, found));
        }
        self.gguf_dense_blocks(matrix, ty, factor)
    }

    fn gguf_floats(
        &mut self,
        matrix: &Matrix<'_>,
        floats: Floats,
        factor: f32,
    ) -> Result<WeightStorage, LoadError> {
        let view = FloatMatrix::new(floats.dtype, &floats.bytes, matrix.rows, matrix.cols);
        let view = view.map_err(|error| self.invalid(&matrix.name, error))?;
        if let Some((packed, magnitude)) = self.uniform_codes(matrix, &view)? {
            if !self.quantises() {
                self.note(
                    "float weights of one magnitude are taken as ternary, with float activations".into(),
                );
            }
            self.release(matrix.tensor);
            self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, "ternary floats of one magnitude");
            return self.gguf_codes(matrix, packed, magnitude, factor);
        }
        if self.is_bitnet() {
            self.note("float weights of a bitnet architecture are quantised by absmean".into());
            let (packed, (_, scale)) = self.codes(matrix, |packed| absmean::quantize_into(&view, packed))?;
            self.release(matrix.tensor);
            self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, "quantised by absmean");
            return self.gguf_codes(matrix, packed, scale.value(), factor);
        }
        self.check_finite_bytes(&matrix.name, &floats.bytes, floats.dtype, matrix.cols)?;
        let (storage, rule) = match (factor, matrix.order) {
            (1.0, RowOrder::AsStored) => (floats, "kept as stored: not ternary"),
            (1.0, _) => (floats, "as stored, rows in the order of heads: not ternary"),
            _ => {
                let mut wide = self.room(&matrix.name, matrix.rows, matrix.cols.saturating_mul(4))?;
                let values = bytemuck::cast_slice_mut(&mut wide);
                self.widen_into(floats.dtype, &floats.bytes, values)?;
                values.iter_mut().for_each(|value| *value *= factor);
                to_file_order(BitNetDType::F32, &mut wide);
                (
                    Floats { dtype: BitNetDType::F32, bytes: wide.into() },
                    "multiplied by its scale: not ternary",
                )
            }
        };
        self.record(&matrix.name, matrix.tensor, StoredAs::Dense(storage.dtype), rule);
        Ok(WeightStorage::Dense { dtype: storage.dtype, bytes: storage.bytes })
    }

    fn gguf_dense_blocks(
        &mut self,
        matrix: &Matrix<'_>,
        ty: GgmlType,
        factor: f32,
    ) -> Result<WeightStorage, LoadError> {
        let (dtype, bytes) = self.decoded(&matrix.name, self.blocks_of(matrix, ty), factor)?;
        self.release(matrix.tensor);
        self.record(&matrix.name, matrix.tensor, StoredAs::Dense(dtype), "blocks, decoded at load");
        Ok(WeightStorage::Dense { dtype, bytes })
    }

    /// Decodes blocks to F16, or to F32 where a scale is to be multiplied in or values are too large.
    pub(super) fn decoded(
        &self,
        name: &str,
        blocks: Blocks<'_>,
        factor: f32,
    ) -> Result<(BitNetDType, WeightBytes), LoadError> {
        let invalid = |error| self.invalid(name, error);
        let mut decoded = None;
        if factor == 1.0 {
            let mut narrow = self.room(name, blocks.rows, blocks.cols.saturating_mul(2))?;
            if blocks.to_f16(self.engine, &mut narrow).map_err(invalid)? {
                decoded = Some((BitNetDType::F16, narrow));
            }
        }
        let (dtype, bytes) = match decoded {
            Some(decoded) => decoded,
            None => {
                let mut wide = self.room(name, blocks.rows, blocks.cols.saturating_mul(4))?;
                blocks.to_f32(factor, &mut wide).map_err(invalid)?;
                (BitNetDType::F32, wide)
            }
        };
        self.check_finite_bytes(name, &bytes, dtype, blocks.cols)?;
        Ok((dtype, bytes.into()))
    }

    fn blocks_of<'m>(&self, matrix: &'m Matrix<'_>, ty: GgmlType) -> Blocks<'m> {
        let Matrix { tensor, rows, cols, order, .. } = *matrix;
        Blocks { ty, layout: self.i2s_layout(), bytes: &tensor.bytes, rows, cols, order }
    }

    /// Makes a ternary matrix of packed codes, the magnitude of their values, and the scale of the product.
    fn gguf_codes(
        &self,
        matrix: &Matrix<'_>,
        packed: PoolBuffer<u8>,
        magnitude: f32,
        factor: f32,
    ) -> Result<WeightStorage, LoadError> {
        let scale = magnitude * factor;
        if !(scale > 0.0 && scale.is_finite()) {
            let expected = "a magnitude and a scale whose product is finite and above zero";
            return Err(self.refuse(
                LoadErrorKind::Values,
                &matrix.name,
                expected,
                format_args!("{scale:e}"),
            ));
        }
        let scale = WeightScale::Multiply(scale);
        Ok(WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes: packed.into(), scale })
    }

    /// Reports whether products take int8 activations.
    fn quantises(&self) -> bool {
        self.detection.family.activations() == ActivationMode::Int8PerToken
    }

    /// Reports whether the architecture is one whose every projection is ternary.
    fn is_bitnet(&self) -> bool {
        self.config.class == ModelClass::BitNet && self.detection.family != Family::LlamaBitLinear
    }
}
