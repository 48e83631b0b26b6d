//! The elements of types whose bytes are not all of use: codes of packed types, and truth values.
//!
//! A packed type puts several elements into a byte. Element `i` of those `n` is digit `i % n` of byte `i / n`, the first
//! one the lowest: two's complement in base 16 for `i4`, the value + 1 in base 4 for `bitnet158` and in base 3 for
//! `ternary-base3` ([`base3`]). The code 3 of `bitnet158`, bytes above 242 of base 3, and bytes of `bool` above 1 stand
//! for nothing.

use std::ops::Range;

use bitnet_backend::{BitNetDType, BitNetError, Result};
use bitnet_kernels::Kernels;

use super::base3;

/// How a packed type writes an element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digits {
    dtype: BitNetDType,
    per_byte: usize,
    radix: u8,
    /// The digit of 0.
    zero: i8,
}

impl Digits {
    /// Returns the digits of a packed type; `None` for others.
    pub fn of(dtype: BitNetDType) -> Option<Self> {
        let (radix, zero) = match dtype {
            BitNetDType::I4 => (16, 0),
            BitNetDType::BitNet158 => (4, 1),
            BitNetDType::TernaryBase3 => (3, 1),
            _ => return None,
        };
        Some(Digits { dtype, per_byte: dtype.block().0, radix, zero })
    }

    /// Returns the byte whose elements are `value`, one that the type has.
    pub fn filled(self, value: i8) -> u8 {
        let digit = value.wrapping_add(self.zero) as u8 % 16;
        (0..self.per_byte).fold(0, |byte, place| byte + digit * self.place(place))
    }

    /// Keeps the first `used` elements of a byte, some but not all, and makes the others zeros.
    pub fn cut(self, byte: u8, used: usize) -> u8 {
        let (place, zeros) = (self.place(used), self.filled(0));
        byte % place + (zeros - zeros % place)
    }

    /// Returns element `index` of packed bytes; `None` where they hold no code of the type.
    pub fn value(self, bytes: &[u8], index: usize) -> Option<i8> {
        let byte = bytes[index / self.per_byte];
        let digit = byte / self.place(index % self.per_byte) % self.radix;
        match self.dtype {
            // The nibble is moved up and back, so that its sign is copied.
            BitNetDType::I4 => Some((digit << 4) as i8 >> 4),
            BitNetDType::BitNet158 if digit == 3 => None,
            BitNetDType::TernaryBase3 if byte > base3::GREATEST => None,
            _ => Some(digit as i8 - 1),
        }
    }

    fn place(self, place: usize) -> u8 {
        self.radix.pow(place as u32)
    }
}

/// Returns the least and the greatest code of a type whose elements are small signed integers.
pub(crate) fn codes_of(dtype: BitNetDType) -> Option<(i8, i8)> {
    match dtype {
        BitNetDType::I8 => Some((-128, 127)),
        BitNetDType::I4 => Some((-8, 7)),
        BitNetDType::BitNet158 | BitNetDType::TernaryBase3 => Some((-1, 1)),
        _ => None,
    }
}

/// Refuses bytes that stand for no elements of the type. `first` bytes of the tensor come before them.
///
/// # Errors
/// `Mismatch` with the first such byte.
pub(crate) fn check(dtype: BitNetDType, bytes: &[u8], first: usize) -> Result<()> {
    let (found, expected) = match dtype {
        BitNetDType::Bool => (find(bytes, |byte| byte > 1), "0 or 1"),
        // Both bits of a code set.
        BitNetDType::BitNet158 => {
            (find(bytes, |byte| byte & byte >> 1 & 0x55 != 0), "0, 1 and 2 in two bits each")
        }
        BitNetDType::TernaryBase3 => (find(bytes, |byte| byte > base3::GREATEST), "five base-3 digits"),
        _ => return Ok(()),
    };
    match found {
        Some(at) => {
            let what = format!("byte {} of {dtype} elements", first + at);
            Err(BitNetError::mismatch(what, expected, bytes[at]))
        }
        None => Ok(()),
    }
}

fn find(bytes: &[u8], odd: impl Fn(u8) -> bool) -> Option<usize> {
    // Whole chunks without an early exit vectorise; the place is looked for only where there is one.
    const CHUNK: usize = 1 << 12;
    let chunk =
        bytes.chunks(CHUNK).position(|chunk| chunk.iter().fold(false, |seen, &byte| seen | odd(byte)))?;
    bytes[chunk * CHUNK..].iter().position(|&byte| odd(byte)).map(|at| chunk * CHUNK + at)
}

