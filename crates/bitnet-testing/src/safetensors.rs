//! A minimal safetensors writer and reader.
//!
//! Layout: u64 little-endian header length, the header (JSON, padded with spaces so that the data
//! begins at a multiple of 8), then the tensors' bytes in header order without gaps. The writer
//! streams, so a folder larger than memory can be written. The reader is for tests: it panics on a
//! file that does not fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::floats::{bf16_to_f32, f16_to_f32};
use crate::json::Json;

/// Names an element type as a safetensors header spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the header's own words")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I32,
    I8,
    U8,
}

impl Dtype {
    /// Returns the spelling in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::I8 => "I8",
            Self::U8 => "U8",
        }
    }

    /// Returns the size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }
}

/// Describes one tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the header.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: &[usize]) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec() }
    }

    /// Returns the size of the data in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Builds the length field and the padded header for `specs`.
pub fn header(specs: &[TensorSpec]) -> Vec<u8> {
    let mut offset = 0;
    let mut members = vec![("__metadata__".to_owned(), Json::object([("format", Json::str("pt"))]))];
    for spec in specs {
        let end = offset + spec.bytes();
        let ints = |values: &[usize]| Json::Array(values.iter().map(|v| Json::Int(*v as i64)).collect());
        let entry = Json::object([
            ("dtype", Json::str(spec.dtype.name())),
            ("shape", ints(&spec.shape)),
            ("data_offsets", ints(&[offset, end])),
        ]);
        members.push((spec.name.clone(), entry));
        offset = end;
    }
    let mut text = Json::Object(members).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}

/// Writes a file whose tensor `i` is produced by `fill(i, sink)`, one after the other.
///
/// Errors: what the sink reports, or `InvalidData` when a tensor's bytes do not match its spec.
pub fn write_streaming(
    path: &Path,
    specs: &[TensorSpec],
    mut fill: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 18, File::create(path)?);
    file.write_all(&header(specs))?;
    for (index, spec) in specs.iter().enumerate() {
        let mut counted = Counted { inner: &mut file, bytes: 0 };
        fill(index, &mut counted)?;
        if counted.bytes != spec.bytes() {
            let message =
                format!("tensor {}: expected {} bytes, wrote {}", spec.name, spec.bytes(), counted.bytes);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    }
    file.flush()
}

/// Writes a file from tensors held in memory as little-endian bytes.
pub fn write(path: &Path, tensors: &[(TensorSpec, Vec<u8>)]) -> io::Result<()> {
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    write_streaming(path, &specs, |index, sink| sink.write_all(&tensors[index].1))
}

/// Counts what passes through.
struct Counted<'a, W: Write> {
    inner: &'a mut W,
    bytes: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.bytes += n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Holds one tensor as read.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type as spelled in the header.
    pub dtype: String,
    /// Extents, slowest first.
    pub shape: Vec<usize>,
    /// Little-endian data.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Widens F32, F16 or BF16 data to f32. Panics on another type.
    pub fn to_f32s(&self) -> Vec<f32> {
        let halves = |widen: fn(u16) -> f32| {
            self.bytes.chunks_exact(2).map(|b| widen(u16::from_le_bytes([b[0], b[1]]))).collect()
        };
        match self.dtype.as_str() {
            "F32" => words(&self.bytes).map(f32::from_le_bytes).collect(),
            "F16" => halves(f16_to_f32),
            "BF16" => halves(bf16_to_f32),
            other => panic!("expected a float tensor, found {other}"),
        }
    }

    fn expect(&self, dtype: &str) -> &[u8] {
        assert_eq!(self.dtype, dtype, "element type of the tensor");
        &self.bytes
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
}

/// Holds a whole file (or several shards) by tensor name. Every accessor panics on a missing name
/// or an unexpected type: it is for tests only.
#[derive(Clone, Debug, Default)]
pub struct SafeTensors {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl SafeTensors {
    /// Reads a file. Panics, naming the file, when it cannot be read or does not fit its header.
    pub fn read(path: &Path) -> Self {
        let mut all = Self::default();
        all.read_more(path);
        all
    }

    /// Reads the weights of a model folder: model.safetensors, or the shards its index names.
    pub fn read_folder(dir: &Path) -> Self {
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            return Self::read(&dir.join("model.safetensors"));
        }
        let text = std::fs::read_to_string(&index).unwrap_or_else(|e| panic!("{}: {e}", index.display()));
        let json = Json::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", index.display()));
        let map = json.get("weight_map").map(Json::members).unwrap_or_default();
        let mut files: Vec<&str> = map.iter().filter_map(|(_, file)| file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        let mut all = Self::default();
        files.iter().for_each(|file| all.read_more(&dir.join(file)));
        all
    }

    fn read_more(&mut self, path: &Path) {
        if let Err(error) = self.try_read(path) {
            panic!("{}: {error}", path.display());
        }
    }

