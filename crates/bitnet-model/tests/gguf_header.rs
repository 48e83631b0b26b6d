//! The GGUF container: what is read, and every way in which a header or a table can lie.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;

use bitnet_model::gguf::{TypeId, Value as Read, ValueType};
use bitnet_model::{Gguf, LoadErrorKind as Kind, WeightAccess};
use bitnet_testing::gguf::{GgufFile, Value, entry, header, string};
use bitnet_testing::golden_dir;
use bitnet_testing::temp::TempDir;

fn open(bytes: impl Into<Vec<u8>>) -> Result<Gguf, bitnet_model::LoadError> {
    Gguf::from_bytes(Path::new("m.gguf"), bytes.into())
}

/// Expects a refusal on one line that begins with the file.
#[track_caller]
fn refuse(bytes: impl Into<Vec<u8>>, kind: Kind, text: &str) {
    let error = open(bytes).expect_err(text);
    let line = error.to_string();
    assert_eq!(error.kind(), kind, "{line}");
    assert!(line.starts_with("m.gguf: ") && line.contains("expected ") && line.contains("found "), "{line}");
    assert!(!line.chars().any(char::is_control) && line.len() < 1000, "{line}");
    assert!(line.contains(text), "{line}\nlacks {text}");
}

/// A file of one key.
fn keyed(value: Value) -> Vec<u8> {
    GgufFile::default().key("k", value).to_bytes()
}