/// Unpacks codes.
///
/// # Errors
/// As [`check`].
pub(crate) fn load_codes(kernels: &Kernels, dtype: BitNetDType, bytes: &[u8], out: &mut [i8]) -> Result<()> {
    match dtype {
        BitNetDType::I4 => (kernels.casts.unpack_i4)(bytes, out),
        BitNetDType::BitNet158 => {
            check(dtype, bytes, 0)?;
            (kernels.casts.unpack_ternary)(bytes, out);
        }
        BitNetDType::TernaryBase3 => base3::unpack(bytes, out)?,
        _ => out.copy_from_slice(bytemuck::cast_slice(bytes)),
    }
    Ok(())
}

/// Packs codes that the type has.
pub(crate) fn store_codes(kernels: &Kernels, dtype: BitNetDType, codes: &[i8], out: &mut [u8]) -> Result<()> {
    match dtype {
        BitNetDType::I4 => (kernels.casts.pack_i4)(codes, out),
        BitNetDType::BitNet158 => (kernels.casts.pack_ternary)(codes, out),
        BitNetDType::TernaryBase3 => base3::pack(codes, out)?,
        _ => out.copy_from_slice(bytemuck::cast_slice(codes)),
    }
    Ok(())
}

/// Unpacks some elements, which may begin and end inside a byte; `room` takes those of all their bytes.
///
/// # Errors
/// As [`check`].
pub(crate) fn load_some<'r>(
    kernels: &Kernels,
    dtype: BitNetDType,
    bytes: &[u8],
    elements: Range<usize>,
    room: &'r mut Vec<i8>,
) -> Result<&'r [i8]> {
    let per_byte = dtype.block().0;
    let (first, end) = (elements.start / per_byte, elements.end.div_ceil(per_byte));
    room.resize((end - first) * per_byte, 0);
    load_codes(kernels, dtype, &bytes[first..end], room)?;
    Ok(&room[elements.start - first * per_byte..][..elements.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED: [BitNetDType; 3] = [BitNetDType::I4, BitNetDType::BitNet158, BitNetDType::TernaryBase3];

    #[test]
    fn single_elements_and_runs_are_what_was_packed() {
        let kernels = crate::cpu::select_kernels().unwrap();
        for dtype in PACKED {
            let (least, greatest) = codes_of(dtype).unwrap();
            let span = i32::from(greatest) - i32::from(least) + 1;
            let values: Vec<i8> = (0..60).map(|i| (i * i % span) as i8 + least).collect();
            let mut bytes = vec![0; dtype.size_bytes(values.len()).unwrap()];
            store_codes(kernels, dtype, &values, &mut bytes).unwrap();
            check(dtype, &bytes, 0).unwrap();
            let digits = Digits::of(dtype).unwrap();
            for (index, &value) in values.iter().enumerate() {
                assert_eq!(digits.value(&bytes, index), Some(value), "{dtype} {index}");
            }
            let mut room = Vec::new();
            for range in [0..60, 7..8, 3..41, 11..60, 20..20] {
                let found = load_some(kernels, dtype, &bytes, range.clone(), &mut room).unwrap();
                assert_eq!(found, &values[range], "{dtype}");
            }
        }
    }

    #[test]
    fn bytes_are_filled_and_cut_in_place() {
        for dtype in PACKED {
            let digits = Digits::of(dtype).unwrap();
            let ones = [digits.filled(1)];
            for used in 1..dtype.block().0 {
                let cut = [digits.cut(ones[0], used)];
                for index in 0..dtype.block().0 {
                    assert_eq!(digits.value(&ones, index), Some(1));
                    assert_eq!(digits.value(&cut, index), Some(i8::from(index < used)));
                }
            }
        }
        assert!(Digits::of(BitNetDType::I8).is_none());
    }

    #[test]
    fn bytes_that_stand_for_nothing_are_found() {
        let mut bytes = vec![0; 10_000];
        for (dtype, odd) in
            [(BitNetDType::Bool, 2), (BitNetDType::BitNet158, 0b1100), (BitNetDType::TernaryBase3, 243)]
        {
            check(dtype, &bytes, 0).unwrap();
            bytes[9_998] = odd;
            let error = check(dtype, &bytes, 0).unwrap_err().to_string();
            assert!(error.starts_with(&format!("byte 9998 of {dtype} elements: expected ")), "{error}");
            if let Some(digits) = Digits::of(dtype) {
                assert_eq!(digits.value(&bytes, 9_998 * dtype.block().0 + 1), None);
            }
            bytes[9_998] = 0;
        }
        check(BitNetDType::U8, &[255], 0).unwrap();
    }
}
