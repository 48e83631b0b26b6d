//! Tensors for people: `Display` shows the elements as NumPy does, `Debug` what the tensor is and its first ones.

use std::fmt;

use half::{bf16, f16};

use super::packed::Digits;
use super::{BitNetDType, BitNetTensor, Layout};

/// Elements up to which all are shown.
const ALL: usize = 1000;
/// Elements shown at each end of a longer dimension.
const ENDS: usize = 3;
/// Elements that `Debug` shows.
const FIRST: usize = 8;

/// Returns the text of the element at a position of the memory.
fn element(tensor: &BitNetTensor, at: usize, precision: Option<usize>) -> String {
    let bytes = tensor.memory().bytes();
    macro_rules! of {
        ($type:ty) => {
            bytemuck::pod_read_unaligned::<$type>(&bytes[at * size_of::<$type>()..][..size_of::<$type>()])
        };
    }
    let float = |value: f64, shortest: String| match precision {
        Some(digits) => format!("{value:.digits$}"),
        None => shortest,
    };
    match tensor.dtype() {
        BitNetDType::F64 => float(of!(f64), format!("{:?}", of!(f64))),
        BitNetDType::F32 => float(f64::from(of!(f32)), format!("{:?}", of!(f32))),
        BitNetDType::F16 => float(of!(f16).to_f64(), format!("{:?}", of!(f16).to_f32())),
        BitNetDType::BF16 => float(of!(bf16).to_f64(), format!("{:?}", of!(bf16).to_f32())),
        BitNetDType::I64 => of!(i64).to_string(),
        BitNetDType::I32 => of!(i32).to_string(),
        BitNetDType::I16 => of!(i16).to_string(),
        BitNetDType::I8 => of!(i8).to_string(),
        BitNetDType::U64 => of!(u64).to_string(),
        BitNetDType::U32 => of!(u32).to_string(),
        BitNetDType::U16 => of!(u16).to_string(),
        BitNetDType::U8 => of!(u8).to_string(),
        BitNetDType::Bool => (bytes[at] != 0).to_string(),
        packed => match Digits::of(packed).and_then(|digits| digits.value(bytes, at)) {
            Some(value) => value.to_string(),
            None => "invalid".to_owned(),
        },
    }
}

/// Returns what numbers are multiplied by, where that is stated.
fn scale(tensor: &BitNetTensor, before: &str) -> String {
    tensor.scale().map_or_else(String::new, |scale| format!("{before}scale {scale:?}"))
}

/// Returns the indices of a dimension that are shown; `None` stands for those left out.
fn shown(length: usize, all: bool) -> impl Iterator<Item = Option<usize>> {
    let cut = !all && length > 2 * ENDS;
    let (first, last) = if cut { (ENDS, length - ENDS) } else { (length, length) };
    (0..first).map(Some).chain(cut.then_some(None)).chain((last..length).map(Some))
}

/// Calls `visit` for the position of each element that is shown.
fn positions(layout: &Layout, all: bool, dim: usize, at: usize, visit: &mut dyn FnMut(usize)) {
    if dim == layout.rank() {
        return visit(at);
    }
    for index in shown(layout.shape()[dim], all).flatten() {
        let next = at.wrapping_add_signed(layout.strides()[dim] * index as isize);
        positions(layout, all, dim + 1, next, visit);
    }
}

struct Printer<'a> {
    tensor: &'a BitNetTensor,
    all: bool,
    precision: Option<usize>,
    width: usize,
}

impl Printer<'_> {
    fn print(&self, f: &mut fmt::Formatter<'_>, dim: usize, at: usize) -> fmt::Result {
        let layout = self.tensor.layout();
        if dim == layout.rank() {
            return write!(f, "{:>width$}", element(self.tensor, at, self.precision), width = self.width);
        }
        let inner = layout.rank() - dim - 1;
        f.write_str("[")?;
        for (place, index) in shown(layout.shape()[dim], self.all).enumerate() {
            match (place, inner) {
                (0, _) => {}
                (_, 0) => f.write_str(", ")?,
                _ => write!(f, ",{}{:indent$}", "\n".repeat(inner), "", indent = dim + 1)?,
            }
            match index {
                Some(index) => {
                    self.print(f, dim + 1, at.wrapping_add_signed(layout.strides()[dim] * index as isize))?;
                }
                None => f.write_str("...")?,
            }
        }
        f.write_str("]")
    }
}

