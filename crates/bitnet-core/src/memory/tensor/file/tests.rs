use std::path::PathBuf;

use bitnet_backend::{BitNetDType, Device};
use bitnet_testing::temp::TempDir;
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::memory::tensor::{BitNetTensor, Layout, TensorMetadata};
use crate::memory::{HybridMemoryPool, PoolBuffer};

fn pool() -> HybridMemoryPool {
    HybridMemoryPool::new().unwrap()
}

fn image(bytes: &[u8], pool: &HybridMemoryPool) -> std::sync::Arc<PoolBuffer<u8>> {
    let mut buffer = PoolBuffer::zeroed(pool, bytes.len(), &Device::Cpu, "image").unwrap();
    buffer.copy_from_slice(bytes);
    std::sync::Arc::new(buffer)
}

fn examples(pool: &HybridMemoryPool) -> Vec<(&'static str, BitNetTensor)> {
    let device = Device::Cpu;
    let matrix =
        BitNetTensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &device, pool).unwrap();
    let transposed = BitNetTensor::from_memory(
        TensorMetadata::with_layout(Layout::strided(vec![3, 2], vec![1, 3], 0), BitNetDType::F32, device),
        matrix.memory().clone(),
    );
    let halves = [1.5, -2.25, 0.0].map(f16::from_f32);
    let codes = BitNetTensor::from_slice(&[-1i8, 0, 1], &[3], &device, pool).unwrap();
    let scaled = codes.metadata().clone().with_scale(Some(0.1)).unwrap();
    vec![
        ("scaled", BitNetTensor::from_memory(scaled, codes.memory().clone()).unwrap()),
        ("byte", BitNetTensor::from_slice(&[7u8, 9, 11], &[3], &device, pool).unwrap()),
        ("matrix", matrix),
        ("transposed", transposed.unwrap()),
        ("halves", BitNetTensor::from_slice(&halves, &[3, 1], &device, pool).unwrap()),
        ("scalar", BitNetTensor::from_slice(&[0x0102_0304_0506_0708u64], &[], &device, pool).unwrap()),
        ("empty", BitNetTensor::zeros(&[0, 4], BitNetDType::F64, &device, pool).unwrap()),
        ("ternary", BitNetTensor::ones(&[3, 3], BitNetDType::BitNet158, &device, pool).unwrap()),
        ("base3", BitNetTensor::ones(&[2, 6], BitNetDType::TernaryBase3, &device, pool).unwrap()),
        ("nibbles", BitNetTensor::ones(&[5], BitNetDType::I4, &device, pool).unwrap()),
        ("flag", BitNetTensor::ones(&[2], BitNetDType::Bool, &device, pool).unwrap()),
    ]
}

