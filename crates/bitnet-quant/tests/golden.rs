//! Quantisation against the golden unit vectors.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_quant::{FloatMatrix, absmean, packing::row_quarters, ternary};
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::SafeTensors;

fn units(name: &str) -> SafeTensors {
    SafeTensors::read(&golden_dir("units").join(name))
}

#[test]
fn absmean_equals_the_reference_exactly() {
    let file = units("bitlinear.safetensors");
    let master = file.get("w_master");
    let [rows, cols] = master.shape[..] else { panic!("a matrix") };
    let matrix = FloatMatrix::new(BitNetDType::F32, &master.bytes, rows, cols).unwrap();
    let quantised = absmean::quantize(&matrix).unwrap();
    assert_eq!(quantised.packed, file.u8s("w_packed_u8"));
    assert_eq!([quantised.mean_abs], file.f32s("w_mean_abs")[..]);
    assert_eq!([1.0 / quantised.mean_abs], file.f32s("w_inv_mean_abs")[..]);
    let WeightScale::Multiply(scale) = quantised.scale else { panic!("a multiplying scale") };
    let mut codes = vec![0i8; rows * cols];
    row_quarters::unpack(&quantised.packed, rows, cols, &mut codes);
    assert_eq!(codes, file.i8s("w_ternary"));
    let dequantised: Vec<f32> = codes.iter().map(|&code| f32::from(code) * scale).collect();
    assert_eq!(dequantised, file.f32s("w_dequant_online_f32"));
}

#[test]
fn packing_equals_the_reference_exactly() {
    let file = units("hf_pack.safetensors");
    for case in 0..4 {
        let values = file.get(&format!("t{case}"));
        let [rows, cols] = values.shape[..] else { panic!("a matrix") };
        let packed = ternary::pack_bytes(&values.bytes, rows, cols).unwrap();
        assert_eq!(packed, file.u8s(&format!("p{case}")), "case {case}");
        let floats: Vec<u8> = values.bytes.iter().flat_map(|&v| f32::from(v as i8).to_le_bytes()).collect();
        let matrix = FloatMatrix::new(BitNetDType::F32, &floats, rows, cols).unwrap();
        assert_eq!(ternary::pack_floats(&matrix).unwrap(), packed, "case {case}");
    }
}