/// A file of these tensor entries before `data` bytes.
fn table(entries: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut file = [header(3, entries.len() as u64, 0), entries.concat()].concat();
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

#[test]
fn every_type_of_value_is_read() {
    let nested =
        [&Value::array(0, 2, &[7, 8]).bytes[..], &Value::array(4, 1, &9u32.to_le_bytes()).bytes].concat();
    let file = GgufFile::default()
        .key("u8", Value::new(0, [200]))
        .key("i8", Value::new(1, [200]))
        .key("u16", Value::new(2, 65_000u16.to_le_bytes()))
        .key("i16", Value::new(3, (-2i16).to_le_bytes()))
        .key("u32", Value::u32(u32::MAX))
        .key("i32", Value::new(5, (-3i32).to_le_bytes()))
        .key("f32", Value::f32(1.5))
        .key("bool", Value::bool(true))
        .key("str", Value::str("\u{120}\n"))
        .key("strs", Value::strs(&["a", "", "\u{2581}b"]))
        .key("nested", Value::array(9, 2, &nested))
        .key("u64", Value::new(10, u64::MAX.to_le_bytes()))
        .key("i64", Value::new(11, i64::MIN.to_le_bytes()))
        .key("f64", Value::new(12, 0.1f64.to_le_bytes()))
        .key("bools", Value::array(7, 3, &[0, 1, 0]));
    for version in [2, 3] {
        let gguf = open(GgufFile { version, ..file.clone() }.to_bytes()).unwrap();
        assert_eq!((gguf.version(), gguf.alignment()), (version, 32));
        let data = gguf.metadata();
        assert_eq!(data.keys().count(), 15);
        let get = |key| data.get(key).unwrap();
        assert_eq!((get("u8"), get("i8")), (Read::U8(200), Read::I8(-56)));
        assert_eq!((get("u16"), get("i16")), (Read::U16(65_000), Read::I16(-2)));
        assert_eq!((get("u32"), get("i32")), (Read::U32(u32::MAX), Read::I32(-3)));
        assert_eq!((get("u64"), get("i64")), (Read::U64(u64::MAX), Read::I64(i64::MIN)));
        assert_eq!((get("f32"), get("f64")), (Read::F32(1.5), Read::F64(0.1)));
        assert_eq!((get("bool"), get("str")), (Read::Bool(true), Read::String("\u{120}\n")));
        assert_eq!(data.get("none"), None);
        let strs = data.strs("strs").unwrap().unwrap();
        assert_eq!((strs.len(), strs.collect::<Vec<_>>()), (3, vec!["a", "", "\u{2581}b"]));
        let nested = data.array("nested").unwrap().unwrap();
        assert_eq!((nested.of(), nested.len()), (ValueType::Array, 2));
        let inner: Vec<Vec<_>> = nested.values().map(|v| v.as_array().unwrap().values().collect()).collect();
        assert_eq!(inner, [vec![Read::U8(7), Read::U8(8)], vec![Read::U32(9)]]);
        let bools = data.array("bools").unwrap().unwrap().values().map(|v| v.as_bool().unwrap());
        assert_eq!(bools.collect::<Vec<_>>(), [false, true, false]);
        assert_eq!((data.u32("u8").unwrap(), data.u64("u64").unwrap()), (Some(200), Some(u64::MAX)));
        assert_eq!((data.f32("f64").unwrap(), data.bool("none").unwrap()), (Some(0.1f32), None));
        for (error, text) in [
            (
                data.u32("u64").err(),
                "key u64: expected an integer from 0 to 4294967295, found 18446744073709551615",
            ),
            (data.u32("i32").err(), "key i32: expected an integer from 0 to 4294967295, found -3"),
            (data.u32("f32").err(), "found 1.5"),
            (data.f32("u32").err(), "key u32: expected a float, found 4294967295"),
            (data.bool("u8").err(), "key u8: expected true or false, found 200"),
            (data.str("strs").err(), "key strs: expected a string, found an array of 3 string"),
            (
                data.strs("nested").err(),
                "expected an array of strings (element 0), found an array of 2 array",
            ),
            (data.i32s("strs").err(), "expected an array of integers of 32 bits (element 0)"),
        ] {
            let error = error.expect(text);
            let line = error.to_string().replace("field ", "key ");
            assert_eq!(error.kind(), Kind::Config, "{line}");
            assert!(line.starts_with("m.gguf: ") && line.contains(text), "{line}\n{text}");
        }
    }
}

#[test]
fn golden_files_are_read_alike_mapped_and_copied() {
    for (name, tensors, keys) in [
        ("bitnet_b158-i2_s-x86", 24, 24),
        ("bitnet_b158-tq2_0", 24, 24),
        ("bitnet_silu-tq2_0", 13, 26),
        ("llama-f16", 21, 24),
    ] {
        let path = golden_dir("gguf").join(format!("{name}.gguf"));
        let file = GgufFile::read(&path);
        for access in [WeightAccess::Auto, WeightAccess::Copy] {
            let gguf = Gguf::open(&path, access).unwrap();
            assert_eq!((gguf.tensors().len(), gguf.metadata().keys().count()), (tensors, keys), "{name}");
            for (found, expected) in gguf.tensors().iter().zip(&file.tensors) {
                let extents: Vec<u64> = found.shape.iter().rev().map(|&extent| extent as u64).collect();
                assert_eq!(
                    (&found.name, found.type_id.0, extents),
                    (&expected.name, expected.kind, expected.extents.clone())
                );
                let bytes = gguf.bytes_of(found);
                // What is behind the bytes of the draft is padding.
                assert_eq!(bytes, &expected.bytes[..bytes.len()], "{}", found.name);
                assert!(expected.bytes.len() - bytes.len() < 32, "{}", found.name);
            }
        }
        assert_eq!(GgufFile::parse(&file.to_bytes()), file, "{name}");
    }
}

#[test]
fn headers_that_lie() {
    let format = Kind::Format;
    refuse([], format, "the letters GGUF of 4 bytes at byte offset 0, found 0 bytes to the end of the file");
    refuse(*b"GGML\0\0\0\0", format, "expected the letters GGUF at byte offset 0, found \"GGML\"");
    refuse(*b"GGUF\x03\0", format, "a version of 4 bytes at byte offset 4, found 2 bytes");
    for (version, found) in [
        (1, "found 1"),
        (0, "found"),
        (4, "found 4"),
        (3u32.swap_bytes(), "found a big-endian file of version 3"),
    ] {
        refuse(header(version, 0, 0), Kind::UnsupportedFormat, "expected GGUF version 2 or 3, little-endian");
        refuse(header(version, 0, 0), Kind::UnsupportedFormat, found);
    }
    for count in [1, 1 << 40, 1 << 63, u64::MAX] {
        refuse(
            header(3, 0, count),
            format,
            &format!("at most 0 metadata keys in a file of this size, found {count}"),
        );
        refuse(
            header(3, count, 0),
            format,
            &format!("at most 0 tensors in a file of this size, found {count}"),
        );
    }
    let roomy = |tensors, keys| [header(3, tensors, keys), vec![0; 4 << 20]].concat();
    refuse(roomy(0, 65_537), format, "at most 65536 metadata keys");
    refuse(roomy(65_537, 0), format, "at most 65536 tensors");
}

#[test]
fn metadata_that_lies() {
    let format = Kind::Format;
    let pad = |mut file: Vec<u8>| {
        file.extend([0; 64]);
        file
    };
    let key = |bytes: &[u8]| pad([&header(3, 0, 1)[..], bytes].concat());
    refuse(
        key(&u64::MAX.to_le_bytes()),
        format,
        "a metadata key of 18446744073709551615 bytes at byte offset 32",
    );
    refuse(key(&string(b"")), format, "a metadata key of 1 to 65535 bytes at byte offset 24, found 0 bytes");
    refuse(key(&string(&vec![b'k'; 65_536])), format, "found 65536 bytes");
    refuse(
        key(&string(b"a\xffb")),
        format,
        "UTF-8 text at byte offset 32, found byte 0xff at byte offset 33",
    );
    refuse(
        keyed(Value::new(13, [0; 8])),
        format,
        "field k: expected a value type from 0 to 12 at byte offset 33, found 13",
    );
    refuse(keyed(Value::new(u32::MAX, [0; 8])), format, "found 4294967295");
    refuse(
        keyed(Value::new(10, [0; 7])),
        format,
        "field k: expected u64 of 8 bytes at byte offset 37, found 7 bytes",
    );
    refuse(
        keyed(Value::new(7, [2])),
        format,
        "field k: expected a bool of 0 or 1 at byte offset 37, found 2",
    );
    refuse(keyed(Value::new(8, (1u64 << 63).to_le_bytes())), format, "string of 9223372036854775808 bytes");
    refuse(keyed(Value::new(8, string(b"\xc3"))), format, "field k: expected string of UTF-8 text");
    let twice = [string(b"k"), vec![0; 5], string(b"k"), vec![0; 5]].concat();
    refuse(
        [header(3, 0, 2), twice].concat(),
        format,
        "field k: expected one entry of this key (byte offset 38), found a second one",
    );
    for (of, count, bytes, text) in [
        (
            4,
            1 << 63,
            16,
            "an array of at most 4 u32 up to the end of the file at byte offset 37, found 9223372036854775808",
        ),
        (10, u64::MAX, 16, "an array of at most 2 u64"),
        (8, 3, 16, "an array of at most 2 string"),
        (9, 2, 16, "an array of at most 1 array"),
        (99, 1, 16, "a value type from 0 to 12 at byte offset 37, found 99"),
        (0, 17, 16, "an array of at most 16 u8"),
    ] {
        refuse(keyed(Value::array(of, count, &vec![0; bytes])), format, text);
    }
    refuse(keyed(Value::array(7, 3, &[0, 1, 3])), format, "a bool of 0 or 1 at byte offset 51, found 3");
    refuse(keyed(Value::array(8, 2, &[string(b"ok"), string(b"\xfe")].concat())), format, "UTF-8 text");
    // Each level takes 12 bytes: without a limit this would be a recursion of a million calls.
    let mut deep = Vec::new();
    (0..1_000_000).for_each(|_| deep.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()));
    refuse(keyed(Value::new(9, deep)), format, "arrays nested at most 8 deep");
    for alignment in [0, 3, 48, 1 << 25, u32::MAX] {
        let file = GgufFile::default().key("general.alignment", Value::u32(alignment)).to_bytes();
        refuse(
            file,
            Kind::Config,
            &format!("field general.alignment: expected a power of two up to 16777216, found {alignment}"),
        );
    }
    let text = GgufFile::default().key("general.alignment", Value::str("32")).to_bytes();
    refuse(text, Kind::Config, "field general.alignment: expected an integer");
}

