//! Quantisation schemes against their definitions.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod matrices;

use bitnet_core::backend::{BitNetDType, WeightScale};
use bitnet_quant::prelude::*;
use bitnet_quant::quality::by_sensitivity;
use bitnet_quant::scheme::{ErrorSums, quantize};
use bitnet_testing::golden::golden_dir;
use bitnet_testing::safetensors::SafeTensors;
use matrices::{bytes, weights, with_matrix};

const ROWS: usize = 9;
const COLS: usize = 301;

fn all_schemes() -> [Scheme; 8] {
    use Symmetry::{Asymmetric, Symmetric};
    [
        Scheme::Ternary,
        Scheme::Sign,
        Scheme::Int8(Symmetric),
        Scheme::Int8(Asymmetric),
        Scheme::Int4(Symmetric),
        Scheme::Int4(Asymmetric),
        Scheme::Fp16,
        Scheme::Bf16,
    ]
}

const GRANULARITIES: [Granularity; 4] = [
    Granularity::PerTensor,
    Granularity::PerChannel,
    Granularity::PerGroup(64),
    Granularity::PerGroup(usize::MAX),
];

#[test]
fn ternary_by_tensor_is_absmean_and_the_golden_reference() {
    let file = SafeTensors::read(&golden_dir("units").join("bitlinear.safetensors"));
    let options = QuantOptions::new(Scheme::Ternary, Granularity::PerTensor);
    let quantized = with_matrix(&file.f32s("w_master"), 256, |matrix| quantize(matrix, &options).unwrap());
    assert_eq!(simd_unpack_weights(quantized.ternary().unwrap()).unwrap(), file.i8s("w_ternary"));
    assert_eq!(quantized.dequantize().unwrap(), file.f32s("w_dequant_online_f32"));
}

#[test]
fn ternary_by_channel_is_absmean_of_every_row() {
    let values = weights(ROWS, COLS);
    let options = QuantOptions::new(Scheme::Ternary, Granularity::PerChannel);
    let quantized = with_matrix(&values, COLS, |matrix| quantize(matrix, &options).unwrap());
    let codes = simd_unpack_weights(quantized.ternary().unwrap()).unwrap();
    for (row, values) in values.chunks(COLS).enumerate() {
        let alone = with_matrix(values, COLS, |matrix| absmean::quantize(matrix).unwrap());
        let mut expected = vec![0; COLS];
        bitnet_quant::packing::row_quarters::unpack(&alone.packed, 1, COLS, &mut expected);
        assert_eq!(codes[row * COLS..][..COLS], expected, "row {row}");
        assert_eq!(WeightScale::Multiply(quantized.params()[row].scale()), alone.scale);
    }
}

/// Every scheme and granularity against its formula, evaluated anew in f64 for each part.
#[test]
fn every_value_is_the_nearest_of_its_part() {
    let values = weights(ROWS, COLS);
    for (scheme, granularity) in all_schemes().into_iter().flat_map(|s| GRANULARITIES.map(|g| (s, g))) {
        let options = QuantOptions::new(scheme, granularity);
        let found =
            with_matrix(&values, COLS, |matrix| quantize(matrix, &options).unwrap().dequantize().unwrap());
        let width = match granularity {
            Granularity::PerGroup(size) => size.min(COLS),
            _ => COLS,
        };
        let mut parts: Vec<&[f32]> = values.chunks(COLS).flat_map(|row| row.chunks(width)).collect();
        let mut found_parts: Vec<&[f32]> = found.chunks(COLS).flat_map(|row| row.chunks(width)).collect();
        if granularity == Granularity::PerTensor {
            (parts, found_parts) = (vec![&values[..]], vec![&found[..]]);
        }
        for (part, found) in parts.into_iter().zip(found_parts) {
            let mean = part.iter().map(|v| f64::from(v.abs())).sum::<f64>() / part.len() as f64;
            let (min, max) = part.iter().fold((0f32, 0f32), |(a, b), &v| (a.min(v), b.max(v)));
            let absmax = f64::from(max.max(-min));
            for (&x, &y) in part.iter().zip(found) {
                let (x64, y64) = (f64::from(x), f64::from(y));
                let near = |expected: f64, slack: f64| {
                    assert!(
                        (y64 - expected).abs() <= slack,
                        "{scheme:?} {granularity:?}: {x} gave {y}, expected {expected}"
                    );
                };
                match scheme {
                    Scheme::Ternary => near((x64 / mean).round().clamp(-1.0, 1.0) * mean, 1e-6 * mean),
                    Scheme::Sign => near(if x < 0.0 { -mean } else { mean }, 1e-6 * mean),
                    Scheme::Int8(Symmetry::Symmetric) => near(x64, absmax / 254.0 * 1.0001),
                    Scheme::Int4(Symmetry::Symmetric) => near(x64, absmax / 14.0 * 1.0001),
                    // The zero point is rounded too, so that the last step at an end may be clamped.
                    Scheme::Int8(_) => near(x64, f64::from(max - min) / 255.0 * 1.001),
                    Scheme::Int4(_) => near(x64, f64::from(max - min) / 15.0 * 1.001),
                    Scheme::Fp16 => assert_eq!(y, half::f16::from_f32(x).to_f32()),
                    _ => assert_eq!(y, half::bf16::from_f32(x).to_f32()),
                }
            }
        }
    }
}

