//! Softmax and its logarithm along a dimension.

use bitnet_backend::{BitNetDType, Result};

use super::broadcast::float_type;
use super::cast::Cast;
use super::math::Real;
use super::output::{build, pool_of};
use super::parallel;
use super::reduce::Reduction;
use super::reductions::{FloatSum, Fold};
use super::source::{Source, Tile, unpacked};
use super::unary::for_real;
use super::walk::Walk;
use crate::memory::Element;
use crate::memory::tensor::BitNetTensor;

/// Elements from which on threads share the work.
const PARALLEL: usize = 1 << 16;

impl BitNetTensor {
    /// Returns `e^x` divided by its sum along a dimension, without overflow on the way; integers are computed as f32.
    ///
    /// # Errors
    /// `Mismatch` for a dimension that the tensor lacks; `Unsupported` when the memory belongs to no pool; otherwise
    /// as an allocation.
    pub fn softmax(&self, dim: isize) -> Result<Self> {
        self.normalised("softmax", dim, false)
    }

    /// Returns the logarithm of [`softmax`](Self::softmax), more exactly than by taking it afterwards.
    ///
    /// # Errors
    /// As `softmax`.
    pub fn log_softmax(&self, dim: isize) -> Result<Self> {
        self.normalised("log_softmax", dim, true)
    }

    fn normalised(&self, name: &str, dim: isize, log: bool) -> Result<Self> {
        let dim = self.layout().dim(name, dim)? as isize;
        let pool = pool_of(name, &[self])?;
        let last = self.shape().len() as isize - 1;
        if dim != last {
            return unpacked(self, name, pool)?
                .transpose(dim, last)?
                .normalised(name, last, log)?
                .transpose(dim, last)?
                .contiguous();
        }
        let dtype = float_type(self.dtype());
        for_real!(dtype, R, S => rows::<R, S>(name, self, dtype, log))
    }
}

/// Normalises the rows of the last dimension.
fn rows<R: Real, S: Element + Cast<R>>(
    name: &str,
    tensor: &BitNetTensor,
    dtype: BitNetDType,
    log: bool,
) -> Result<BitNetTensor>
where
    f64: Cast<R>,
{
    let pool = pool_of(name, &[tensor])?;
    let tensor = unpacked(tensor, name, pool)?;
    let (shape, layout) = (tensor.shape(), tensor.layout());
    let outer = shape.len() - 1;
    let cols = shape[outer];
    let starts = Walk::new(&shape[..outer], [&layout.strides()[..outer]], [layout.offset()]);
    let source = Source::of(&tensor);
    let one = |index: usize, scratch: &mut Vec<R>, out: &mut [S]| {
        let start = starts.position(index);
        scratch.resize(cols, R::of(0.0));
        let tile = Tile { start, rows: 1, cols, row_stride: 0, col_stride: layout.strides()[outer] };
        source.gather(tile, scratch);
        normalise(scratch, log);
        out.iter_mut().zip(&*scratch).for_each(|(out, &value)| *out = S::cast(value));
    };
    build(shape, dtype, pool, name, |out: &mut [S]| {
        if out.is_empty() {
            return Ok(());
        }
        let share = out.len() >= PARALLEL;
        let each = (out.len() / cols).div_ceil(if share { 4 * parallel::threads() } else { 1 });
        parallel::pieces(out, each * cols, &|piece, out| {
            let mut scratch = Vec::new();
            for (index, out) in out.chunks_mut(cols).enumerate() {
                one(piece * each + index, &mut scratch, out);
            }
        });
        Ok(())
    })
}

fn normalise<R: Real>(row: &mut [R], log: bool)
where
    f64: Cast<R>,
{
    let greatest = Reduction::<R>::run(&Fold { start: R::LOWEST, fold: R::greater }, R::LOWEST, row, 0);
    if log {
        let sum = FloatSum(|value: R| value.minus(greatest).exp()).run(0.0, row, 0);
        let shift = R::of(libm::log(sum));
        row.iter_mut().for_each(|value| *value = value.minus(greatest).minus(shift));
        return;
    }
    row.iter_mut().for_each(|value| *value = value.minus(greatest).exp());
    let scale = R::of(1.0 / FloatSum(|value: R| value).run(0.0, row, 0));
    row.iter_mut().for_each(|value| *value = value.times(scale));
}
