//! Byte order: files are little-endian, memory is in the order of the machine.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};

/// Bytes gathered at a time.
const PIECE: usize = 1 << 16;

/// Reverses the bytes of every element of `width` bytes.
pub(super) fn swap_elements(bytes: &mut [u8], width: usize) {
    if width > 1 {
        bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    }
}

/// Reports whether elements lie in memory as they do in a file.
pub(in crate::memory) fn is_native(dtype: BitNetDType) -> bool {
    cfg!(target_endian = "little") || dtype.element_bytes().unwrap_or(1) == 1
}

/// Turns elements of a file into those of the machine, or back.
pub(in crate::memory) fn exchange(dtype: BitNetDType, bytes: &mut [u8]) {
    if !is_native(dtype) {
        swap_elements(bytes, dtype.element_bytes().unwrap_or(1));
    }
}

/// Gives `sink` the elements of a tensor in the order and bytes of a file, piece by piece.
pub(super) fn in_file_order(tensor: &BitNetTensor, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let (metadata, bytes) = (tensor.metadata(), tensor.memory().bytes());
    if is_native(metadata.dtype()) {
        return in_row_order(metadata, bytes, sink);
    }
    let mut buffer = Vec::new();
    in_row_order(metadata, bytes, &mut |piece| {
        for piece in piece.chunks(PIECE) {
            buffer.clear();
            buffer.extend_from_slice(piece);
            exchange(metadata.dtype(), &mut buffer);
            sink(&buffer)?;
        }
        Ok(())
    })
}

/// Gives `sink` the elements of a tensor in `bytes` row-major, in the byte order of the machine, in pieces of whole
/// elements. A layout without gaps is one piece, where it lies.
///
/// # Errors
/// `Mismatch` for a packed tensor that is not contiguous; what `sink` returns.
pub(in crate::memory::tensor) fn in_row_order(
    metadata: &TensorMetadata,
    bytes: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let (dtype, layout) = (metadata.dtype(), metadata.layout());
    let size = metadata.size_bytes()?;
    if size == 0 {
        return Ok(());
    }
    if let Some(start) = dtype.byte_offset(layout.offset()).filter(|_| layout.is_contiguous()) {
        return sink(&bytes[start..start + size]);
    }
    let Some(width) = dtype.element_bytes() else {
        let found = format!("strides {:?}", layout.strides());
        return Err(BitNetError::mismatch("layout of a packed tensor", "contiguous", found));
    };
    let mut buffer = Vec::with_capacity(PIECE.min(size));
    for_each_run(layout, |start, elements| {
        let run = &bytes[start * width..(start + elements) * width];
        for piece in run.chunks(PIECE / width * width) {
            if buffer.len() + piece.len() > PIECE {
                sink(&buffer)?;
                buffer.clear();
            }
            buffer.extend_from_slice(piece);
        }
        Ok(())
    })?;
    sink(&buffer)
}

/// Gives `sink` the elements of a tensor in `bytes` as [`in_row_order`] does, but those that repeat along a dimension
/// once.
///
/// # Errors
/// As [`in_row_order`].
pub(in crate::memory::tensor) fn each_element_once(
    metadata: &TensorMetadata,
    bytes: &[u8],
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let layout = metadata.layout();
    let lengths = layout.shape().iter().zip(layout.strides());
    let shape = lengths.map(|(&length, &stride)| if stride == 0 { length.min(1) } else { length }).collect();
    let once = Layout::strided(shape, layout.strides().to_vec(), layout.offset());
    in_row_order(&metadata.relaid(once), bytes, sink)
}

/// Calls `run` with the position and the length of every run of neighbouring elements, row-major.
fn for_each_run(layout: &Layout, mut run: impl FnMut(usize, usize) -> Result<()>) -> Result<()> {
    let (shape, strides) = (layout.shape(), layout.strides());
    if shape.contains(&0) {
        return Ok(());
    }
    // Trailing dimensions without gaps are one run.
    let (mut outer, mut elements) = (shape.len(), 1usize);
    while outer > 0 && (shape[outer - 1] == 1 || strides[outer - 1] == elements as isize) {
        outer -= 1;
        elements *= shape[outer];
    }
    let mut index = vec![0usize; outer];
    let mut at = layout.offset();
    loop {
        run(at, elements)?;
        let mut dim = outer;
        loop {
            if dim == 0 {
                return Ok(());
            }
            dim -= 1;
            index[dim] += 1;
            at = at.wrapping_add_signed(strides[dim]);
            if index[dim] < shape[dim] {
                break;
            }
            // Of a dimension of length 1 the stride may be any number.
            at = at.wrapping_sub(strides[dim].wrapping_mul(shape[dim] as isize) as usize);
            index[dim] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_reverses_each_element_and_is_its_own_inverse() {
        let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        swap_elements(&mut bytes, 4);
        assert_eq!(bytes, [4, 3, 2, 1, 8, 7, 6, 5]);
        swap_elements(&mut bytes, 4);
        swap_elements(&mut bytes, 2);
        assert_eq!(bytes, [2, 1, 4, 3, 6, 5, 8, 7]);
        swap_elements(&mut bytes, 1);
        assert_eq!(bytes, [2, 1, 4, 3, 6, 5, 8, 7]);
        let mut number = 0x0102_0304_0506_0708u64.to_be_bytes();
        swap_elements(&mut number, 8);
        assert_eq!(u64::from_le_bytes(number), 0x0102_0304_0506_0708);
    }

    #[test]
    fn exchanged_elements_are_little_endian() {
        let mut bytes = 1.5f32.to_ne_bytes();
        exchange(BitNetDType::F32, &mut bytes);
        assert_eq!(bytes, 1.5f32.to_le_bytes());
    }

    #[test]
    fn runs_cover_a_layout_row_major() {
        let runs = |layout: Layout| {
            let mut out = Vec::new();
            for_each_run(&layout, |at, elements| {
                out.push((at, elements));
                Ok(())
            })
            .unwrap();
            out
        };
        assert_eq!(runs(Layout::row_major(vec![2, 3])), [(0, 6)]);
        assert_eq!(runs(Layout::row_major(vec![])), [(0, 1)]);
        assert_eq!(runs(Layout::row_major(vec![2, 0])), []);
        assert_eq!(runs(Layout::strided(vec![2, 3], vec![10, 1], 4)), [(4, 3), (14, 3)]);
        assert_eq!(runs(Layout::strided(vec![3], vec![-2], 5)), [(5, 1), (3, 1), (1, 1)]);
        assert_eq!(runs(Layout::strided(vec![2, 2], vec![0, 1], 0)), [(0, 2), (0, 2)]);
        assert_eq!(runs(Layout::strided(vec![2, 1, 2], vec![1, 9, 2], 0)), [(0, 1), (2, 1), (1, 1), (3, 1)]);
        for stride in [isize::MIN, isize::MAX] {
            assert_eq!(runs(Layout::strided(vec![1, 2], vec![stride, 2], 4)), [(4, 1), (6, 1)]);
        }
    }
}
