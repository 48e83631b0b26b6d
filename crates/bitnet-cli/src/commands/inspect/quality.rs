//! What quantising the master weights of a model loses, tensor by tensor.

use anyhow::{Context, Result};
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_inference::model::{Checkpoint, StoredDType};
use bitnet_quant::FloatMatrix;
use bitnet_quant::quality::LayerReport;
use bitnet_quant::scheme::{Granularity, QuantOptions, Scheme};
use serde::Serialize;

/// Errors of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// Signal to quantisation noise of the weights, in decibels; none where nothing is lost.
    pub sqnr_db: Option<f64>,
    /// Cosine between the weights and what they become.
    pub cosine: f64,
    /// Expected squared error of the outputs over their square, for equal independent inputs.
    pub output_error: f64,
}

impl Quality {
    /// Measures a tensor that is stored in floats and kept as ternary codes; `None` for any other.
    pub fn of(checkpoint: &Checkpoint, name: &str) -> Result<Option<Quality>> {
        let Some(tensor) = checkpoint.get(name) else { return Ok(None) };
        let (
            StoredDType::Known(dtype @ (BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16)),
            &[rows, cols],
        ) = (&tensor.dtype, &tensor.shape[..])
        else {
            return Ok(None);
        };
        let place = || format!("{}: tensor {name}", checkpoint.file_of(tensor).display());
        let matrix = FloatMatrix::new(*dtype, &tensor.bytes, rows, cols).with_context(place)?;
        let options = QuantOptions::new(Scheme::Ternary, Granularity::PerTensor);
        let report = LayerReport::measure(name, &matrix, &options, None).with_context(place)?;
        Ok(Some(Quality {
            sqnr_db: Some(report.weights.sqnr_db).filter(|sqnr| sqnr.is_finite()),
            cosine: report.weights.cosine,
            output_error: report.sensitivity,
        }))
    }

    /// Writes the errors.
    pub fn describe(&self) -> String {
        match self.sqnr_db {
            Some(sqnr) => {
                format!("SQNR {sqnr:.2} dB, cosine {:.4}, output error {:.4}", self.cosine, self.output_error)
            }
            None => "nothing lost".into(),
        }
    }
}
