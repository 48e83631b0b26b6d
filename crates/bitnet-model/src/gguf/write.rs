//! Writing GGUF v3: the header is reserved first, tensors stream behind it, and the header is written last.
//!
//! The size of a header follows from metadata, names and shapes alone, so types and offsets may become known while
//! the data is written. The bytes depend on what is written and on nothing else.

use std::io::{self, Seek, SeekFrom, Write};

use super::ValueType;
use crate::checksum::Xxh64;

/// The version that is written.
const VERSION: u32 = 3;

/// A metadata value to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Meta {
    /// Unsigned 32-bit integer.
    U32(u32),
    /// Unsigned 64-bit integer.
    U64(u64),
    /// Binary32.
    F32(f32),
    /// Truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Floats.
    F32s(Vec<f32>),
    /// Signed 32-bit integers.
    I32s(Vec<i32>),
    /// Unsigned 64-bit integers.
    U64s(Vec<u64>),
    /// Unsigned bytes.
    Bytes(Vec<u8>),
}

impl From<&str> for Meta {
    fn from(text: &str) -> Self {
        Meta::Text(text.to_owned())
    }
}

impl Meta {
    fn put(&self, out: &mut Vec<u8>) {
        let scalar = |out: &mut Vec<u8>, of: ValueType, bytes: &[u8]| {
            out.extend(id(of).to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Meta::U32(value) => scalar(out, ValueType::U32, &value.to_le_bytes()),
            Meta::U64(value) => scalar(out, ValueType::U64, &value.to_le_bytes()),
            Meta::F32(value) => scalar(out, ValueType::F32, &value.to_le_bytes()),
            Meta::Bool(value) => scalar(out, ValueType::Bool, &[u8::from(*value)]),
            Meta::Text(text) => {
                out.extend(id(ValueType::String).to_le_bytes());
                put_text(out, text);
            }
            Meta::Texts(texts) => {
                array(out, ValueType::String, texts.len());
                texts.iter().for_each(|text| put_text(out, text));
            }
            Meta::F32s(values) => {
                array(out, ValueType::F32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Meta::I32s(values) => {
                array(out, ValueType::I32, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Meta::Bytes(bytes) => {
                array(out, ValueType::U8, bytes.len());
                out.extend(bytes);
            }
            Meta::U64s(values) => {
                array(out, ValueType::U64, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
}

fn id(of: ValueType) -> u32 {
    ValueType::ALL.iter().position(|other| *other == of).unwrap_or_default() as u32
}

fn array(out: &mut Vec<u8>, of: ValueType, len: usize) {
    out.extend(id(ValueType::Array).to_le_bytes());
    out.extend(id(of).to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Rows first, the contiguous dimension last.
    pub shape: Vec<usize>,
}

/// What became of a planned tensor.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    type_id: u32,
    offset: u64,
    bytes: u64,
    checksum: u64,
}

/// Writes one file.
pub struct GgufWriter<W> {
    sink: W,
    metadata: Vec<(String, Meta)>,
    alignment: u64,
    plan: Vec<PlannedTensor>,
    written: Vec<Written>,
    hash: Xxh64,
    /// Bytes of data so far.
    at: u64,
    data_start: u64,
}

impl<W: Write + Seek> GgufWriter<W> {
    /// Reserves the header of a file with this metadata and these tensors, which follow in this order.
    ///
    /// `general.alignment` is added where `alignment`, a power of two, is not the default of 32.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn new(
        sink: W,
        mut metadata: Vec<(String, Meta)>,
        alignment: u32,
        plan: Vec<PlannedTensor>,
    ) -> io::Result<Self> {
        if alignment != super::DEFAULT_ALIGNMENT {
            metadata.push(("general.alignment".into(), Meta::U32(alignment)));
        }
        let (alignment, hash) = (u64::from(alignment), Xxh64::new());
        let (written, at, data_start) = (Vec::new(), 0, 0);
        let mut writer = GgufWriter { sink, metadata, alignment, plan, written, hash, at, data_start };
        writer.data_start = writer.header().len() as u64;
        pad(&mut writer.sink, writer.data_start)?;
        Ok(writer)
    }

    /// Begins the next planned tensor, which has to be `name`.
    ///
    /// # Errors
    /// Another tensor than planned; those of the sink.
    pub fn begin(&mut self, name: &str, type_id: u32) -> io::Result<()> {
        let planned = self.plan.get(self.written.len()).map(|tensor| tensor.name.as_str());
        if planned != Some(name) {
            return Err(io::Error::other(format!("tensor {name}: expected {planned:?} to be written now")));
        }
        self.close();
        let offset = self.at.next_multiple_of(self.alignment);
        pad(&mut self.sink, offset - self.at)?;
        self.at = offset;
        self.hash = Xxh64::new();
        self.written.push(Written { type_id, offset, ..Written::default() });
        Ok(())
    }

    /// Appends bytes of the tensor that was begun last.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn close(&mut self) {
        if let Some(last) = self.written.last_mut() {
            last.bytes = self.at - last.offset;
            last.checksum = self.hash.finish();
        }
    }

    /// Ends the last tensor and returns the checksum of every tensor, in order.
    pub fn checksums(&mut self) -> Vec<u64> {
        self.close();
        self.written.iter().map(|tensor| tensor.checksum).collect()
    }

    /// Replaces a metadata value by one of the same size.
    pub fn replace(&mut self, key: &str, value: Meta) {
        if let Some(entry) = self.metadata.iter_mut().find(|entry| entry.0 == key) {
            entry.1 = value;
        }
    }

    /// Makes the header as it stands, padded to the alignment.
    fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(super::MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.plan.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            value.put(&mut out);
        }
        for (index, tensor) in self.plan.iter().enumerate() {
            let written = self.written.get(index).copied().unwrap_or_default();
            put_text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
            out.extend(written.type_id.to_le_bytes());
            out.extend(written.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out
    }

    /// Pads the last tensor, writes the header, and returns the number of bytes of the file. `seal` may change the
    /// bytes of the header, but not their number.
    ///
    /// # Errors
    /// A planned tensor that was not written; those of the sink.
    pub fn finish(mut self, seal: impl FnOnce(&mut [u8])) -> io::Result<u64> {
        self.close();
        if let Some(missing) = self.plan.get(self.written.len()) {
            return Err(io::Error::other(format!("tensor {}: planned but not written", missing.name)));
        }
        let end = self.at.next_multiple_of(self.alignment);
        pad(&mut self.sink, end - self.at)?;
        let mut header = self.header();
        if header.len() as u64 != self.data_start {
            return Err(io::Error::other("the header changed its size while tensors were written"));
        }
        seal(&mut header);
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(&header)?;
        self.sink.seek(SeekFrom::End(0))?;
        self.sink.flush()?;
        Ok(self.data_start + end)
    }
}

fn pad(sink: &mut impl Write, mut bytes: u64) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    while bytes > 0 {
        let piece = bytes.min(ZEROS.len() as u64) as usize;
        sink.write_all(&ZEROS[..piece])?;
        bytes -= piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use super::*;
    use crate::gguf::{Gguf, TypeId};

    fn sample() -> Vec<u8> {
        let metadata = vec![
            ("general.architecture".to_owned(), Meta::from("bitnet")),
            ("a.u32".to_owned(), Meta::U32(7)),
            ("a.u64".to_owned(), Meta::U64(1 << 40)),
            ("a.f32".to_owned(), Meta::F32(0.5)),
            ("a.bool".to_owned(), Meta::Bool(true)),
            ("a.texts".to_owned(), Meta::Texts(vec!["x".into(), String::new(), "\u{2581}y".into()])),
            ("a.f32s".to_owned(), Meta::F32s(vec![1.0, -2.0])),
            ("a.i32s".to_owned(), Meta::I32s(vec![-3])),
        ];
        let plan = vec![
            PlannedTensor { name: "m".into(), shape: vec![2, 3] },
            PlannedTensor { name: "v".into(), shape: vec![5] },
        ];
        let mut file = Cursor::new(Vec::new());
        let mut writer = GgufWriter::new(&mut file, metadata, 256, plan).unwrap();
        assert!(writer.begin("v", 0).is_err());
        writer.begin("m", 24).unwrap();
        writer.write(&[1, 2, 3]).unwrap();
        writer.write(&[4, 5, 6]).unwrap();
        writer.begin("v", 0).unwrap();
        writer.write(&[9; 20]).unwrap();
        let length = writer.finish(|_| ()).unwrap();
        let bytes = file.into_inner();
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = sample();
        assert_eq!(bytes, sample());
        let gguf = Gguf::from_bytes(Path::new("sample.gguf"), bytes).unwrap();
        let metadata = gguf.metadata();
        assert_eq!((gguf.version(), gguf.alignment()), (3, 256));
        assert_eq!(metadata.u32("a.u32").unwrap(), Some(7));
        assert_eq!(metadata.u64("a.u64").unwrap(), Some(1 << 40));
        assert_eq!(metadata.f32("a.f32").unwrap(), Some(0.5));
        assert_eq!(metadata.bool("a.bool").unwrap(), Some(true));
        let texts: Vec<&str> = metadata.strs("a.texts").unwrap().unwrap().collect();
        assert_eq!(texts, ["x", "", "\u{2581}y"]);
        assert!(metadata.f32s("a.f32s").unwrap().unwrap().eq([1.0, -2.0]));
        assert!(metadata.i32s("a.i32s").unwrap().unwrap().eq([-3]));
        let [m, v] = gguf.tensors() else { panic!("two tensors") };
        assert_eq!(
            (m.shape.as_slice(), m.type_id, gguf.bytes_of(m)),
            (&[2, 3][..], TypeId(24), &[1, 2, 3, 4, 5, 6][..])
        );
        assert_eq!((v.shape.as_slice(), v.type_id, gguf.bytes_of(v)), (&[5][..], TypeId(0), &[9; 20][..]));
    }

    #[test]
    fn a_planned_tensor_that_never_came_is_an_error() {
        let plan = vec![PlannedTensor { name: "m".into(), shape: vec![1] }];
        let writer = GgufWriter::new(Cursor::new(Vec::new()), Vec::new(), 32, plan).unwrap();
        assert!(writer.finish(|_| ()).unwrap_err().to_string().contains("planned but not written"));
    }
}
