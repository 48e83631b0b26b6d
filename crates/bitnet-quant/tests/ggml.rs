//! Codecs of GGUF tensor types against the golden blocks, and as properties.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bitnet_quant::ggml::{
    GgmlError, GgmlType, I2sLayout, TernaryRows, TernaryTensor, dequantize, dequantize_i2_s, quantize,
};
use bitnet_quant::packing::row_quarters;
use bitnet_testing::golden::golden_dir;
use bitnet_testing::rng::Rng;
use bitnet_testing::safetensors::SafeTensors;

fn units() -> SafeTensors {
    SafeTensors::read(&golden_dir("units").join("ggml_blocks.safetensors"))
}

fn decode(ty: GgmlType, bytes: &[u8], elements: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; elements];
    dequantize(ty, bytes, &mut out).unwrap();
    out
}

fn encode(ty: GgmlType, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0xaa; ty.row_bytes(values.len()).unwrap()];
    quantize(ty, values, &mut out).unwrap();
    out
}

#[test]
fn every_block_type_decodes_to_the_reference_values() {
    let file = units();
    let names = [
        "BF16", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0", "TQ1_0",
        "TQ2_0",
    ];
    for name in names {
        let ty = GgmlType::all().find(|ty| ty.name() == name).unwrap();
        let expected = file.f32s(&format!("{name}.deq"));
        assert_eq!(decode(ty, &file.u8s(&format!("{name}.raw")), expected.len()), expected, "{name}");
    }
    for name in ["TQ1_0", "TQ2_0"] {
        let ty = GgmlType::all().find(|ty| ty.name() == name).unwrap();
        let expected = file.f32s(&format!("{name}.dense_deq"));
        assert_eq!(decode(ty, &file.u8s(&format!("{name}.dense_raw")), expected.len()), expected, "{name}");
    }
}

#[test]
fn encoders_write_the_bytes_of_the_reference() {
    let file = units();
    let (dense, ternary) = (file.f32s("dense_f32"), file.f32s("ternary_f32"));
    for (ty, name) in [(GgmlType::TQ1_0, "TQ1_0"), (GgmlType::TQ2_0, "TQ2_0")] {
        assert_eq!(encode(ty, &ternary), file.u8s(&format!("{name}.raw")), "{name}");
        assert_eq!(encode(ty, &dense), file.u8s(&format!("{name}.dense_raw")), "{name}");
    }
    for (ty, name) in [(GgmlType::Q8_0, "Q8_0"), (GgmlType::BF16, "BF16")] {
        let raw = file.u8s(&format!("{name}.raw"));
        assert!([&dense, &ternary].iter().any(|values| encode(ty, values) == raw), "{name}");
    }
}

#[test]
fn i2_s_is_bit_equal_both_ways_in_both_orders() {
    let file = units();
    let (values, scale) = (file.i8s("I2_S.ternary"), file.f32s("I2_S.scale")[0]);
    let expected: Vec<f32> = values.iter().map(|&v| f32::from(v) * scale).collect();
    let mut packed = vec![0; row_quarters::packed_len(4, 512).unwrap()];
    row_quarters::pack(&values, 4, 512, &mut packed);
    for (layout, name) in [(I2sLayout::X86, "I2_S.x86.raw"), (I2sLayout::Arm, "I2_S.arm.raw")] {
        let raw = file.u8s(name);
        let mut out = vec![f32::NAN; values.len()];
        dequantize_i2_s(layout, &raw, &mut out).unwrap();
        assert_eq!(out, expected, "{name}");
        let tensor = TernaryTensor::new(GgmlType::I2_S, layout, &raw, 4, 512).unwrap();
        assert_eq!(tensor.pack().unwrap(), packed, "{name}");
        assert_eq!(tensor.scale().unwrap(), Some(scale));
    }
    let raw = file.u8s("I2_S.x86.raw");
    assert_eq!(encode_packed(GgmlType::I2_S, &packed, 4, 512, scale)[..516], raw[..516]);
}

fn encode_packed(ty: GgmlType, packed: &[u8], rows: usize, cols: usize, scale: f32) -> Vec<u8> {
    let encoder = TernaryRows::new(ty, packed, rows, cols, scale).unwrap();
    let mut out = vec![0; rows * encoder.row_bytes()];
    for (row, out) in out.chunks_exact_mut(encoder.row_bytes()).enumerate() {
        encoder.encode_row(row, out);
    }
    out.extend(encoder.tail());
    assert_eq!(out.len(), ty.tensor_bytes(rows, cols).unwrap());
    out
}

#[test]
fn packed_codes_travel_through_every_ternary_type() {
    let mut rng = Rng::new(5);
    // Rows that are no multiple of 4 leave quarters unequal; enough elements for several threads.
    for (rows, cols) in [(1, 256), (5, 512), (7, 256), (64, 1280), (130, 768)] {
        let values = rng.ternary_vec(rows * cols, 0.4);
        let mut packed = vec![0; row_quarters::packed_len(rows, cols).unwrap()];
        row_quarters::pack(&values, rows, cols, &mut packed);
        for ty in [GgmlType::TQ1_0, GgmlType::TQ2_0, GgmlType::I2_S] {
            let bytes = encode_packed(ty, &packed, rows, cols, 0.0625);
            let tensor = TernaryTensor::new(ty, I2sLayout::X86, &bytes, rows, cols).unwrap();
            assert_eq!(tensor.pack().unwrap(), packed, "{ty} {rows} x {cols}");
            assert_eq!(tensor.scale().unwrap(), Some(0.0625), "{ty}");
            let decoded = decode(ty, &bytes, rows * cols);
            assert!(decoded.iter().zip(&values).all(|(d, &v)| *d == f32::from(v) * 0.0625), "{ty}");
            // Turned upside down by the caller's order of rows.
            let turned = tensor.pack_rows(|row| rows - 1 - row).unwrap();
            let mut found = vec![0; rows * cols];
            row_quarters::unpack(&turned, rows, cols, &mut found);
            assert!(found.chunks(cols).eq(values.chunks(cols).rev()), "{ty}");
        }
    }
}

