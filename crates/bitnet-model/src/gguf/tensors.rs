//! The table of tensors: names, shapes, types and where the elements lie, checked against the file.

use std::collections::HashSet;
use std::ops::Range;

use super::cursor::{Cursor, Place};
use super::metadata::MAX_NAME;
use super::types::TypeId;
use crate::error::LoadError;

/// Most tensors accepted: published files have some thousands at most, and each costs memory.
const MAX_TENSORS: u64 = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 4;
/// Fewest bytes of an entry: an empty name's length, the number of dimensions, type, offset.
const LEAST_ENTRY: u64 = 8 + 4 + 4 + 8;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub type_id: TypeId,
    /// Rows first, the contiguous dimension last: the reverse of the order on the wire.
    pub shape: Vec<usize>,
    /// The file that holds it, 0 unless a model lies in several.
    pub part: usize,
    /// Its bytes in that file. For a type that is not known, all up to the next tensor.
    pub range: Range<usize>,
}

/// What the table says of one tensor, before it is held against the data.
struct Draft<'a> {
    name: &'a str,
    type_id: TypeId,
    shape: Vec<usize>,
    offset: u64,
    /// `None` for a type that is not known.
    size: Option<usize>,
}

/// Reads the entries of `count` tensors at the cursor, and checks them against the data behind them.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: usize,
) -> Result<Vec<TensorEntry>, LoadError> {
    let most = (cursor.remaining() as u64 / LEAST_ENTRY).min(MAX_TENSORS);
    if count > most {
        let expected = format_args!("at most {most} tensors in a file of this size");
        return Err(cursor.refuse(Place::File, expected, count));
    }
    let mut drafts = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..count {
        let draft = draft(cursor, alignment)?;
        if !names.insert(draft.name) {
            return Err(cursor.refuse(Place::Tensor(draft.name), "one entry of this name", "a second one"));
        }
        drafts.push(draft);
    }
    place(cursor, drafts, alignment)
}

fn draft<'a>(cursor: &mut Cursor<'a>, alignment: usize) -> Result<Draft<'a>, LoadError> {
    let at = cursor.offset();
    let name = cursor.string(Place::File, "a tensor name")?;
    if name.is_empty() || name.len() > MAX_NAME {
        let expected = format_args!("a tensor name of 1 to {MAX_NAME} bytes at byte offset {at}");
        return Err(cursor.refuse(Place::File, expected, format_args!("{} bytes", name.len())));
    }
    let tensor = Place::Tensor(name);
    let dims = cursor.u32(tensor, "a number of dimensions")?;
    if dims as usize > MAX_DIMS {
        return Err(cursor.refuse(tensor, format_args!("at most {MAX_DIMS} dimensions"), dims));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let extent = cursor.u64(tensor, "a dimension")?;
        let fits = usize::try_from(extent).ok();
        shape.push(
            fits.ok_or_else(|| cursor.refuse(tensor, "dimensions that fit the address space", extent))?,
        );
    }
    let width = shape.first().copied().unwrap_or(1);
    shape.reverse();
    let type_id = TypeId(cursor.u32(tensor, "a type")?);
    let offset = cursor.u64(tensor, "an offset")?;
    if !offset.is_multiple_of(alignment as u64) {
        return Err(cursor.refuse(
            tensor,
            format_args!("an offset that is a multiple of {alignment}"),
            offset,
        ));
    }
    // An extent of 0 does not excuse the others: whoever multiplies them in another order meets them first.
    let count = shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent.max(1)));
    let size = count.ok_or_else(|| "a size that fits the address space".into());
    let rows = |_| shape.iter().rev().skip(1).product();
    let size = size.map(rows).and_then(|rows| type_id.bytes(width, rows)).map_err(|expected| {
        cursor.refuse(tensor, format_args!("{expected} for {type_id}"), format_args!("shape {shape:?}"))
    })?;
    Ok(Draft { name, type_id, shape, offset, size })
}

/// Holds the entries against the data, which begins behind the table at the next multiple of the alignment.
fn place(
    cursor: &Cursor<'_>,
    mut drafts: Vec<Draft<'_>>,
    alignment: usize,
) -> Result<Vec<TensorEntry>, LoadError> {
    let end = cursor.offset() + cursor.remaining();
    // Without tensors there need not be a data section: vocabularies end with their table.
    let start = cursor.offset().next_multiple_of(alignment);
    let data = end.saturating_sub(start) as u64;
    drafts.sort_by_key(|draft| (draft.offset, draft.size));
    let next: Vec<u64> = drafts.iter().skip(1).map(|draft| draft.offset).chain([data]).collect();
    let mut entries = Vec::new();
    for (draft, next) in drafts.into_iter().zip(next) {
        let tensor = Place::Tensor(draft.name);
        let room = data.checked_sub(draft.offset);
        // What is not known takes a byte at least, unless it is empty.
        let empty = draft.shape.contains(&0);
        let size = draft.size.map_or(u64::from(!empty), |size| size as u64);
        let Some(room) = room.filter(|&room| size <= room) else {
            let (offset, type_id) = (draft.offset, draft.type_id);
            let expected = format_args!(
                "{size} bytes of {type_id} {:?} at offset {offset} of the data, which begins at byte offset {start}",
                draft.shape
            );
            return Err(cursor.refuse(tensor, expected, format_args!("{} bytes", room.unwrap_or(0))));
        };
        // The last one ends at the end of the data.
        let gap = next.saturating_sub(draft.offset).min(room);
        if size > gap {
            let expected =
                format_args!("{size} bytes from offset {} of the data to the next tensor", draft.offset);
            return Err(cursor.refuse(tensor, expected, format_args!("{gap}: tensors overlap")));
        }
        let length = if draft.size.is_some() { size } else { gap };
        // Both are at most `data`, which is the difference of two addresses.
        let first = start + draft.offset as usize;
        let range = first..first + length as usize;
        let (name, Draft { type_id, shape, .. }) = (draft.name.to_owned(), draft);
        entries.push(TensorEntry { name, type_id, shape, part: 0, range });
    }
    Ok(entries)
}
