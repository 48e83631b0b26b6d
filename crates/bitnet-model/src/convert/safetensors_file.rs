//! Writing a safetensors file as a stream: room for the header is left, and filled in at the end.
//!
//! A header may be padded with spaces, so it is enough to know the names beforehand.

use std::io::{self, Seek, SeekFrom, Write};

use serde_json::{Map, Value, json};

/// Most bytes of an entry beside its name: type, four sizes, two offsets, punctuation.
const ENTRY: usize = 160;

/// Writes one file.
pub(super) struct SafetensorsWriter<W> {
    sink: W,
    room: usize,
    at: u64,
    entries: Map<String, Value>,
    open: Option<(String, &'static str, Vec<usize>, u64)>,
}

impl<W: Write + Seek> SafetensorsWriter<W> {
    /// Leaves room for tensors of these names, of which not all need be written.
    pub(super) fn new(mut sink: W, names: &[String]) -> io::Result<Self> {
        let room = names.iter().map(|name| 2 * name.len() + ENTRY).sum::<usize>() + ENTRY;
        let room = room.next_multiple_of(64) - 8;
        sink.write_all(&vec![b' '; 8 + room])?;
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({ "format": "pt" }));
        Ok(SafetensorsWriter { sink, room, at: 0, entries, open: None })
    }

    /// Begins a tensor.
    pub(super) fn begin(&mut self, name: &str, dtype: &'static str, shape: &[usize]) {
        self.close();
        self.open = Some((name.to_owned(), dtype, shape.to_vec(), self.at));
    }

    fn close(&mut self) {
        if let Some((name, dtype, shape, start)) = self.open.take() {
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, self.at] });
            self.entries.insert(name, entry);
        }
    }

    /// Appends bytes of the tensor that was begun last.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Writes the header; returns the tensors and the bytes of the file.
    pub(super) fn finish(mut self) -> io::Result<(usize, u64)> {
        self.close();
        let tensors = self.entries.len() - 1;
        let mut header = Value::Object(self.entries).to_string().into_bytes();
        if header.len() > self.room {
            return Err(io::Error::other("the header does not fit the room that was left for it"));
        }
        header.resize(self.room, b' ');
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(&(self.room as u64).to_le_bytes())?;
        self.sink.write_all(&header)?;
        self.sink.flush()?;
        Ok((tensors, 8 + self.room as u64 + self.at))
    }
}
