//! Models in several GGUF files.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use bitnet_model::convert::{ConvertOptions, Output, OutputFile, Target, convert};
use bitnet_model::{
    Gguf, LoadError, LoadErrorKind, LoadOptions, Model, ModelFiles, ModelSource, WeightAccess,
};
use bitnet_testing::gguf::{GgufFile, Value, part_name};
use bitnet_testing::golden_dir;
use bitnet_testing::temp::TempDir;

const PARTS: usize = 3;

fn name(part: usize) -> String {
    part_name("m", part, PARTS)
}

fn u16s(value: usize) -> Value {
    Value::new(2, (value as u16).to_le_bytes())
}

/// Deals the tensors of a golden file out to three files.
fn parts() -> Vec<GgufFile> {
    GgufFile::read(&golden_dir("gguf").join("bitnet_b158-i2_s-x86.gguf")).in_parts(PARTS)
}

fn save(dir: &TempDir, parts: &[GgufFile]) -> PathBuf {
    for (part, file) in parts.iter().enumerate() {
        std::fs::write(dir.path().join(name(part)), file.to_bytes()).unwrap();
    }
    dir.path().join(name(0))
}

fn load(path: &Path, access: WeightAccess) -> Result<Model, LoadError> {
    let files = ModelFiles::open(&ModelSource::at(path))?;
    bitnet_model::load(&files, &mut LoadOptions { access, ..LoadOptions::default() })
}

#[test]
fn parts_make_the_model_that_one_file_makes() {
    struct Place(PathBuf);
    impl Output for Place {
        fn create(&mut self, _: &str) -> std::io::Result<Box<dyn OutputFile + '_>> {
            Ok(Box::new(std::fs::File::create(&self.0)?))
        }
    }
    let dir = TempDir::new("gguf-split");
    let path = save(&dir, &parts());
    let whole = golden_dir("gguf").join("bitnet_b158-i2_s-x86.gguf");
    let gguf = Gguf::open(&path, WeightAccess::Auto).unwrap();
    let single = Gguf::open(&whole, WeightAccess::Auto).unwrap();
    for wanted in single.tensors() {
        let found = gguf.tensors().iter().find(|tensor| tensor.name == wanted.name).unwrap();
        assert!(gguf.bytes_of(found) == single.bytes_of(wanted), "{}", wanted.name);
    }
    for access in [WeightAccess::Auto, WeightAccess::Copy] {
        let (split, single) = (load(&path, access).unwrap(), load(&whole, access).unwrap());
        assert_eq!((split.family, split.tensors.len()), (single.family, single.tensors.len()));
    }
    let written = [&path, &whole].map(|from| {
        let out = dir.path().join("out.bitnet");
        let files = ModelFiles::open(&ModelSource::at(from)).unwrap();
        convert(&files, &mut ConvertOptions::new(Target::Bitnet), &mut Place(out.clone())).unwrap();
        std::fs::read(out).unwrap()
    });
    assert!(written[0] == written[1], "the same model, written");
}

#[test]
fn parts_that_lie_are_refused_by_name() {
    let replace = |parts: &mut Vec<GgufFile>, part: usize, key: &str, value: Value| {
        let file = std::mem::take(&mut parts[part]).without_key(key);
        parts[part] = file.key(key, value);
    };
    type Damage = Box<dyn Fn(&mut Vec<GgufFile>)>;
    let cases: [(LoadErrorKind, &str, &str, Damage); 6] = [
        (
            LoadErrorKind::Format,
            "m-00002-of-00003.gguf",
            "expected part 2 of 3, found part 3 of 3",
            Box::new(move |parts| replace(parts, 1, "split.no", u16s(2))),
        ),
        (
            LoadErrorKind::Format,
            "m-00003-of-00003.gguf",
            "expected part 3 of 3, found part 3 of 4",
            Box::new(move |parts| replace(parts, 2, "split.count", u16s(4))),
        ),
        (
            LoadErrorKind::Format,
            "m-00003-of-00003.gguf",
            "expected part 3 of 3, found a file that is no part",
            Box::new(|parts| parts[2] = GgufFile::default()),
        ),
        (
            LoadErrorKind::Config,
            "m-00001-of-00003.gguf",
            "split.tensors.count: expected",
            Box::new(move |parts| replace(parts, 0, "split.tensors.count", Value::u32(3))),
        ),
        (
            LoadErrorKind::Format,
            "m-00001-of-00003.gguf",
            "expected a name that ends in -00001-of-00002.gguf",
            Box::new(move |parts| replace(parts, 0, "split.count", u16s(2))),
        ),
        (
            LoadErrorKind::Format,
            "m-00002-of-00003.gguf",
            "expected it in one part only, found it in one before as well",
            Box::new(|parts| {
                let again = parts[0].tensors[0].clone();
                parts[1].tensors.push(again);
            }),
        ),
    ];
    for (kind, file, text, change) in cases {
        let dir = TempDir::new("gguf-split-lies");
        let mut parts = parts();
        change(&mut parts);
        let path = save(&dir, &parts);
        let error = Gguf::open(&path, WeightAccess::Auto).unwrap_err();
        let line = error.to_string();
        assert!(line.contains(text) && line.contains(file), "{line}");
        assert_eq!(error.kind(), kind, "{line}");
    }
    let dir = TempDir::new("gguf-split-parts");
    let path = save(&dir, &parts());
    let second = Gguf::open(&dir.path().join(name(1)), WeightAccess::Auto).unwrap_err();
    assert!(second.to_string().contains(&name(0)) && second.to_string().contains("found part 2"), "{second}");
    let alone = Gguf::from_bytes(&path, std::fs::read(&path).unwrap()).unwrap_err();
    assert!(alone.to_string().contains("split.count: expected 1"), "{alone}");
    std::fs::remove_file(dir.path().join(name(2))).unwrap();
    let missing = Gguf::open(&path, WeightAccess::Auto).unwrap_err();
    assert_eq!(missing.kind(), LoadErrorKind::Io);
    assert!(missing.to_string().contains(&name(2)), "{missing}");
}
