//! Writing files and images.

use std::path::Path;

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::{header, order};
use crate::files::AtomicFile;
use crate::memory::tensor::{BitNetTensor, TensorMetadata};

/// Name, element type and shape of a tensor that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: BitNetDType,
    /// Length of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// What stored numbers are multiplied by to give values, where that is stated: a finite number above zero.
    pub scale: Option<f32>,
}

impl TensorSpec {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: BitNetDType, shape: &[usize]) -> Self {
        TensorSpec { name: name.into(), dtype, shape: shape.to_vec(), scale: None }
    }

    /// Returns the bytes of the elements.
    ///
    /// # Errors
    /// `TensorTooLarge`.
    pub fn bytes(&self) -> Result<usize> {
        self.describe().size_bytes()
    }

    /// Returns the scale, if it is one that can be read back.
    ///
    /// # Errors
    /// `Mismatch` for a scale that is not a finite number above zero.
    pub(super) fn checked_scale(&self) -> Result<Option<f32>> {
        Ok(self.describe().with_scale(self.scale)?.scale())
    }

    fn describe(&self) -> TensorMetadata {
        TensorMetadata::new(self.shape.clone(), self.dtype, Default::default())
    }
}

/// Writes a file piece by piece: first its header, then the bytes of the tensors in the order of their specs.
///
/// Dropped before [`commit`](Self::commit), it leaves nothing.
pub struct TensorWriter {
    file: AtomicFile,
    left: u64,
}

impl TensorWriter {
    /// Starts a file of these tensors, which lie in the given order; where it is one of falling alignment
    /// ([`BitNetDType::align`]), every one of them can be used in place.
    ///
    /// # Errors
    /// `TensorTooLarge`; `Mismatch` for a name that stands twice or a scale that is none; otherwise as
    /// [`AtomicFile::create`].
    pub fn create(target: &Path, tensors: &[TensorSpec]) -> Result<Self> {
        let named = |error: BitNetError| error.context(target.display().to_string());
        let (header, left) = header::encode(&tensors.iter().collect::<Vec<_>>()).map_err(named)?;
        let mut file = AtomicFile::create(target)?;
        file.write(&header)?;
        Ok(TensorWriter { file, left })
    }

    /// Appends bytes of tensors: row-major, little-endian.
    ///
    /// # Errors
    /// `Mismatch` for more bytes than the specs have; `Io` when the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => self.left = left,
            None => return Err(BitNetError::mismatch("bytes of tensors", self.left, bytes.len())),
        }
        self.file.write(bytes)
    }

    /// Gives the finished file its name.
    ///
    /// # Errors
    /// `Mismatch` when bytes are missing; `Io` when the system refuses.
    pub fn commit(self) -> Result<()> {
        if self.left > 0 {
            return Err(BitNetError::mismatch("bytes of tensors still to be written", 0, self.left));
        }
        self.file.commit()
    }
}

/// Writes tensors of any layout under their names; the file appears whole or not at all, and depends on names, shapes,
/// types and values alone.
///
/// # Errors
/// As [`TensorWriter`].
pub fn save(target: &Path, tensors: &[(&str, &BitNetTensor)]) -> Result<()> {
    let (order, specs) = plan(tensors);
    let mut file = TensorWriter::create(target, &specs)?;
    for index in order {
        order::in_file_order(tensors[index].1, &mut |bytes| file.write(bytes))?;
    }
    file.commit()
}

/// Returns what [`save`] would write.
///
/// # Errors
/// As [`TensorWriter::create`].
pub fn to_bytes(tensors: &[(&str, &BitNetTensor)]) -> Result<Vec<u8>> {
    let (order, specs) = plan(tensors);
    let (mut out, data) = header::encode(&specs.iter().collect::<Vec<_>>())?;
    out.reserve_exact(usize::try_from(data).unwrap_or(usize::MAX));
    for index in order {
        order::in_file_order(tensors[index].1, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
    }
    Ok(out)
}

/// Orders tensors by falling alignment, and by name.
fn plan(tensors: &[(&str, &BitNetTensor)]) -> (Vec<usize>, Vec<TensorSpec>) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(tensors[index].1.dtype().align()), tensors[index].0));
    let spec = |&index: &usize| {
        let (name, tensor) = tensors[index];
        TensorSpec { scale: tensor.scale(), ..TensorSpec::new(name, tensor.dtype(), tensor.shape()) }
    };
    let specs = order.iter().map(spec).collect();
    (order, specs)
}