fn named<'a>(tensors: &'a [(&'static str, BitNetTensor)]) -> Vec<(&'a str, &'a BitNetTensor)> {
    tensors.iter().map(|(name, tensor)| (*name, tensor)).collect()
}

fn check(name: &str, tensor: &BitNetTensor, expected: &BitNetTensor) {
    assert_eq!((tensor.dtype(), tensor.shape()), (expected.dtype(), expected.shape()), "{name}");
    assert_eq!(tensor.scale(), expected.scale(), "{name}");
    assert!(tensor.is_contiguous());
    match name {
        "transposed" => assert_eq!(tensor.as_slice::<f32>().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
        _ => assert_eq!(tensor.as_bytes().unwrap(), expected.as_bytes().unwrap(), "{name}"),
    }
}

#[test]
fn tensors_of_all_kinds_come_back() {
    let pool = pool();
    let tensors = examples(&pool);
    let dir = TempDir::new("tensor-file");
    let path = dir.path().join("a.safetensors");
    save(&path, &named(&tensors)).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let loaded = load(&path, &pool).unwrap();
    assert_eq!(loaded.len(), tensors.len());
    for (name, expected) in &tensors {
        check(name, &loaded[*name], expected);
    }
    assert_eq!(std::fs::read(&path).unwrap(), to_bytes(&named(&tensors)).unwrap());
}

#[test]
#[cfg(target_endian = "little")]
fn tensors_are_used_where_they_lie() {
    let pool = pool();
    let tensors = examples(&pool);
    let memory = image(&to_bytes(&named(&tensors)).unwrap(), &pool);
    let file = TensorFile::parse(memory, "image").unwrap();
    assert!(file.names().is_sorted() && file.names().len() == tensors.len());
    assert_eq!(file.metadata().len(), 1);
    let before = pool.get_metrics().allocation_count;
    for (name, expected) in &tensors {
        check(name, &file.tensor(name).unwrap(), expected);
    }
    assert_eq!(pool.get_metrics().allocation_count, before);
    let error = file.tensor("absent").unwrap_err().to_string();
    assert_eq!(error, "image: tensor name: expected one of 11 tensors, found \"absent\"");
    // Writing to one leaves the image alone.
    let mut matrix = file.tensor("matrix").unwrap();
    matrix.as_mut_slice::<f32>().unwrap()[0] = 9.0;
    assert_eq!(file.tensor("matrix").unwrap().as_slice::<f32>().unwrap()[0], 1.0);
}

#[test]
fn files_are_little_endian_and_other_readers_understand_them() {
    let pool = pool();
    let tensors = examples(&pool);
    let bytes = to_bytes(&named(&tensors)).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.tensor("scalar").unwrap().data(), [8, 7, 6, 5, 4, 3, 2, 1]);
    let transposed = read.tensor("transposed").unwrap();
    assert_eq!((transposed.shape(), &transposed.data()[4..8]), (&[3, 2][..], &4.0f32.to_le_bytes()[..]));
    let packed = read.tensor("base3").unwrap();
    assert_eq!((packed.dtype(), packed.shape()), (safetensors::Dtype::U8, &[3][..]));
}

#[test]
#[cfg(target_endian = "little")]
fn files_of_other_writers_are_read() {
    let values: Vec<u8> = [3i32, -4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I32, vec![2], &values).unwrap();
    let odd =
        safetensors::tensor::TensorView::new(safetensors::Dtype::F8_E4M3, vec![3], &values[..3]).unwrap();
    let bytes = safetensors::serialize([("x", view), ("f8", odd)], None).unwrap();
    let pool = pool();
    let file = TensorFile::parse(image(&bytes, &pool), "image").unwrap();
    assert_eq!(file.tensor("x").unwrap().as_slice::<i32>().unwrap(), [3, -4]);
    let error = file.tensor("f8").unwrap_err().to_string();
    assert!(error.ends_with("BOOL, found F8_E4M3"), "{error}");
}

#[test]
fn what_cannot_be_written_leaves_no_file() {
    let pool = pool();
    let one = BitNetTensor::ones(&[2], BitNetDType::F32, &Device::Cpu, &pool).unwrap();
    let dir = TempDir::new("tensor-file-refused");
    let path = dir.path().join("a.safetensors");
    let error = save(&path, &[("x", &one), ("x", &one)]).unwrap_err().to_string();
    assert!(
        error.ends_with("tensor x: expected a name that no other entry has, found one that is taken"),
        "{error}"
    );
    assert!(save(&path, &[("__metadata__", &one)]).is_err());
    let spec = [TensorSpec::new("x", BitNetDType::F32, &[2])];
    let mut writer = TensorWriter::create(&path, &spec).unwrap();
    assert!(writer.write(&[0; 9]).is_err());
    writer.write(&[0; 7]).unwrap();
    assert!(writer.commit().is_err());
    let huge = [TensorSpec::new("x", BitNetDType::F64, &[usize::MAX / 8])];
    assert!(TensorWriter::create(&path, &huge).is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn refusal(bytes: &[u8]) -> String {
    let pool = pool();
    let dir = TempDir::new("tensor-file-hostile");
    let path: PathBuf = dir.path().join("bad");
    std::fs::write(&path, bytes).unwrap();
    let mapped = TensorFile::parse(image(bytes, &pool), "bad").err().unwrap().to_string();
    let loaded = load(&path, &pool).err().unwrap().to_string();
    assert_eq!(loaded.strip_prefix(path.to_str().unwrap()), mapped.strip_prefix("bad"));
    assert!(!mapped.contains('\n'));
    mapped
}

fn with_header(json: &str, data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn hostile_files_are_refused_by_name() {
    let cases: [(&[u8], &str); 3] = [
        (&[1, 2], "bad: file: expected at least 8 bytes, found 2"),
        (&[255; 16], "bad: header length: expected at most 8 in 16 bytes, found 18446744073709551615"),
        (&[4, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255], "header: expected a valid safetensors header"),
    ];
    for (bytes, message) in cases {
        assert!(refusal(bytes).contains(message), "{}", refusal(bytes));
    }
    let entry = |offsets: &str| format!(r#""x":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    let cases = [
        (format!("{{{0},{0}}}", entry("[0,8]")), 8, "tensor x: expected one entry in the header, found two"),
        (format!("{{{}}}", entry("[0,8]")), 9, "expected 8 bytes of tensors, found 9 bytes"),
        (format!("{{{}}}", entry("[4,12]")), 12, "header"),
        (format!("{{{}}}", entry("[0,7]")), 7, "header"),
        (format!("{{{}}}", entry("[8,0]")), 8, "header"),
        (r#"{"x":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#.into(), 8, "header"),
        (r#"{"__metadata__":{"bitnet.packed.x":"bitnet158 [3]"}}"#.into(), 0, "a tensor of this name"),
        (r#"{"__metadata__":{"bitnet.scale.x":"1"}}"#.into(), 0, "a tensor of this name"),
        (
            format!(r#"{{"__metadata__":{{"bitnet.scale.x":"-inf"}},{}}}"#, entry("[0,8]")),
            8,
            "bitnet.scale.x",
        ),
    ];
    for (json, data, message) in cases {
        let found = refusal(&with_header(&json, data));
        assert!(found.contains(message), "{found}");
    }
    for value in
        ["bitnet158 [9]", "f32 [2]", "bitnet158", "bitnet158 [-1]", "bitnet158 [18446744073709551615, 9]"]
    {
        let json = format!(
            r#"{{"__metadata__":{{"bitnet.packed.x":"{value}"}},"x":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#
        );
        let found = refusal(&with_header(&json, 2));
        assert!(found.contains("metadata bitnet.packed.x: expected a"), "{found}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn elements_that_are_not_aligned_are_loaded_and_not_viewed() {
    let json = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(!json.len().is_multiple_of(4));
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &2.5f32.to_le_bytes()].concat();
    let pool = pool();
    let error = TensorFile::parse(image(&bytes, &pool), "odd").unwrap().tensor("x").unwrap_err().to_string();
    assert!(error.starts_with("odd: first byte of tensor x: expected a multiple of 4"), "{error}");
    let dir = TempDir::new("tensor-file-odd");
    std::fs::write(dir.path().join("odd"), &bytes).unwrap();
    assert_eq!(load(&dir.path().join("odd"), &pool).unwrap()["x"].as_slice::<f32>().unwrap(), [2.5]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 64 }, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_strided_view_is_written_as_what_it_shows(
        shape in prop::collection::vec(1usize..5, 0..4),
        flips in prop::collection::vec(any::<bool>(), 4),
        swap in any::<bool>(),
    ) {
        let pool = pool();
        let count: usize = shape.iter().product();
        let values: Vec<i16> = (0..count as i16).collect();
        let base = BitNetTensor::from_slice(&values, &shape, &Device::Cpu, &pool).unwrap();
        let (mut dims, mut strides) = (shape.clone(), base.layout().strides().to_vec());
        let mut offset = 0isize;
        for (dim, stride) in strides.iter_mut().enumerate() {
            if flips[dim] {
                offset += *stride * (dims[dim] as isize - 1);
                *stride = -*stride;
            }
        }
        if swap {
            dims.reverse();
            strides.reverse();
        }
        let layout = Layout::strided(dims.clone(), strides.clone(), offset as usize);
        let view = BitNetTensor::from_memory(
            TensorMetadata::with_layout(layout, BitNetDType::I16, Device::Cpu), base.memory().clone(),
        ).unwrap();
        let mut expected = Vec::new();
        for linear in 0..count {
            let (mut rest, mut at) = (linear, offset);
            for dim in (0..dims.len()).rev() {
                at += strides[dim] * (rest % dims[dim]) as isize;
                rest /= dims[dim];
            }
            expected.extend(values[at as usize].to_le_bytes());
        }
        let bytes = to_bytes(&[("v", &view)]).unwrap();
        prop_assert_eq!(&bytes[bytes.len() - 2 * count..], &expected[..]);
    }
}