#[test]
fn tables_that_lie() {
    let format = Kind::Format;
    let one = |extents: &[u64], kind, offset, data| table(&[entry("t", extents, kind, offset)], data);
    open(one(&[4], 0, 0, 16)).unwrap();
    refuse(
        one(&[4], 0, 0, 15),
        format,
        "tensor t: expected 16 bytes of F32 [4] at offset 0 of the data, which begins at byte offset",
    );
    refuse(one(&[4], 0, 32, 16), format, "at offset 32 of the data");
    refuse(one(&[4], 0, 1 << 63, 16), format, "found 0 bytes");
    refuse(one(&[4], 0, u64::MAX - 31, 16), format, "tensor t: expected 16 bytes");
    refuse(one(&[4], 0, 8, 64), format, "tensor t: expected an offset that is a multiple of 32, found 8");
    refuse(one(&[1; 5], 0, 0, 16), format, "tensor t: expected at most 4 dimensions, found 5");
    refuse(
        one(&[1 << 32, 1 << 32], 0, 0, 16),
        format,
        "tensor t: expected a size that fits the address space for F32",
    );
    refuse(one(&[u64::MAX, 1], 1, 0, 16), format, "fits the address space");
    refuse(one(&[1 << 62, 1], 30, 0, 16), format, "tensor t: expected 9223372036854775808 bytes of BF16");
    refuse(one(&[4, 1 << 60, 1 << 60, 2], 0, 0, 16), format, "fits the address space");
    // Nothing in it, and yet too large for whoever multiplies from the other end.
    refuse(one(&[3, 0, 1 << 32, 1 << 45], 0, 0, 16), format, "fits the address space");
    for (kind, block, name) in
        [(2, 32, "Q4_0"), (8, 32, "Q8_0"), (14, 256, "Q6_K"), (34, 256, "TQ1_0"), (35, 256, "TQ2_0")]
    {
        let text = format!(
            "tensor t: expected rows of a multiple of {block} elements for {name}, found shape [{block}, {}]",
            block / 2
        );
        refuse(one(&[block / 2, block], kind, 0, 1 << 16), format, &text);
    }
    refuse(
        one(&[3, 3], 36, 0, 64),
        format,
        "expected rows of a multiple of 64 elements for I2_S, found shape [3, 3]",
    );
    // The scale behind the codes belongs to the tensor.
    refuse(one(&[128, 1], 36, 0, 63), format, "tensor t: expected 64 bytes of I2_S [1, 128]");
    assert_eq!(open(one(&[128, 1], 36, 0, 64)).unwrap().tensors()[0].range.len(), 64);
    let two = |second: Vec<u8>, data| table(&[entry("t", &[9], 0, 0), second], data);
    refuse(
        two(entry("u", &[4], 0, 32), 96),
        format,
        "tensor t: expected 36 bytes from offset 0 of the data to the next tensor, found 32: tensors overlap",
    );
    refuse(two(entry("u", &[4], 0, 0), 96), format, "tensors overlap");
    refuse(
        two(entry("t", &[4], 0, 64), 96),
        format,
        "tensor t: expected one entry of this name, found a second one",
    );
    refuse(two(entry("", &[4], 0, 64), 96), format, "expected a tensor name of 1 to 65535 bytes");
    refuse(
        two(entry("evil\n\u{1b}[2J", &[4], 0, 1), 96),
        format,
        r"tensor evil\n\u{1b}[2J: expected an offset",
    );
    let gap = open(two(entry("u", &[4], 0, 96), 112)).unwrap();
    assert_eq!(gap.tensors()[1].range.len(), 16);
}