/// Shows the stored numbers in nested brackets, then type, shape and the scale that they are multiplied by; of more than
/// 1000 elements the first and last three of each dimension. A precision (`{:.3}`) applies to floats.
impl fmt::Display for BitNetTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (layout, precision) = (self.layout(), f.precision());
        if self.element_count() == 0 {
            return write!(f, "[] {} {:?}{}", self.dtype(), self.shape(), scale(self, " "));
        }
        let all = self.element_count() <= ALL;
        let mut width = 0;
        positions(layout, all, 0, layout.offset(), &mut |at| {
            width = width.max(element(self, at, precision).len());
        });
        Printer { tensor: self, all, precision, width }.print(f, 0, layout.offset())?;
        write!(f, " {} {:?}{}", self.dtype(), self.shape(), scale(self, " "))
    }
}

/// Shows type, shape, memory, strides where they are not row-major, the scale, and the first stored numbers.
impl fmt::Debug for BitNetTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = self.layout();
        write!(f, "BitNetTensor({} {:?} on {}", self.dtype(), self.shape(), self.device())?;
        if !layout.is_contiguous() || layout.offset() > 0 {
            write!(f, ", strides {:?} from {}", layout.strides(), layout.offset())?;
        }
        write!(f, "{}, {}: [", scale(self, ", "), self.memory().kind())?;
        for index in 0..self.element_count().min(FIRST) {
            let (mut rest, mut at) = (index, layout.offset());
            for (&length, &stride) in layout.shape().iter().zip(layout.strides()).rev() {
                at = at.wrapping_add_signed(stride * (rest % length) as isize);
                rest /= length;
            }
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, element(self, at, f.precision()))?;
        }
        f.write_str(if self.element_count() > FIRST { ", ...])" } else { "])" })
    }
}

#[cfg(test)]
mod tests {
    use bitnet_backend::Device;

    use super::*;
    use crate::memory::HybridMemoryPool;

    #[test]
    fn people_can_read_tensors() {
        let pool = HybridMemoryPool::new().unwrap();
        let values = [1.0f32, -2.5, 3.25, 100.0, f32::NAN, 0.1];
        let tensor = BitNetTensor::from_slice(&values, &[2, 3], &Device::Cpu, &pool).unwrap();
        assert_eq!(tensor.to_string(), "[[  1.0,  -2.5,  3.25],\n [100.0,   NaN,   0.1]] f32 [2, 3]");
        let turned = tensor.transpose(0, 1).unwrap();
        assert_eq!(format!("{turned:.1}"), "[[  1.0, 100.0],\n [ -2.5,   NaN],\n [  3.2,   0.1]] f32 [3, 2]");
        assert_eq!(
            format!("{turned:?}"),
            "BitNetTensor(f32 [3, 2] on cpu, strides [1, 3] from 0, pool: [1.0, 100.0, -2.5, NaN, 3.25, 0.1])"
        );
        let cube = tensor.reshape(&[1, 2, 3]).unwrap().slice(2, None, None, 2).unwrap();
        assert_eq!(cube.to_string(), "[[[  1.0,  3.25],\n  [100.0,   0.1]]] f32 [1, 2, 2]");
        let codes = BitNetTensor::from_slice(&[1i8, -2], &[2], &Device::Cpu, &pool).unwrap();
        let metadata = codes.metadata().clone().with_scale(Some(0.25)).unwrap();
        let scaled = BitNetTensor::from_memory(metadata, codes.memory().clone()).unwrap();
        assert_eq!(scaled.to_string(), "[ 1, -2] i8 [2] scale 0.25");
        assert_eq!(format!("{scaled:?}"), "BitNetTensor(i8 [2] on cpu, scale 0.25, pool: [1, -2])");
        assert_eq!(scaled.narrow(0, 0, 0).unwrap().to_string(), "[] i8 [0] scale 0.25");
        let empty = BitNetTensor::zeros(&[2, 0], BitNetDType::I8, &Device::Cpu, &pool).unwrap();
        assert_eq!(empty.to_string(), "[] i8 [2, 0]");
        let ternary = BitNetTensor::ones(&[5], BitNetDType::BitNet158, &Device::Cpu, &pool).unwrap();
        assert_eq!(ternary.to_string(), "[1, 1, 1, 1, 1] bitnet158 [5]");
    }

    #[test]
    fn long_tensors_are_shown_by_their_ends() {
        let pool = HybridMemoryPool::new().unwrap();
        let long = BitNetTensor::arange(0.0, 2000.0, 1.0, BitNetDType::I32, &Device::Cpu, &pool).unwrap();
        assert_eq!(long.to_string(), "[   0,    1,    2, ..., 1997, 1998, 1999] i32 [2000]");
        let debug = format!("{long:?}");
        assert!(debug.ends_with("[0, 1, 2, 3, 4, 5, 6, 7, ...])"), "{debug}");
        let matrix = long.reshape(&[2, 1000]).unwrap().to_string();
        assert!(matrix.starts_with("[[   0,    1,    2, ...,  997,  998,  999],\n [1000,"), "{matrix}");
    }
}
