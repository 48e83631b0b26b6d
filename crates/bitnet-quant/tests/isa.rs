//! A forced instruction set that is not there is an error of everything that would use it.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::process::Command;

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_kernels::IsaError;
use bitnet_quant::ggml::{self, GgmlError, GgmlType};
use bitnet_quant::packing::candidates;
use bitnet_quant::prelude::*;
use bitnet_quant::scheme::quantize;
use bitnet_quant::ternary;

const MISSING: &str = "avx9";

/// Runs itself in a process of its own, since the variable is read once.
#[test]
fn a_missing_instruction_set_is_an_error_everywhere() {
    if std::env::var("BITNET_ISA").is_ok_and(|name| name == MISSING) {
        return everything_refuses();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_missing_instruction_set_is_an_error_everywhere"])
        .env("BITNET_ISA", MISSING)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn everything_refuses() {
    fn is(error: &IsaError) -> bool {
        matches!(error, IsaError::Unknown { name, .. } if name == MISSING)
    }
    fn quant<T>(result: Result<T, QuantError>) -> bool {
        match result {
            Err(QuantError::Isa(error) | QuantError::Pack(PackError::Isa(error))) => is(&error),
            _ => false,
        }
    }
    fn packing<T>(result: Result<T, PackError>) -> bool {
        matches!(result, Err(PackError::Isa(error)) if is(&error))
    }
    let bytes: Vec<u8> = [0.5f32, -0.25, 0.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let matrix = FloatMatrix::new(BitNetDType::F32, &bytes, 2, 2).unwrap();
    assert!(quant(absmean::quantize(&matrix)));
    for scheme in [Scheme::Ternary, Scheme::Sign, Scheme::Int8(Symmetry::Symmetric), Scheme::Bf16] {
        for granularity in [Granularity::PerTensor, Granularity::PerChannel, Granularity::PerGroup(2)] {
            assert!(quant(quantize(&matrix, &QuantOptions::new(scheme, granularity))), "{scheme:?}");
        }
    }
    assert!(quant(Observer::new(Calibration::MinMax)));
    assert!(quant(ternary::pack_bytes(&[0, 1, 255, 0], 2, 2)));
    assert!(quant(BitLinear::from_row_quarters(vec![0; 2], WeightScale::Multiply(1.0), 4, 2)));
    let config = TernaryPackingConfig::default();
    for strategy in TernaryPackingStrategy::ALL {
        let packer = TernaryPackerFactory::create_packer(strategy);
        assert!(packing(packer.pack(&[0, 1], &config)) && !packer.is_suitable(&[0, 1], &config));
    }
    assert!(packing(candidates(&[0, 1], &config)));
    let stored = [&b"BTP1"[..], &[0; 4], &2u64.to_le_bytes(), &2u64.to_le_bytes(), &[0, 1]].concat();
    assert!(packing(TernaryPackedWeights::from_bytes(&stored)));
    for ty in [GgmlType::F16, GgmlType::BF16] {
        assert!(
            matches!(ggml::dequantize(ty, &[0; 4], &mut [0.0; 2]), Err(GgmlError::Isa(error)) if is(&error))
        );
        assert!(
            matches!(ggml::quantize(ty, &[0.0; 2], &mut [0; 4]), Err(GgmlError::Isa(error)) if is(&error))
        );
    }
    let capabilities = SimdUnpacker::new().capabilities();
    assert_eq!((capabilities.tier, capabilities.non_temporal_stores), (None, false));
    assert!(capabilities.to_string().starts_with("none, "), "{capabilities}");
    assert!(SimdUnpacker::try_new().is_err());
}
