//! Chains of conversions.

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::config::{ConversionConfig, ConversionStrategy};
use super::engine::{ConversionEngine, done};
use super::fill::Job;
use super::scale::decide;
use super::source::{Converted, Source, of_tensor};
use super::statistics::Done;
use crate::memory::PoolBuffer;
use crate::memory::tensor::BitNetTensor;

/// Conversions of one chain at most: each takes some stack of the threads that run it.
const MAX_STAGES: usize = 32;

/// Conversions one after the other, each of the result of the one before.
///
/// Blocks of elements pass through all of them at once; a stage with a scale reads everything before it once more to
/// find that. The result is the same bits as that of separate conversions.
#[derive(Debug)]
pub struct ConversionPipeline<'e> {
    engine: &'e ConversionEngine,
    stages: Vec<(BitNetDType, ConversionConfig)>,
}

impl<'e> ConversionPipeline<'e> {
    pub(super) fn new(engine: &'e ConversionEngine) -> Self {
        ConversionPipeline { engine, stages: Vec::new() }
    }

    /// Adds a conversion by the engine's strategy.
    pub fn then(self, dtype: BitNetDType) -> Self {
        let strategy = self.engine.config.strategy;
        self.then_with(dtype, strategy)
    }

    /// Adds a conversion by a strategy of its own.
    pub fn then_with(mut self, dtype: BitNetDType, strategy: ConversionStrategy) -> Self {
        self.stages.push((dtype, self.engine.config.clone().with_strategy(strategy)));
        self
    }

    /// Converts a tensor; counts as one conversion.
    ///
    /// # Errors
    /// `Mismatch` for a chain of no or too many conversions; otherwise as [`ConversionEngine::convert`], for the first
    /// conversion that refuses.
    pub fn run(&self, tensor: &BitNetTensor) -> Result<BitNetTensor> {
        let engine = self.engine;
        engine.counted(|| {
            let source = of_tensor(tensor, engine.config.preserve_metadata)?;
            let Some((dtype, _)) = self.stages.last().filter(|_| self.stages.len() <= MAX_STAGES) else {
                let expected = format!("1 to {MAX_STAGES}");
                return Err(BitNetError::mismatch("conversions of a chain", expected, self.stages.len()));
            };
            let mut result = engine.room_for(tensor, *dtype)?;
            let (scale, done) = self.run_stages(&*source, &self.stages, &mut result)?;
            let done = Done { bytes_read: tensor.size_bytes(), ..done };
            Ok((engine.tensor_of(result, tensor, *dtype, scale)?, done))
        })
    }

    fn run_stages(
        &self,
        source: &dyn Source,
        stages: &[(BitNetDType, ConversionConfig)],
        out: &mut PoolBuffer<u8>,
    ) -> Result<(Option<f32>, Done)> {
        let Some(((dtype, config), later)) = stages.split_first() else {
            return Ok((source.scale(), Done::default()));
        };
        let kernels = self.engine.kernels;
        let (mut cast, scale) = decide(config, kernels, source, *dtype)?;
        if !later.is_empty() {
            let scale = scale.filter(|_| config.preserve_metadata);
            let next = Converted(Job { config, kernels, source, cast, scale });
            return self.run_stages(&next, later, out);
        }
        cast.past = out.len() >= config.past_caches_from;
        let errors = Job { config, kernels, source, cast, scale }.fill(out)?;
        Ok((scale, done(source, *dtype, errors)))
    }
}