#[test]
fn unknown_types_are_kept_and_known_ones_have_their_sizes() {
    let entries = [entry("a", &[7, 3], 39, 0), entry("b", &[4], 0, 64), entry("c", &[2], 4_000_000_000, 96)];
    let gguf = open(table(&entries, 101)).unwrap();
    let lengths: Vec<_> = gguf.tensors().iter().map(|t| (t.type_id, t.range.len())).collect();
    assert_eq!(lengths, [(TypeId(39), 64), (TypeId(0), 16), (TypeId(4_000_000_000), 5)]);
    assert_eq!((TypeId(39).to_string(), TypeId(39).known()), ("MXFP4 or TL2".into(), None));
    assert_eq!(gguf.bytes_of(&gguf.tensors()[2]).len(), 5);
    refuse(
        table(&[entry("a", &[7], 39, 0)], 0),
        Kind::Format,
        "tensor a: expected 1 bytes of MXFP4 or TL2 [7]",
    );
}

#[test]
fn another_alignment_moves_the_data() {
    let mut file = GgufFile { alignment: 4096, ..GgufFile::default() };
    file = file.key("general.alignment", Value::u32(4096));
    file = file.with("a", &[3], 0, vec![1; 12]).with("b", &[4], 24, vec![9; 4]);
    let gguf = open(file.to_bytes()).unwrap();
    let starts: Vec<_> = gguf.tensors().iter().map(|tensor| tensor.range.start).collect();
    assert_eq!(starts, [4096, 8192]);
    assert_eq!(gguf.bytes_of(&gguf.tensors()[1]), [9; 4]);
}

#[test]
fn every_truncation_of_a_file_is_refused_or_read_without_its_padding() {
    let mut file = GgufFile::default().key("a", Value::strs(&["x", "yz"])).key("b", Value::f32(2.0));
    file = file.with("t", &[3], 0, vec![1; 12]).with("u", &[32], 8, vec![2; 34]);
    let whole = file.to_bytes();
    for length in 0..whole.len() {
        let error = open(&whole[..length]).expect_err("a part").to_string();
        assert!(error.starts_with("m.gguf: ") && error.contains("found "), "{length}: {error}");
    }
    let vocabulary = GgufFile { tensors: Vec::new(), ..file };
    open(vocabulary.to_bytes()).unwrap();
}

#[test]
fn files_that_cannot_be_opened() {
    let dir = TempDir::new("gguf-open");
    let error = Gguf::open(&dir.path().join("none.gguf"), WeightAccess::Auto).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    let error = Gguf::open(dir.path(), WeightAccess::Auto).unwrap_err();
    assert!(error.to_string().contains("expected a file, found a folder"), "{error}");
    let empty = dir.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    assert_eq!(Gguf::open(&empty, WeightAccess::Copy).unwrap_err().kind(), Kind::Format);
}