#[test]
fn halves_and_floats_are_exact_where_the_format_is() {
    let values: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) * 0.25).collect();
    for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16] {
        assert_eq!(decode(ty, &encode(ty, &values), values.len()), values, "{ty}");
    }
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(decode(GgmlType::I8, &bytes, 256)[129], -127.0);
    assert_eq!(decode(GgmlType::I32, &(-70_000i32).to_le_bytes(), 1), [-70_000.0]);
}

#[test]
fn q6_k_and_q8_0_stay_close_on_every_scale() {
    let mut rng = Rng::new(9);
    for scale in [1e-3f32, 1.0, 50.0] {
        let values: Vec<f32> = rng.normal_vec(256 * 8, scale);
        for (ty, bound) in [(GgmlType::Q6_K, 0.02), (GgmlType::Q8_0, 0.006)] {
            let decoded = decode(ty, &encode(ty, &values), values.len());
            let error: f32 = decoded.iter().zip(&values).map(|(d, v)| (d - v) * (d - v)).sum();
            let norm: f32 = values.iter().map(|v| v * v).sum();
            assert!((error / norm).sqrt() < bound, "{ty} {scale}: {}", (error / norm).sqrt());
        }
    }
    for values in [vec![0.0; 256], vec![1e-30; 256], vec![-3.0; 256]] {
        let decoded = decode(GgmlType::Q6_K, &encode(GgmlType::Q6_K, &values), 256);
        let close = |(d, v): (&f32, &f32)| (d - v).abs() <= 1e-2 * v.abs() + 1e-7;
        assert!(decoded.iter().zip(&values).all(close), "{:?}", &decoded[..4]);
    }
}

#[test]
fn scales_that_differ_are_told_apart_from_blocks_of_zeros() {
    let mut values = vec![0.5f32; 4 * 256];
    values[256..512].fill(0.0);
    let bytes = encode(GgmlType::TQ2_0, &values);
    let tensor = |bytes| TernaryTensor::new(GgmlType::TQ2_0, I2sLayout::X86, bytes, 2, 512).unwrap();
    assert_eq!(tensor(&bytes).scale(), Ok(Some(0.5)));
    assert_eq!(tensor(&bytes).block_scales().collect::<Vec<_>>(), [0.5, 0.0, 0.5, 0.5]);
    values[700] = -2.0;
    let bytes = encode(GgmlType::TQ2_0, &values);
    let expected = GgmlError::Scales { row: 1, block: 0, expected: 0.5, found: 2.0 };
    assert_eq!(tensor(&bytes).scale(), Err(expected));
    let zeros = encode(GgmlType::TQ2_0, &[0.0; 1024]);
    assert_eq!(tensor(&zeros).scale(), Ok(None));
    let mut lying = zeros.clone();
    lying[70] = 0;
    assert_eq!(tensor(&lying).scale(), Err(GgmlError::Scale { row: 0, block: 1, found: 0.0 }));
}

#[test]
fn bad_shapes_types_and_codes_are_errors() {
    use GgmlType::*;
    assert_eq!(
        dequantize(Q6_K, &[0; 210], &mut [0.0; 255]),
        Err(GgmlError::Elements { ty: Q6_K, block: 256, found: 255 })
    );
    let bytes = GgmlError::Bytes { ty: Q4_0, elements: 32, expected: 18, found: 17 };
    assert_eq!(dequantize(Q4_0, &[0; 17], &mut [0.0; 32]), Err(bytes));
    assert!(matches!(quantize(Q4_K, &[0.0; 256], &mut [0; 144]), Err(GgmlError::Type { .. })));
    assert!(matches!(quantize(F16, &[0.0; 2], &mut [0; 5]), Err(GgmlError::Bytes { .. })));
    assert!(matches!(TernaryTensor::new(F16, I2sLayout::X86, &[], 0, 0), Err(GgmlError::Type { .. })));
    let x86 = TernaryTensor::new(I2_S, I2sLayout::X86, &[0; 48], 1, 64);
    assert_eq!(x86.err(), Some(GgmlError::Elements { ty: I2_S, block: 128, found: 64 }));
    assert!(TernaryTensor::new(I2_S, I2sLayout::Arm, &[0; 48], 1, 64).is_ok());
    assert!(TernaryTensor::new(I2_S, I2sLayout::X86, &[0; 64], usize::MAX, 128).is_err());
    let mut bytes = vec![0; I2_S.tensor_bytes(8, 128).unwrap()];
    bytes[3 * 32 + 5] = 0b1100_0000;
    bytes[256..260].copy_from_slice(&1f32.to_le_bytes());
    let tensor = TernaryTensor::new(I2_S, I2sLayout::X86, &bytes, 8, 128).unwrap();
    assert_eq!(tensor.pack(), Err(GgmlError::Code { row: 3 }));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-12, 1e6] {
        assert!(TernaryRows::new(TQ1_0, &[0x55; 256], 4, 256, scale).is_err(), "{scale}");
    }
}