    fn try_read(&mut self, path: &Path) -> Result<(), String> {
        let text = |e: io::Error| e.to_string();
        let mut file = File::open(path).map_err(text)?;
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(text)?;
        let length = u64::from_le_bytes(length);
        let mut raw = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
        file.read_exact(&mut raw).map_err(text)?;
        let json = Json::parse(std::str::from_utf8(&raw).map_err(|e| e.to_string())?)?;
        for (name, entry) in json.members().iter().filter(|(name, _)| name != "__metadata__") {
            let tensor =
                read_tensor(&mut file, 8 + length, entry).map_err(|e| format!("tensor {name}: {e}"))?;
            self.tensors.insert(name.clone(), tensor);
        }
        Ok(())
    }

    /// Returns a tensor.
    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Tells whether a tensor exists.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns a tensor's extents.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.get(name).shape
    }

    /// Returns F32, F16 or BF16 data as f32.
    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.get(name).to_f32s()
    }

    /// Returns F64 data.
    pub fn f64s(&self, name: &str) -> Vec<f64> {
        let eight = |b: &[u8]| [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
        self.get(name).expect("F64").chunks_exact(8).map(|b| f64::from_le_bytes(eight(b))).collect()
    }

    /// Returns I32 data.
    pub fn i32s(&self, name: &str) -> Vec<i32> {
        words(self.get(name).expect("I32")).map(i32::from_le_bytes).collect()
    }

    /// Returns I8 data.
    pub fn i8s(&self, name: &str) -> Vec<i8> {
        self.get(name).expect("I8").iter().map(|b| *b as i8).collect()
    }

    /// Returns U8 data.
    pub fn u8s(&self, name: &str) -> Vec<u8> {
        self.get(name).expect("U8").to_vec()
    }

    /// Returns I32 data as token ids. Panics on a negative id.
    pub fn token_ids(&self, name: &str) -> Vec<u32> {
        self.i32s(name)
            .into_iter()
            .map(|id| u32::try_from(id).unwrap_or_else(|_| panic!("{name}: id {id}")))
            .collect()
    }
}

fn read_tensor(file: &mut File, data_start: u64, entry: &Json) -> Result<Tensor, String> {
    let ints =
        |key: &str| -> Option<Vec<usize>> { entry.get(key)?.items().iter().map(Json::as_usize).collect() };
    let dtype = entry.get("dtype").and_then(Json::as_str).ok_or("no dtype")?.to_owned();
    let shape = ints("shape").ok_or("no shape")?;
    let offsets = ints("data_offsets").filter(|o| o.len() == 2 && o[0] <= o[1]).ok_or("no data_offsets")?;
    let mut bytes = vec![0; offsets[1] - offsets[0]];
    file.seek(SeekFrom::Start(data_start + offsets[0] as u64)).map_err(|e| e.to_string())?;
    file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    Ok(Tensor { dtype, shape, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp::TempDir;

    #[test]
    fn reads_what_it_writes_and_aligns_the_data() {
        let dir = TempDir::new("safetensors");
        let path = dir.path().join("a.safetensors");
        let f32s: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let f64s: Vec<u8> = 0.1f64.to_le_bytes().to_vec();
        let i32s: Vec<u8> = [7i32, -7, 9].iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensors = [
            (TensorSpec::new("d", Dtype::F64, &[1]), f64s),
            (TensorSpec::new("f", Dtype::F32, &[2]), f32s),
            (TensorSpec::new("i", Dtype::I32, &[3, 1]), i32s),
            (TensorSpec::new("h", Dtype::F16, &[1]), vec![0x00, 0x3c]),
            (TensorSpec::new("b", Dtype::BF16, &[1]), vec![0x80, 0xbf]),
            (TensorSpec::new("c", Dtype::I8, &[2]), vec![0xff, 3]),
            (TensorSpec::new("u", Dtype::U8, &[2]), vec![0xff, 3]),
        ];
        write(&path, &tensors).unwrap();
        let raw = std::fs::read(&path).unwrap();
        assert_eq!(u64::from_le_bytes(raw[..8].try_into().unwrap()) % 8, 0);
        let st = SafeTensors::read(&path);
        assert_eq!(st.f64s("d"), [0.1]);
        assert_eq!(st.f32s("f"), [1.5, -2.0]);
        assert_eq!(st.i32s("i"), [7, -7, 9]);
        assert_eq!(st.shape("i"), [3, 1]);
        assert_eq!((st.f32s("h"), st.f32s("b")), (vec![1.0], vec![-1.0]));
        assert_eq!(st.i8s("c"), [-1, 3]);
        assert_eq!(st.u8s("u"), [255, 3]);
    }

    #[test]
    fn a_tensor_of_the_wrong_length_is_refused() {
        let dir = TempDir::new("safetensors-length");
        let spec = TensorSpec::new("t", Dtype::U8, &[4]);
        let error = write(&dir.path().join("a"), &[(spec, vec![0; 3])]).unwrap_err();
        assert_eq!(error.to_string(), "tensor t: expected 4 bytes, wrote 3");
    }
}
