//! A model in several files, `NAME-00001-of-00003.gguf` and so on: the first has the metadata, each has a table of its
//! own tensors.
//!
//! Keys: `split.no` from 0, `split.count`, and in the first `split.tensors.count`, the tensors of all. The parts are found by
//! their names beside the first, which is the one to name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Gguf, TensorEntry};
use crate::error::{Item, LoadError, LoadErrorKind};
use crate::source::Access;

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Most parts: names have room for five digits, and each part is a mapping.
const MAX_PARTS: u64 = 4096;

/// Lists the names of all parts of a model, the first first, by the name of any of them, `NAME-00002-of-00003.gguf`;
/// `None` for another name. Nothing is opened.
pub fn part_names(name: &str) -> Option<impl Iterator<Item = String>> {
    let number = |digits: &str| {
        let is_number = digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| is_number)
    };
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (front, part) = rest.rsplit_once('-')?;
    let (part, count) = (number(part)?, number(count)?);
    let front = front.to_owned();
    let names = move |part| format!("{front}{}", ending(part, count));
    (1..=MAX_PARTS).contains(&count).then_some(())?;
    (1..=count).contains(&part).then(|| (0..count).map(names))
}

/// Opens the other parts of a file that is one of several.
pub(super) fn complete(mut first: Gguf, access: &Access) -> Result<Gguf, LoadError> {
    let count = count_of(&first)?;
    if count <= 1 {
        return Ok(first);
    }
    let number = first.metadata.u64(NUMBER)?.unwrap_or(0);
    let name = first.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(front) = name.strip_suffix(&ending(number, count)) else {
        let expected =
            format!("a name that ends in {}, as part {} of {count}", ending(number, count), number + 1);
        return Err(mismatch(LoadErrorKind::Format, &first.path, Item::File, expected, name));
    };
    let path_of = |number: u64| first.path.with_file_name(format!("{front}{}", ending(number, count)));
    if number != 0 {
        let expected = format!("the first part of the model, {}", path_of(0).display());
        let found = format!("part {}", number + 1);
        return Err(mismatch(LoadErrorKind::UnsupportedFormat, &first.path, Item::File, expected, found));
    }
    let paths: Vec<PathBuf> = (1..count).map(path_of).collect();
    let mut names: HashSet<String> = first.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for (path, number) in paths.iter().zip(1_u64..) {
        let part = Gguf::parse_file(path, access)?;
        let found = (part.metadata.u64(NUMBER)?, count_of(&part)?);
        if found != (Some(number), count) {
            let expected = format!("part {} of {count}", number + 1);
            let found = match found {
                (None, _) => "a file that is no part".to_owned(),
                (Some(number), count) => format!("part {} of {count}", number + 1),
            };
            return Err(mismatch(LoadErrorKind::Format, path, Item::File, expected, found));
        }
        for tensor in part.tensors {
            if !names.insert(tensor.name.clone()) {
                let item = Item::Tensor(tensor.name);
                let expected = "it in one part only".to_owned();
                return Err(mismatch(
                    LoadErrorKind::Format,
                    path,
                    item,
                    expected,
                    "it in one before as well".into(),
                ));
            }
            first.tensors.push(TensorEntry { part: number as usize, ..tensor });
        }
        first.parts.push((path.clone(), part.bytes));
    }
    match first.metadata.u64(TENSORS)? {
        Some(stated) if stated != first.tensors.len() as u64 => Err(first
            .metadata
            .refuse(TENSORS, format_args!("{}, the tensors of all parts", first.tensors.len()))),
        _ => Ok(first),
    }
}

/// Refuses bytes that are one part of several, which no name leads to the others from.
pub(super) fn check_single(gguf: &Gguf) -> Result<(), LoadError> {
    match count_of(gguf)? {
        0 | 1 => Ok(()),
        _ => Err(gguf.metadata.unsupported(COUNT, "1: a model in one piece of memory")),
    }
}

fn count_of(gguf: &Gguf) -> Result<u64, LoadError> {
    match gguf.metadata.u64(COUNT)? {
        Some(count) if count > MAX_PARTS => {
            Err(gguf.metadata.refuse(COUNT, format_args!("at most {MAX_PARTS} parts")))
        }
        count => Ok(count.unwrap_or(1)),
    }
}

fn ending(number: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1))
}

fn mismatch(kind: LoadErrorKind, path: &Path, item: Item, expected: String, found: String) -> LoadError {
    LoadError::mismatch(kind, path, item, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        let names = |name: &str| part_names(name).map(Iterator::collect::<Vec<_>>);
        let wanted = ["a-of-1-00001-of-00002.gguf", "a-of-1-00002-of-00002.gguf"].map(str::to_owned);
        for name in &wanted {
            assert_eq!(names(name).unwrap(), wanted);
        }
        assert_eq!(names("m-00001-of-00001.gguf").unwrap(), ["m-00001-of-00001.gguf"]);
        for name in [
            "m.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-00001-of-00000.gguf",
            "m-00001-of-99999.gguf",
            "m-1-of-2.gguf",
            "m-+0001-of-00002.gguf",
            "m-00001-of-00002.safetensors",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(names(name), None, "{name}");
        }
    }
}
