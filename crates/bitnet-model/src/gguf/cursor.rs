//! A place in the header of a file: reads little-endian values, and nothing past the end.

use std::fmt;
use std::path::Path;

use crate::error::{Item, LoadError, LoadErrorKind};

/// What is being read, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// The file as a whole.
    File,
    /// The value of a metadata key.
    Key(&'p str),
    /// The entry of a tensor.
    Tensor(&'p str),
}

impl Place<'_> {
    /// Returns the item that an error names.
    pub(super) fn item(self) -> Item {
        match self {
            Place::File => Item::File,
            Place::Key(name) => Item::Field(name.to_owned()),
            Place::Tensor(name) => Item::Tensor(name.to_owned()),
        }
    }
}

/// Reads the bytes of a file in order.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

macro_rules! number {
    ($($name:ident: $type:ty),+) => {$(
        #[doc = concat!("Reads a little-endian ", stringify!($type), ".")]
        pub(super) fn $name(&mut self, place: Place<'_>, what: &str) -> Result<$type, LoadError> {
            self.array(place, what).map(<$type>::from_le_bytes)
        }
    )+};
}

impl<'a> Cursor<'a> {
    /// Starts at offset `at` of `bytes`, which are those of the file `path`.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], at: usize) -> Self {
        Cursor { path, bytes, at: at.min(bytes.len()) }
    }

    /// Returns the offset of the next byte.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    /// Returns how many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Makes an error of the format.
    pub(super) fn refuse(
        &self,
        place: Place<'_>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> LoadError {
        LoadError::mismatch(LoadErrorKind::Format, self.path, place.item(), expected, found)
    }

    /// Takes `length` bytes.
    pub(super) fn take(&mut self, place: Place<'_>, what: &str, length: u64) -> Result<&'a [u8], LoadError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.refuse(
                place,
                format_args!("{what} of {length} bytes at byte offset {}", self.at),
                format_args!("{} bytes to the end of the file", rest.len()),
            )),
        }
    }

    fn array<const N: usize>(&mut self, place: Place<'_>, what: &str) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(place, what, N as u64)?);
        Ok(out)
    }

    number! { u8: u8, u16: u16, u32: u32, u64: u64, i8: i8, i16: i16, i32: i32, i64: i64, f32: f32, f64: f64 }

    /// Reads a string: its length in 64 bits, then UTF-8 text.
    pub(super) fn string(&mut self, place: Place<'_>, what: &str) -> Result<&'a str, LoadError> {
        let length = self.u64(place, what)?;
        let start = self.at;
        let bytes = self.take(place, what, length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = start + error.valid_up_to();
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            let expected = format_args!("{what} of UTF-8 text at byte offset {start}");
            self.refuse(place, expected, format_args!("byte {byte:#04x} at byte offset {at}"))
        })
    }
}
