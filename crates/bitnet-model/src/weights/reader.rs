//! Takes tensors out of a checkpoint, each checked and each once.

use std::collections::BTreeSet;
use std::fmt;

use bitnet_core::backend::{BitNetDType, Device, LinearWeights, WeightStorage};
use bitnet_core::memory::PoolBuffer;
use bitnet_core::memory::conversion::{ConversionEngine, machine_order};
use bitnet_quant::ggml::{GgmlType, I2sLayout};

use crate::checkpoint::{Checkpoint, StoredDType, Tensor};
use crate::config::ModelConfig;
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::family::Detection;
use crate::names::Naming;
use crate::trace;

use super::model::{NormWeights, StoredAs, TensorInfo};
use super::rows::{Blocks, RowOrder};
use super::{LoadOptions, LoadProgress, scan};

/// Endings of tensors that older exporters stored and that follow from the configuration.
const HARMLESS: [&str; 3] = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"];

/// Reads the tensors of one checkpoint.
pub(super) struct Reader<'a, 'o> {
    pub(super) config: &'a ModelConfig,
    pub(super) detection: &'a Detection,
    checkpoint: &'a Checkpoint,
    pub(super) engine: &'a ConversionEngine,
    options: &'a mut LoadOptions<'o>,
    taken: BTreeSet<String>,
    /// Tensors read since the last call of [`release_read`](Self::release_read).
    fresh: Vec<String>,
    tensors: Vec<TensorInfo>,
    notes: Vec<String>,
    progress: LoadProgress,
}

impl<'a, 'o> Reader<'a, 'o> {
    pub(super) fn new(
        config: &'a ModelConfig,
        checkpoint: &'a Checkpoint,
        detection: &'a Detection,
        engine: &'a ConversionEngine,
        options: &'a mut LoadOptions<'o>,
    ) -> Self {
        let progress = LoadProgress {
            tensors_done: 0,
            tensors_total: checkpoint.tensors().count(),
            bytes_done: 0,
            bytes_total: checkpoint.tensors().map(|(_, tensor)| tensor.bytes.len() as u64).sum(),
        };
        let (taken, fresh, tensors, notes) = (BTreeSet::new(), Vec::new(), Vec::new(), Vec::new());
        Reader { config, detection, checkpoint, engine, options, taken, fresh, tensors, notes, progress }
    }

    /// Returns what tensors are called.
    pub(super) fn naming(&self) -> Naming {
        self.checkpoint.naming()
    }

    /// Returns the order of elements in I2_S tensors.
    pub(super) fn i2s_layout(&self) -> I2sLayout {
        self.options.i2s_layout
    }

