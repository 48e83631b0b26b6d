//! One projection: how its weight is stored, and the form in which a backend gets it. Those of GGUF files are
//! in `gguf.rs`.
//!
//! | weight | scale beside it | becomes |
//! |---|---|---|
//! | U8 `[ceil(N / 4), K]` | needed | ternary, left in the file |
//! | I8 `[N, K]` | needed | ternary, packed at load |
//! | float `[N, K]` of -1, 0, 1 | there | ternary, packed at load |
//! | float `[N, K]` | none | by family: quantised by absmean, recognised as ternary, or dense |

use std::convert::Infallible;
use std::fmt::Display;

use bitnet_core::backend::{
    BitNetDType, LinearWeights, TernaryWire, WeightBytes, WeightScale, WeightStorage,
};
use bitnet_core::memory::PoolBuffer;
use bitnet_quant::{FloatMatrix, QuantError, absmean, ternary};

use crate::checkpoint::{StoredDType, Tensor};
use crate::config::{QuantisationConfig, QuantisationMode};
use crate::error::{LoadError, LoadErrorKind};
use crate::family::{ActivationMode, Family};
use crate::names::Naming;

use super::model::{Projection, StoredAs};
use super::reader::Reader;
use super::rows::RowOrder;
use super::scan;

/// A weight with its name and the shape that it has to have.
pub(super) struct Matrix<'t> {
    pub(super) module: &'t str,
    pub(super) name: String,
    pub(super) tensor: &'t Tensor,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) order: RowOrder,
}