#[test]
fn finer_parts_and_more_bits_lose_less_and_cost_more() {
    let values = weights(ROWS, COLS);
    let measure = |scheme, granularity| {
        with_matrix(&values, COLS, |matrix| {
            let quantized = quantize(matrix, &QuantOptions::new(scheme, granularity)).unwrap();
            (quantized.bits_per_weight(), quantized.error(matrix).unwrap())
        })
    };
    let coarse = measure(Scheme::Int4(Symmetry::Symmetric), Granularity::PerTensor);
    let fine = measure(Scheme::Int4(Symmetry::Symmetric), Granularity::PerGroup(32));
    assert!(fine.1.sqnr_db > coarse.1.sqnr_db + 3.0 && fine.0 > coarse.0, "{coarse:?} {fine:?}");
    let order = [
        Scheme::Ternary,
        Scheme::Int4(Symmetry::Asymmetric),
        Scheme::Int8(Symmetry::Asymmetric),
        Scheme::Fp16,
    ];
    let errors = order.map(|scheme| measure(scheme, Granularity::PerTensor));
    assert!(
        errors.windows(2).all(|pair| pair[0].1.mse > pair[1].1.mse && pair[0].0 < pair[1].0),
        "{errors:?}"
    );
    assert!(errors[3].1.cosine > 0.999_999 && (errors[3].0 - 16.0).abs() < 1e-12);
}

#[test]
fn asymmetric_codes_keep_zero_and_static_ranges_clip() {
    for bits in [Bits::Four, Bits::Eight] {
        let params = AffineParams::dynamic(&[0.3, 1.7, -0.05], bits, Symmetry::Asymmetric).unwrap();
        assert_eq!(params.dequantize(params.quantize(0.0)), 0.0);
        let clipped = params.dequantize(params.quantize(f32::MAX));
        assert!((clipped - 1.7).abs() <= params.scale(), "{clipped}");
    }
    let values = [0.5, -0.25, 8.0, 0.0];
    let options = QuantOptions::new(Scheme::Int8(Symmetry::Symmetric), Granularity::PerTensor);
    let fixed = options.with_range(ValueRange { min: -1.0, max: 1.0 });
    let found = with_matrix(&values, 4, |matrix| quantize(matrix, &fixed).unwrap().dequantize().unwrap());
    assert_eq!(found[2], 1.0);
    assert!((found[0] - 0.5).abs() < 0.004 && found[3] == 0.0);
    assert_eq!(AffineParams::dynamic(&[0.0; 3], Bits::Eight, Symmetry::Symmetric).unwrap().scale(), 1.0);
}

#[test]
fn metrics_are_their_definitions() {
    let mut sums = ErrorSums::default();
    sums.add(&[3.0, 0.0], &[3.0, 0.5]);
    sums.add(&[-4.0], &[-3.5]);
    let ErrorMetrics { mse, sqnr_db, cosine, max_abs } = sums.metrics();
    assert!((mse - 0.5 / 3.0).abs() < 1e-12 && max_abs == 0.5);
    assert!((sqnr_db - 10.0 * (25.0f64 / 0.5).log10()).abs() < 1e-12);
    assert!((cosine - 23.0 / (5.0 * (9.0 + 0.25 + 12.25f64).sqrt())).abs() < 1e-12);
    sums = ErrorSums::default();
    sums.add(&[1.0], &[1.0]);
    assert_eq!(sums.metrics().sqnr_db, f64::INFINITY);
}

#[test]
fn bad_weights_and_options_are_named() {
    for scheme in all_schemes() {
        for (bad, granularity) in [f32::NAN, f32::INFINITY].into_iter().zip(GRANULARITIES) {
            let mut values = weights(3, 5);
            values[7] = bad;
            let options = QuantOptions::new(scheme, granularity);
            let error = with_matrix(&values, 5, |matrix| quantize(matrix, &options).unwrap_err());
            assert!(error.to_string().contains("element [1, 2]"), "{scheme:?}: {error}");
        }
        let options = QuantOptions::new(scheme, Granularity::PerGroup(0));
        let error = with_matrix(&weights(3, 5), 5, |matrix| quantize(matrix, &options).unwrap_err());
        assert_eq!(error, QuantError::Group);
    }
    let options = QuantOptions::new(Scheme::Fp16, Granularity::PerTensor);
    let error = with_matrix(&[1.0, 1e6], 2, |matrix| quantize(matrix, &options).unwrap_err());
    assert!(error.to_string().contains("fits 16 bits"), "{error}");
}

