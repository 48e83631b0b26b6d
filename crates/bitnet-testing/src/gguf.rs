//! GGUF files to build and to break.
//!
//! A draft holds keys and tensors as they stand on the wire; [`GgufFile::to_bytes`] lays them out. Nothing is
//! checked: tests write files that lie. [`GgufFile::read`] takes a sound file apart, and panics on any other.

use std::path::Path;

/// A value of metadata: the id of its type, and its bytes behind the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Id of the type.
    pub kind: u32,
    /// Bytes as on the wire.
    pub bytes: Vec<u8>,
}

impl Value {
    /// A value of `kind` with these bytes.
    pub fn new(kind: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Value { kind, bytes: bytes.into() }
    }

    /// An unsigned 32-bit integer.
    pub fn u32(value: u32) -> Self {
        Self::new(4, value.to_le_bytes())
    }

    /// A 32-bit float.
    pub fn f32(value: f32) -> Self {
        Self::new(6, value.to_le_bytes())
    }

    /// A truth value.
    pub fn bool(value: bool) -> Self {
        Self::new(7, [u8::from(value)])
    }

    /// A text.
    pub fn str(text: &str) -> Self {
        Self::new(8, string(text.as_bytes()))
    }

    /// An array of `count` elements of type `of`, which are `bytes`.
    pub fn array(of: u32, count: u64, bytes: &[u8]) -> Self {
        Self::new(9, [&of.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat())
    }

    /// An array of texts.
    pub fn strs(texts: &[&str]) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| string(text.as_bytes())).collect();
        Self::array(8, texts.len() as u64, &bytes)
    }
}

/// A tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Extents, the contiguous one first.
    pub extents: Vec<u64>,
    /// Id of the element type.
    pub kind: u32,
    /// The elements.
    pub bytes: Vec<u8>,
}

/// A file in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufFile {
    /// Version of the format.
    pub version: u32,
    /// Alignment that the layout goes by; to state another than 32, set the key too.
    pub alignment: usize,
    /// Metadata in order.
    pub keys: Vec<(String, Value)>,
    /// Tensors in order.
    pub tensors: Vec<Tensor>,
}

impl Default for GgufFile {
    fn default() -> Self {
        GgufFile { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }
}

impl GgufFile {
    /// Reads a sound file.
    pub fn read(path: &Path) -> Self {
        let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&file)
    }

    /// Takes the bytes of a sound file apart.
    pub fn parse(file: &[u8]) -> Self {
        let mut at = Walk { file, at: 4 };
        let version = at.u32();
        let (tensor_count, key_count) = (at.u64(), at.u64());
        let keys: Vec<_> = (0..key_count)
            .map(|_| {
                let key = at.text();
                let kind = at.u32();
                let start = at.at;
                at.skip(kind);
                (key, Value::new(kind, &file[start..at.at]))
            })
            .collect();
        let alignment = keys.iter().find(|(key, _)| key == "general.alignment");
        let alignment = alignment
            .map_or(32, |(_, value)| u32::from_le_bytes(value.bytes[..4].try_into().unwrap_or([0; 4])));
        let entries: Vec<_> = (0..tensor_count)
            .map(|_| {
                let name = at.text();
                let dims = at.u32();
                let extents: Vec<u64> = (0..dims).map(|_| at.u64()).collect();
                (name, extents, at.u32(), at.u64() as usize)
            })
            .collect();
        let data = &file[at.at.next_multiple_of(alignment as usize).min(file.len())..];
        let ends: Vec<usize> = entries.iter().map(|entry| entry.3).chain([data.len()]).collect();
        let tensors = entries.into_iter().map(|(name, extents, kind, offset)| {
            let next = ends.iter().copied().filter(|&end| end > offset).min().unwrap_or(data.len());
            Tensor { name, extents, kind, bytes: data[offset..next].to_vec() }
        });
        let tensors = tensors.collect();
        GgufFile { version, alignment: alignment as usize, keys, tensors }
    }

    /// Sets a key, in place where it is there.
    #[must_use]
    pub fn key(mut self, key: &str, value: Value) -> Self {
        match self.keys.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn without_key(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// Returns a tensor.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Adds a tensor, or replaces the one of this name.
    #[must_use]
    pub fn with(mut self, name: &str, extents: &[u64], kind: u32, bytes: Vec<u8>) -> Self {
        let tensor = Tensor { name: name.to_owned(), extents: extents.to_vec(), kind, bytes };
        match self.tensors.iter_mut().find(|tensor| tensor.name == name) {
            Some(old) => *old = tensor,
            None => self.tensors.push(tensor),
        }
        self
    }

    /// Removes a tensor.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// Renames an architecture: its name, and the prefix of its keys.
    #[must_use]
    pub fn architecture(mut self, old: &str, new: &str) -> Self {
        for (key, _) in &mut self.keys {
            if let Some(rest) = key.strip_prefix(&format!("{old}.")) {
                *key = format!("{new}.{rest}");
            }
        }
        self.key("general.architecture", Value::str(new))
    }

    /// Deals the tensors out to `count` files, part `n` of which is to be named as [`part_name`] says; the first keeps
    /// the metadata.
    pub fn in_parts(self, count: usize) -> Vec<Self> {
        let u16s = |value: usize| Value::new(2, (value as u16).to_le_bytes());
        let total = (self.tensors.len() as i32).to_le_bytes();
        let mut parts = vec![GgufFile { tensors: Vec::new(), ..self.clone() }];
        parts.resize(count, GgufFile::default());
        for (index, tensor) in self.tensors.into_iter().enumerate() {
            parts[index % count].tensors.push(tensor);
        }
        let split = |(part, file): (usize, GgufFile)| {
            file.key("split.no", u16s(part))
                .key("split.count", u16s(count))
                .key("split.tensors.count", Value::new(5, total))
        };
        parts.into_iter().enumerate().map(split).collect()
    }

    /// Lays the file out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = header(self.version, self.tensors.len() as u64, self.keys.len() as u64);
        for (key, value) in &self.keys {
            out.extend(string(key.as_bytes()));
            out.extend(value.kind.to_le_bytes());
            out.extend(&value.bytes);
        }
        let mut offset = 0usize;
        for tensor in &self.tensors {
            out.extend(entry(&tensor.name, &tensor.extents, tensor.kind, offset as u64));
            offset = (offset + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out
    }
}

/// Returns the name of a part of a model in several files, `part` from 0.
pub fn part_name(front: &str, part: usize, count: usize) -> String {
    format!("{front}-{:05}-of-{count:05}.gguf", part + 1)
}

/// Returns the first bytes of a file.
pub fn header(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [&b"GGUF"[..], &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// Returns a string as on the wire.
pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// Returns the entry of a tensor as on the wire.
pub fn entry(name: &str, extents: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut out = string(name.as_bytes());
    out.extend((extents.len() as u32).to_le_bytes());
    extents.iter().for_each(|extent| out.extend(extent.to_le_bytes()));
    out.extend(kind.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

struct Walk<'a> {
    file: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn u32(&mut self) -> u32 {
        self.at += 4;
        u32::from_le_bytes(self.file[self.at - 4..self.at].try_into().unwrap_or([0; 4]))
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8_lossy(&self.file[self.at - length..self.at]).into_owned()
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            8 => drop(self.text()),
            9 => {
                let of = self.u32();
                (0..self.u64()).for_each(|_| self.skip(of));
            }
            _ => self.at += 8,
        }
    }
}