impl<'a> Reader<'a, '_> {
    /// Reads `<module>.weight` as `[rows, cols]` with what belongs to it: scale, bias, norm.
    pub(super) fn projection(
        &mut self,
        module: &str,
        [rows, cols]: [usize; 2],
        has_bias: bool,
        order: RowOrder,
    ) -> Result<Projection, LoadError> {
        let name = format!("{module}.weight");
        let tensor = self.find(&name, format_args!("the weight of a projection [{rows}, {cols}]"))?;
        let matrix = Matrix { module, name, tensor, rows, cols, order };
        let storage = self.storage(&matrix)?;
        let ternary = matches!(storage, WeightStorage::Ternary { .. });
        let bias = self.bias(module, rows, has_bias, order)?;
        let quantised = ternary && self.detection.family.activations() == ActivationMode::Int8PerToken;
        let norm = self.own_norm(module, cols, quantised)?;
        let weights = LinearWeights { name: matrix.name, rows, cols, storage, bias };
        Ok(Projection { weights, norm })
    }

    fn bias(
        &mut self,
        module: &str,
        rows: usize,
        stated: bool,
        order: RowOrder,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        let name = format!("{module}.bias");
        if !stated && !self.has(&name) {
            return Ok(None);
        }
        // Metadata of GGUF files does not speak of biases.
        if !stated && self.naming() == Naming::HuggingFace {
            self.note("biases are stored although the configuration states none: they are added".into());
        }
        let stored = self.vector(&name, rows, "bias, widened to f32")?;
        Ok(Some((0..rows).map(|row| stored[order.source(row)]).collect()))
    }

    /// Reads the norm of a projection's own, which a quantised projection alone can have.
    fn own_norm(
        &mut self,
        module: &str,
        cols: usize,
        quantised: bool,
    ) -> Result<Option<super::NormWeights>, LoadError> {
        let name = format!("{module}.rms_norm.weight");
        let stated = self.config.quantisation.as_ref().is_some_and(|q| q.use_rms_norm);
        if !quantised || !stated && !self.has(&name) {
            return Ok(None);
        }
        let default = QuantisationConfig::default().rms_norm_eps;
        let eps = self.config.quantisation.as_ref().map_or(default, |q| q.rms_norm_eps);
        if !stated {
            self.note(format!(
                "projections have norms although use_rms_norm is not set: used, epsilon {eps:e}"
            ));
        }
        self.norm(&name, cols, eps).map(Some)
    }

    fn storage(&mut self, matrix: &Matrix<'_>) -> Result<WeightStorage, LoadError> {
        if self.naming() == Naming::Gguf {
            return self.gguf_storage(matrix);
        }
        let scale_name = format!("{}_scale", matrix.name);
        let int8 = self.detection.family.activations() == ActivationMode::Int8PerToken;
        // A llama with float activations that is stored as packed ones are: our own file.
        let quantised = int8 || self.detection.family == Family::TriLm;
        let kept = self.config.quantisation.as_ref().is_some_and(|q| q.keeps_float(matrix.module));
        match matrix.tensor.dtype {
            StoredDType::Known(BitNetDType::U8) if quantised => self.packed(matrix, &scale_name),
            StoredDType::Known(BitNetDType::I8) if quantised => self.bytes(matrix, &scale_name),
            StoredDType::Known(BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16) => {
                self.check_shape(&matrix.name, matrix.tensor, &[matrix.rows, matrix.cols])?;
                match quantised {
                    true if self.has(&scale_name) => self.unit_floats(matrix, &scale_name),
                    true if kept => self.dense(matrix, "kept as stored: modules_to_not_convert"),
                    true if int8 => self.master(matrix, &scale_name),
                    _ => self.inspected(matrix),
                }
            }
            ref other => {
                let expected = if quantised { "u8, i8, f32, f16 or bf16" } else { "f32, f16 or bf16" };
                Err(self.refuse(LoadErrorKind::DType, &matrix.name, expected, other))
            }
        }
    }

    /// Packed by row quarters: used where it lies in the file.
    fn packed(&mut self, matrix: &Matrix<'_>, scale_name: &str) -> Result<WeightStorage, LoadError> {
        let Matrix { tensor, rows, cols, .. } = *matrix;
        self.check_shape(&matrix.name, tensor, &[rows.div_ceil(4), cols])?;
        if let Some([row, col]) = scan::find_odd_code(&tensor.bytes, rows, cols) {
            let at = row % rows.div_ceil(4) * cols + col;
            let expected = format!("packed codes 0, 1 and 2 (byte offset {at})");
            let found = format!("code 3 in byte {:#04x}, row {row}, column {col}", tensor.bytes[at]);
            return Err(self.refuse(LoadErrorKind::Values, &matrix.name, expected, found));
        }
        self.ternary(matrix, tensor.bytes.clone(), scale_name, "packed, left in place")
    }

    fn bytes(&mut self, matrix: &Matrix<'_>, scale_name: &str) -> Result<WeightStorage, LoadError> {
        let Matrix { tensor, rows, cols, .. } = *matrix;
        self.check_shape(&matrix.name, tensor, &[rows, cols])?;
        let pack = |packed: &mut [u8]| ternary::pack_bytes_into(&tensor.bytes, rows, cols, packed);
        let (packed, ()) = self.codes(matrix, pack)?;
        self.release(tensor);
        self.ternary(matrix, packed.into(), scale_name, "ternary bytes, packed at load")
    }

    fn unit_floats(&mut self, matrix: &Matrix<'_>, scale_name: &str) -> Result<WeightStorage, LoadError> {
        let floats = self.float_matrix(matrix)?;
        let (packed, ()) = self.codes(matrix, |packed| ternary::pack_floats_into(&floats, packed))?;
        self.release(matrix.tensor);
        self.ternary(matrix, packed.into(), scale_name, "ternary floats, packed at load")
    }

    fn ternary(
        &mut self,
        matrix: &Matrix<'_>,
        bytes: WeightBytes,
        scale_name: &str,
        rule: &'static str,
    ) -> Result<WeightStorage, LoadError> {
        self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, rule);
        if self.config.quantisation.as_ref().is_some_and(|q| q.keeps_float(matrix.module)) {
            self.note(
                "modules_to_not_convert names modules that are stored quantised: taken as stored".into(),
            );
        }
        let stored = self.scale(scale_name)?;
        let scale = self.detection.scale(self.config, stored);
        Ok(WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes, scale })
    }

    /// A float weight without a scale in a quantised family.
    fn master(&mut self, matrix: &Matrix<'_>, scale_name: &str) -> Result<WeightStorage, LoadError> {
        if self.detection.has_scales {
            // Others were quantised when they were saved: this one is damaged, not a master.
            let expected = format!("a scale for {} {:?}", matrix.tensor.dtype, matrix.tensor.shape);
            return Err(self.refuse(LoadErrorKind::MissingTensor, scale_name, expected, "no such tensor"));
        }
        let mode = self.config.quantisation.as_ref().and_then(|q| q.mode);
        let floats = self.float_matrix(matrix)?;
        // Saved as quantised, without scales: values of one magnitude are what was dequantised. Absmean
        // would shrink their scale by the share of zeros.
        if mode == Some(QuantisationMode::Offline)
            && let Some(found) = self.uniform_codes(matrix, &floats)?
        {
            self.note("weights are ternary floats without scales: their magnitude is the scale".into());
            return Ok(self.of_magnitude(matrix, found));
        }
        let (packed, (_, scale)) = self.codes(matrix, |packed| absmean::quantize_into(&floats, packed))?;
        self.release(matrix.tensor);
        self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, "quantised by absmean");
        Ok(WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes: packed.into(), scale })
    }

    /// A float weight of a plain llama: its values tell what it is.
    fn inspected(&mut self, matrix: &Matrix<'_>) -> Result<WeightStorage, LoadError> {
        debug_assert!(matches!(self.detection.family, Family::LlamaDense | Family::TriLm));
        let floats = self.float_matrix(matrix)?;
        match self.uniform_codes(matrix, &floats)? {
            Some(found) => {
                self.note(
                    "float weights of one magnitude are taken as ternary, with float activations".into(),
                );
                Ok(self.of_magnitude(matrix, found))
            }
            None => self.dense(matrix, "kept as stored: not ternary"),
        }
    }

    fn of_magnitude(
        &mut self,
        matrix: &Matrix<'_>,
        (packed, magnitude): (PoolBuffer<u8>, f32),
    ) -> WeightStorage {
        self.release(matrix.tensor);
        self.record(&matrix.name, matrix.tensor, StoredAs::Ternary, "ternary floats of one magnitude");
        let scale = WeightScale::Multiply(magnitude);
        WeightStorage::Ternary { wire: TernaryWire::RowQuarters, bytes: packed.into(), scale }
    }

    /// Has the codes of a matrix in row quarters written to memory of the pool; returns them and what `fill` returned.
    pub(super) fn codes<T, E: Display>(
        &self,
        matrix: &Matrix<'_>,
        fill: impl FnOnce(&mut [u8]) -> Result<T, E>,
    ) -> Result<(PoolBuffer<u8>, T), LoadError> {
        let mut packed = self.room(&matrix.name, matrix.rows.div_ceil(4), matrix.cols)?;
        let made = fill(&mut packed).map_err(|error| self.invalid(&matrix.name, error))?;
        Ok((packed, made))
    }

    /// Returns the codes and the magnitude of floats that are ternary; `None` of others.
    pub(super) fn uniform_codes(
        &self,
        matrix: &Matrix<'_>,
        floats: &FloatMatrix<'_>,
    ) -> Result<Option<(PoolBuffer<u8>, f32)>, LoadError> {
        let Some(magnitude) = ternary::find_magnitude(floats) else { return Ok(None) };
        let pack = |packed: &mut [u8]| {
            ternary::pack_signs_into(floats, packed);
            Ok::<_, Infallible>(magnitude)
        };
        self.codes(matrix, pack).map(Some)
    }

    fn dense(&mut self, matrix: &Matrix<'_>, rule: &'static str) -> Result<WeightStorage, LoadError> {
        let dtype = self.float_dtype(&matrix.name, matrix.tensor)?;
        self.check_finite(&matrix.name, matrix.tensor, dtype, matrix.cols)?;
        self.record(&matrix.name, matrix.tensor, StoredAs::Dense(dtype), rule);
        Ok(WeightStorage::Dense { dtype, bytes: matrix.tensor.bytes.clone() })
    }

    fn float_matrix<'m>(&self, matrix: &Matrix<'m>) -> Result<FloatMatrix<'m>, LoadError> {
        let dtype = self.float_dtype(&matrix.name, matrix.tensor)?;
        FloatMatrix::new(dtype, &matrix.tensor.bytes, matrix.rows, matrix.cols)
            .map_err(|error| self.quant_error(matrix, error))
    }

    fn quant_error(&self, matrix: &Matrix<'_>, error: QuantError) -> LoadError {
        self.invalid(&matrix.name, error)
    }
}