#[test]
fn rows_and_destinations_that_do_not_fit_are_named() {
    let values = weights(3, 5);
    for options in all_schemes().map(|scheme| QuantOptions::new(scheme, Granularity::PerChannel)) {
        let quantized = with_matrix(&values, 5, |matrix| quantize(matrix, &options).unwrap());
        let row = |row, places: usize| quantized.dequantize_row(row, &mut vec![0.0; places]);
        assert_eq!(row(3, 5), Err(QuantError::Row { row: 3, rows: 3, cols: 5, found: 5 }));
        assert_eq!(row(usize::MAX, 5), Err(QuantError::Row { row: usize::MAX, rows: 3, cols: 5, found: 5 }));
        let narrow = row(2, 4).unwrap_err();
        assert_eq!(
            narrow.to_string(),
            "row 2 of 3 x 5: expected one that is there and 5 places, found 4 places"
        );
        assert!(row(2, 5).is_ok() && quantized.dequantize_into(&mut [0.0; 14]).is_err());
        // As many weights in another shape.
        let error = with_matrix(&values, 3, |matrix| quantized.error(matrix));
        assert_eq!(error.unwrap_err().to_string(), "shape: expected 3 x 5, found 5 x 3");
    }
}

#[test]
fn layers_are_ranked_by_what_their_outputs_lose() {
    let values = weights(ROWS, COLS);
    let mut quiet = ActivationStatistics::new(COLS);
    let mut loud = ActivationStatistics::new(COLS);
    // Feature 0 carries an outlier weight (element 0); loud tokens are large there.
    let token = |first: f32| (0..COLS).map(|i| if i == 0 { first } else { 0.5 }).collect::<Vec<f32>>();
    quiet.observe(&[token(0.5), token(0.5)].concat()).unwrap();
    loud.observe(&token(30.0)).unwrap();
    assert_eq!((quiet.tokens(), quiet.mean_squares()[3], loud.greatest()[0]), (2, 0.25, 30.0));
    let options = QuantOptions::new(Scheme::Ternary, Granularity::PerTensor);
    let report = |name, statistics| {
        with_matrix(&values, COLS, |matrix| LayerReport::measure(name, matrix, &options, statistics).unwrap())
    };
    let (plain, even, uneven) =
        (report("plain", None), report("even", Some(&quiet)), report("uneven", Some(&loud)));
    assert!((plain.sensitivity - even.sensitivity).abs() < 1e-12);
    let noise = 10f64.powf(-plain.weights.sqnr_db / 10.0);
    assert!((plain.sensitivity - noise).abs() < 1e-9, "{plain}");
    // The outlier at feature 0 loses most, so that tokens that are large there lose more.
    assert!(uneven.sensitivity > 1.5 * even.sensitivity, "{uneven} beside {even}");
    let ranked = by_sensitivity(vec![even.clone(), uneven, plain]);
    assert_eq!(ranked.iter().map(|report| &*report.name).collect::<Vec<_>>()[0], "uneven");
    let narrow = ActivationStatistics::new(4);
    assert!(
        with_matrix(&values, COLS, |matrix| LayerReport::measure("x", matrix, &options, Some(&narrow)))
            .is_err()
    );
    let unseen = ActivationStatistics::new(COLS);
    let error =
        with_matrix(&values, COLS, |matrix| LayerReport::measure("x", matrix, &options, Some(&unseen)));
    assert_eq!(error, Err(QuantError::NoTokens));
}

#[test]
fn sensitivity_is_the_error_that_tokens_see_over_what_they_see() {
    let mut seen = ActivationStatistics::new(2);
    seen.observe(&[1.0, -1.0, 7f32.sqrt(), 1.0]).unwrap();
    let options = QuantOptions::new(Scheme::Ternary, Granularity::PerTensor);
    let report = with_matrix(&[1.0, 0.5], 2, |matrix| {
        LayerReport::measure("pair", matrix, &options, Some(&seen)).unwrap()
    });
    // Both weights become 0.75; the features have mean squares of 4 and 1.
    let expected = (4.0 * 0.0625 + 0.0625) / (4.0 + 0.25);
    assert!((report.sensitivity - expected).abs() < 1e-6, "{report}");
}

#[test]
fn weights_at_an_odd_address_are_the_same_weights() {
    let values = weights(ROWS, COLS);
    let shifted = [vec![0], bytes(&values)].concat();
    // One of the two is no place for f32, wherever the memory begins.
    for options in all_schemes().map(|scheme| QuantOptions::new(scheme, Granularity::PerGroup(64))) {
        let odd = FloatMatrix::new(BitNetDType::F32, &shifted[1..], ROWS, COLS).unwrap();
        let even = with_matrix(&values, COLS, |matrix| quantize(matrix, &options).unwrap());
        assert_eq!(quantize(&odd, &options).unwrap(), even, "{options:?}");
    }
    let odd = FloatMatrix::new(BitNetDType::F32, &shifted[1..], ROWS, COLS).unwrap();
    assert_eq!(
        absmean::quantize(&odd).unwrap(),
        with_matrix(&values, COLS, |matrix| absmean::quantize(matrix).unwrap())
    );
}
