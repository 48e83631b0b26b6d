//! Chains of conversions.

use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_backend::{BitNetDType, BitNetError, Result};

use super::config::{ConversionConfig, ConversionStrategy};
use super::engine::{self, ConversionEngine};
use super::fill::Job;
use super::scale::decide;
use super::source::{Converted, Source, of_tensor};
use super::statistics::{Done, Stage};
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

    /// Converts a tensor: one conversion of the engine; each of the chain counts by its strategy.
    ///
    /// # Errors
    /// `Mismatch` for a chain of no or too many conversions; otherwise as [`ConversionEngine::convert`], for the first
    /// conversion that refuses.
    pub fn run(&self, tensor: &BitNetTensor) -> Result<BitNetTensor> {
        let engine = self.engine;
        let refused = AtomicUsize::new(usize::MAX);
        let convert = || {
            let source = of_tensor(tensor, engine.config.preserve_metadata)?;
            let Some((dtype, _)) = self.stages.last().filter(|_| self.stages.len() <= MAX_STAGES) else {
                let expected = format!("1 to {MAX_STAGES}");
                return Err(BitNetError::mismatch("conversions of a chain", expected, self.stages.len()));
            };
            let mut result = engine.room_for(tensor, *dtype)?;
            let mut done = Vec::with_capacity(self.stages.len());
            let scale = self.run_stages(&*source, 0, &mut result, &refused, &mut done)?;
            done.reverse();
            Ok((engine.tensor_of(result, tensor, *dtype, scale)?, done))
        };
        engine.counted_stages(convert, || {
            let refused = self.stages.get(refused.load(Ordering::Relaxed));
            refused.map_or(engine.config.strategy, |(_, config)| config.strategy)
        })
    }

    /// Runs the conversions from place `stage` on, and puts what they did to `done`, the last one first.
    fn run_stages(
        &self,
        source: &dyn Source,
        stage: usize,
        out: &mut PoolBuffer<u8>,
        refused: &AtomicUsize,
        done: &mut Vec<Stage>,
    ) -> Result<Option<f32>> {
        let refuse = |_: &BitNetError| {
            refused.fetch_min(stage, Ordering::Relaxed);
        };
        let (dtype, config) = &self.stages[stage];
        let kernels = self.engine.kernels;
        let (mut cast, scale) = decide(config, kernels, source, *dtype).inspect_err(refuse)?;
        let counted = |errors, extra_bytes| {
            (config.strategy, Done { extra_bytes, ..engine::done(source, *dtype, errors) })
        };
        if stage + 1 == self.stages.len() {
            cast.past = out.len() >= config.past_caches_from;
            let errors = Job { config, kernels, source, cast, scale }.fill(out).inspect_err(refuse)?;
            done.push(counted(errors, out.len()));
            return Ok(scale);
        }
        let scale = scale.filter(|_| config.preserve_metadata);
        let next = Converted::new(Job { config, kernels, source, cast, scale }, stage, refused)?;
        let last = self.run_stages(&next, stage + 1, out, refused, done)?;
        done.push(counted(next.errors(), 0));
        Ok(last)
    }
}