    /// Reports whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.checkpoint.get(name).is_some()
    }

    /// Records something that the files leave open, once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Makes an error about a tensor.
    pub(super) fn refuse(
        &self,
        kind: LoadErrorKind,
        name: &str,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> LoadError {
        let path = self.checkpoint.get(name).map_or(self.checkpoint.path(), |t| self.checkpoint.file_of(t));
        LoadError::mismatch(kind, path, Item::Tensor(name.to_owned()), expected, found)
    }

    /// Makes an error about the values of a tensor whose message says already what was expected.
    pub(super) fn invalid(&self, name: &str, message: impl fmt::Display) -> LoadError {
        let path = self.checkpoint.get(name).map_or(self.checkpoint.path(), |t| self.checkpoint.file_of(t));
        LoadError::new(LoadErrorKind::Values, path, Item::Tensor(name.to_owned()), message)
    }

    /// Takes memory of the pool for what becomes of a tensor, `rows` lines of `width` bytes; what it holds is about to be
    /// written.
    pub(super) fn room(&self, name: &str, rows: usize, width: usize) -> Result<PoolBuffer<u8>, LoadError> {
        let bytes = rows.saturating_mul(width);
        let room = PoolBuffer::for_overwrite(self.engine.pool(), bytes, &Device::Cpu, "weights");
        room.map_err(|error| {
            let path =
                self.checkpoint.get(name).map_or(self.checkpoint.path(), |t| self.checkpoint.file_of(t));
            LoadError::backend(path, Item::Tensor(name.to_owned()), error)
        })
    }

    /// Finds a tensor that has to be there.
    pub(super) fn find(&self, name: &str, expected: impl fmt::Display) -> Result<&'a Tensor, LoadError> {
        let missing = || self.refuse(LoadErrorKind::MissingTensor, name, expected, "no such tensor");
        self.checkpoint.get(name).ok_or_else(missing)
    }

    /// Checks a shape.
    pub(super) fn check_shape(&self, name: &str, tensor: &Tensor, shape: &[usize]) -> Result<(), LoadError> {
        if tensor.shape == shape {
            return Ok(());
        }
        let (expected, found) = (format!("shape {shape:?}"), format!("{:?}", tensor.shape));
        Err(self.refuse(LoadErrorKind::Shape, name, expected, found))
    }

    /// Returns the float type of a tensor, refusing every other type.
    pub(super) fn float_dtype(&self, name: &str, tensor: &Tensor) -> Result<BitNetDType, LoadError> {
        match tensor.dtype {
            StoredDType::Known(dtype @ (BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16)) => {
                Ok(dtype)
            }
            ref other => Err(self.refuse(LoadErrorKind::DType, name, "f32, f16 or bf16", other)),
        }
    }

    /// Checks that a float matrix of `cols` columns holds neither NaN nor infinity.
    pub(super) fn check_finite(
        &self,
        name: &str,
        tensor: &Tensor,
        dtype: BitNetDType,
        cols: usize,
    ) -> Result<(), LoadError> {
        self.check_finite_bytes(name, &tensor.bytes, dtype, cols)
    }

    /// Checks the elements of a float matrix that may have been decoded or put in another order.
    pub(super) fn check_finite_bytes(
        &self,
        name: &str,
        bytes: &[u8],
        dtype: BitNetDType,
        cols: usize,
    ) -> Result<(), LoadError> {
        let Some(at) = scan::find_non_finite(dtype, bytes) else { return Ok(()) };
        let element = dtype.size_bytes(at).zip(dtype.element_bytes());
        let found = self.widen(dtype, element.map_or(&[], |(start, size)| &bytes[start..start + size]))?;
        let found = found.first().copied().unwrap_or(f32::NAN);
        let (row, col) = (at / cols.max(1), at % cols.max(1));
        let message = format_args!("element [{row}, {col}]: expected a finite number, found {found}");
        Err(self.invalid(name, message))
    }

    /// Records what became of a tensor, and that it was read.
    pub(super) fn record(&mut self, name: &str, tensor: &Tensor, stored_as: StoredAs, rule: &'static str) {
        trace::debug!("{name}: {} {:?} as {stored_as}, {rule}", tensor.dtype, tensor.shape);
        self.taken.insert(name.to_owned());
        self.fresh.push(name.to_owned());
        self.tensors.push(TensorInfo {
            name: name.to_owned(),
            dtype: tensor.dtype.to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes.len() as u64,
            stored_as,
            rule,
        });
        self.progress.tensors_done += 1;
        self.progress.bytes_done += tensor.bytes.len() as u64;
        if let Some(progress) = &mut self.options.progress {
            progress(self.progress);
        }
    }

    /// Lets the system take back the memory behind a tensor that is not needed any more.
    pub(super) fn release(&self, tensor: &Tensor) {
        self.checkpoint.release(tensor);
    }

    /// Lets the system take back the memory behind everything read since the last call: for a caller that has
    /// passed it on and will not look at it again.
    pub(super) fn release_read(&mut self) {
        for name in std::mem::take(&mut self.fresh) {
            if let Some(tensor) = self.checkpoint.get(&name) {
                self.checkpoint.release(tensor);
            }
        }
    }

    /// Records a tensor that is there and not used.
    pub(super) fn ignore(&mut self, name: &str, rule: &'static str) {
        if let Some(tensor) = self.checkpoint.get(name) {
            self.record(name, tensor, StoredAs::Unused, rule);
        }
    }

    /// Reads the embedding or the head: a matrix `[vocab, hidden]` of finite floats, left in the file, or decoded
    /// from blocks.
    pub(super) fn table(&mut self, name: &str) -> Result<LinearWeights, LoadError> {
        let (rows, cols) = (self.config.vocab, self.config.hidden);
        let tensor = self.find(name, format_args!("a float matrix [{rows}, {cols}]"))?;
        if let StoredDType::Ggml(ty) = tensor.dtype {
            return self.table_of_blocks(name, tensor, ty);
        }
        let dtype = self.float_dtype(name, tensor)?;
        self.check_shape(name, tensor, &[rows, cols])?;
        self.check_finite(name, tensor, dtype, cols)?;
        self.record(name, tensor, StoredAs::Dense(dtype), "kept as stored: embedding and head");
        let storage = WeightStorage::Dense { dtype, bytes: tensor.bytes.clone() };
        Ok(LinearWeights { name: name.to_owned(), rows, cols, storage, bias: None })
    }

    fn table_of_blocks(
        &mut self,
        name: &str,
        tensor: &Tensor,
        ty: GgmlType,
    ) -> Result<LinearWeights, LoadError> {
        let (rows, cols) = (self.config.vocab, self.config.hidden);
        self.check_shape(name, tensor, &[rows, cols])?;
        let (layout, order) = (self.i2s_layout(), RowOrder::AsStored);
        let blocks = Blocks { ty, layout, bytes: &tensor.bytes, rows, cols, order };
        let (dtype, bytes) = self.decoded(name, blocks, 1.0)?;
        self.release(tensor);
        self.record(name, tensor, StoredAs::Dense(dtype), "blocks, decoded at load: embedding and head");
        let storage = WeightStorage::Dense { dtype, bytes };
        Ok(LinearWeights { name: name.to_owned(), rows, cols, storage, bias: None })
    }

    /// Reads a norm's weight.
    pub(super) fn norm(&mut self, name: &str, width: usize, eps: f32) -> Result<NormWeights, LoadError> {
        let values = self.vector(name, width, "norm weight, widened to f32")?;
        Ok(NormWeights { name: name.to_owned(), values, eps })
    }

    /// Reads a vector of finite floats, widened to f32.
    pub(super) fn vector(
        &mut self,
        name: &str,
        width: usize,
        rule: &'static str,
    ) -> Result<Vec<f32>, LoadError> {
        let tensor = self.find(name, format_args!("a float vector [{width}]"))?;
        self.check_shape(name, tensor, &[width])?;
        let values = self.widen(self.float_dtype(name, tensor)?, &tensor.bytes)?;
        if let Some((index, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            let expected = format!("finite values (element {index})");
            return Err(self.refuse(LoadErrorKind::Values, name, expected, value));
        }
        self.record(name, tensor, StoredAs::Vector, rule);
        Ok(values)
    }

    /// Reads the one scale of a matrix.
    pub(super) fn scale(&mut self, name: &str) -> Result<f32, LoadError> {
        let tensor = self.find(name, "the scale of the quantised weight beside it")?;
        if tensor.shape.iter().any(|&size| size != 1) {
            let found = format!("{:?}", tensor.shape);
            return Err(self.refuse(LoadErrorKind::Shape, name, "shape [1]: one scale a tensor", found));
        }
        let values = self.widen(self.float_dtype(name, tensor)?, &tensor.bytes)?;
        let scale = values.first().copied().unwrap_or(f32::NAN);
        // The reciprocal takes part in the arithmetic too.
        if !(scale > 0.0 && scale.is_finite() && (1.0 / scale).is_finite()) {
            let expected = "a finite scale above zero with a finite reciprocal";
            return Err(self.refuse(LoadErrorKind::Values, name, expected, format_args!("{scale:e}")));
        }
        self.record(name, tensor, StoredAs::Scale, "scale of a ternary matrix");
        Ok(scale)
    }

    /// Refuses tensors that were not used, unless they are known to be harmless.
    pub(super) fn check_leftovers(&mut self) -> Result<(), LoadError> {
        let left: Vec<&str> = self
            .checkpoint
            .tensors()
            .map(|(name, _)| name)
            .filter(|name| !self.taken.contains(*name))
            .collect();
        for name in left {
            if HARMLESS.iter().any(|ending| name.ends_with(ending)) {
                self.ignore(name, "unused: follows from the configuration");
                continue;
            }
            let found =
                self.checkpoint.get(name).map(|t| format!("{} {:?}", t.dtype, t.shape)).unwrap_or_default();
            let family = self.detection.family;
            let expected = format!("no such tensor in a {family} model of {} layers", self.config.layers);
            return Err(self.refuse(LoadErrorKind::UnsupportedArchitecture, name, expected, found));
        }
        Ok(())
    }

    /// Widens little-endian floats to f32.
    pub(super) fn widen(&self, dtype: BitNetDType, bytes: &[u8]) -> Result<Vec<f32>, LoadError> {
        let mut values = vec![0f32; bytes.len() / dtype.element_bytes().unwrap_or(1)];
        self.widen_into(dtype, bytes, &mut values)?;
        Ok(values)
    }

    /// Widens as [`widen`](Self::widen) does, into as many values.
    pub(super) fn widen_into(
        &self,
        dtype: BitNetDType,
        bytes: &[u8],
        out: &mut [f32],
    ) -> Result<(), LoadError> {
        let (count, stored) = (out.len(), machine_order(dtype, bytes));
        self.engine.convert_elements(
            count,
            (dtype, &stored),
            (BitNetDType::F32, bytemuck::cast_slice_mut(out)),
        )?;
        Ok(())
    }

    /// Returns the report on all tensors, and the notes.
    pub(super) fn finish(self) -> (Vec<TensorInfo>, Vec<String>) {
        (self.tensors, self.notes)
    }
}
