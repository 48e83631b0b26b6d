//! `--verify`: both models on the same tokens.
//!
//! The two are loaded one after the other; only logits of the first are kept meanwhile.

use anyhow::{Context, Result, anyhow};
use bitnet_core::backend::Device;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::tensor::{BitNetDType, BitNetTensor};
use bitnet_inference::Engine;
use bitnet_inference::model::{I2sLayout, ModelFiles, ModelSource};
use bitnet_inference::score::nll;
use serde::Serialize;

use crate::args::ConversionArgs;
use crate::input;

/// What both models read when no text is given.
const TEXT: &str = "Once upon a time there was a miller who had three sons. When he died, the eldest took the mill, \
    the second took the donkey, and nothing was left for the youngest but the cat. \"What am I to do with a cat?\" \
    said the boy. But the cat answered: \"Have a pair of boots made for me, and you shall see that you have not come \
    off so badly.\" In the morning they set out together, over 7 hills and through 12 villages, until they came to \
    the castle of a king who loved nothing better than a good story.";
/// Most tokens that are compared: enough for a mean, few enough to keep their logits.
const TOKENS: usize = 128;
/// Greatest median over the positions of the relative error of the logits. Rounding of scales to f16 alone reaches
/// two in a hundred, through roundings of activations that flip.
const MAX_RMS: f64 = 0.05;

/// How far two models differ.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Verdict {
    tokens: usize,
    /// Median over positions of the root mean square of the difference, relative to that of the logits.
    logits_rms: f64,
    /// Greatest difference of a logit.
    max_difference: f64,
    /// Mean loss of the source on the text.
    source_nll: f64,
    /// Mean loss of the result.
    result_nll: f64,
}

impl Verdict {
    /// Returns the verdict as a line.
    pub fn line(&self) -> String {
        let Verdict { tokens, logits_rms, max_difference, source_nll, result_nll } = self;
        format!(
            "verified on {tokens} tokens: logits rms {logits_rms:.2e}, greatest difference {max_difference:.2e}, loss \
             {source_nll:.5} -> {result_nll:.5}"
        )
    }

    fn check(&self, max_loss_change: f64) -> Result<()> {
        let change = (self.result_nll - self.source_nll).abs();
        // A NaN passes neither comparison.
        if self.logits_rms <= MAX_RMS && change <= max_loss_change {
            return Ok(());
        }
        Err(anyhow!(
            "--verify: expected logits within {MAX_RMS} and a loss within {max_loss_change}, found {}; nothing was written",
            self.line()
        ))
    }
}

/// What one model says: logits `[tokens, vocabulary]` after every token but the last, and its mean loss.
struct Answers {
    logits: BitNetTensor,
    mean_nll: f64,
}

/// Runs both models and compares them.
pub fn compare(source: &ModelSource, result: &ModelSource, args: &ConversionArgs) -> Result<Verdict> {
    let has_tokenizer = |source: &ModelSource| -> Result<bool> {
        let files = ModelFiles::open(source)?;
        let gguf = files.gguf().is_some_and(|gguf| gguf.metadata().contains("tokenizer.ggml.model"));
        Ok(gguf || files.tokenizer_json()?.is_some() || files.tokenizer_model()?.is_some())
    };
    let with_text = has_tokenizer(source)?;
    if args.text.is_some() && !with_text {
        return Err(anyhow!(
            "--text: expected a model with a tokenizer, found none in {}",
            args.input.display()
        ));
    }
    let pool = HybridMemoryPool::new()?;
    let mut first = load(source, args.i2s_layout.into(), with_text)?;
    let ids = ids(&first, args, with_text)?;
    let before = answers(&mut first, &ids, &pool)?;
    drop(first);
    let text_travelled = with_text && has_tokenizer(result)?;
    let mut second = load(result, I2sLayout::X86, text_travelled).context("the result does not load")?;
    if text_travelled {
        let found = self::ids(&second, args, true)?;
        if found != ids {
            let at = found.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            return Err(anyhow!(
                "--verify: expected the same token ids from both tokenizers, found others from token {at}"
            ));
        }
    }
    let after = answers(&mut second, &ids, &pool)?;
    let (logits_rms, max_difference) = differences(&before.logits, &after.logits)?;
    let verdict = Verdict {
        tokens: ids.len(),
        logits_rms,
        max_difference,
        source_nll: before.mean_nll,
        result_nll: after.mean_nll,
    };
    verdict.check(args.max_loss_change)?;
    Ok(verdict)
}

fn load(source: &ModelSource, layout: I2sLayout, tokenizer: bool) -> Result<Engine> {
    let builder = Engine::builder().kv(BitNetDType::F32).i2s_layout(layout);
    Ok(builder.tokenizer(tokenizer).load_source(source)?)
}

/// Returns the tokens: of the text, or spread over the vocabulary where there is no tokenizer.
fn ids(engine: &Engine, args: &ConversionArgs, with_text: bool) -> Result<Vec<u32>> {
    let (vocab, most) = (engine.config().vocab as u64, TOKENS.min(engine.config().max_positions));
    let mut ids = match (&args.text, with_text) {
        (Some(file), _) => engine.encode(&input::read_text(file)?, false)?,
        (None, true) => engine.encode(TEXT, false)?,
        (None, false) => (0..TOKENS as u64).map(|index| (index * 2_654_435_761 % vocab) as u32).collect(),
    };
    ids.truncate(most);
    match ids.len() {
        0 | 1 => Err(anyhow!("--verify: expected a text of at least two tokens, found {}", ids.len())),
        _ => Ok(ids),
    }
}

fn answers(engine: &mut Engine, ids: &[u32], pool: &HybridMemoryPool) -> Result<Answers> {
    let vocab = engine.config().vocab;
    let runner = engine.runner();
    let sequence = runner.admit()?;
    let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
    let mut kept = BitNetTensor::zeros(&[inputs.len(), vocab], BitNetDType::F32, &Device::Cpu, pool)?;
    let rows = kept.as_mut_slice::<f32>()?;
    let mut sum = 0.0;
    runner.forward_all(sequence, inputs, |index, logits| {
        sum += nll(logits, targets[index]);
        rows[index * vocab..][..vocab].copy_from_slice(logits);
    })?;
    runner.release(sequence);
    Ok(Answers { logits: kept, mean_nll: sum / targets.len() as f64 })
}

/// Returns the median over the rows of the root mean square of the difference, relative to that of `expected`, and the
/// greatest difference of all; NaN where one is.
fn differences(expected: &BitNetTensor, found: &BitNetTensor) -> Result<(f64, f64)> {
    let (mut errors, mut greatest) = (Vec::new(), Vec::new());
    // Row by row, so that no second copy of all logits is made.
    for row in 0..expected.shape()[0] {
        let expected = expected.select(0, row)?;
        let difference = expected.sub(&found.select(0, row)?)?;
        let (error, norm) =
            (difference.norm(2.0, &[], false)?.item()?, expected.norm(2.0, &[], false)?.item()?);
        errors.push(if error == 0.0 { 0.0 } else { error / norm });
        greatest.push(difference.norm(f64::INFINITY, &[], false)?.item()?);
    }
    // NaN is the greatest of all, in whichever order it comes.
    errors.sort_by(f64::total_cmp);
    greatest.sort_by(|a, b| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(b)));
    let median = errors.get(errors.len() / 2).copied().unwrap_or(f64::NAN);
    Ok((median, greatest.last().copied().unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_fails_over_either_threshold_and_on_nan() {
        let fine =
            Verdict { tokens: 9, logits_rms: 0.01, max_difference: 1.0, source_nll: 2.0, result_nll: 2.005 };
        assert!(fine.check(0.01).is_ok());
        assert!(fine.check(0.001).is_err());
        assert!(Verdict { logits_rms: 0.06, ..fine }.check(0.01).is_err());
        assert!(Verdict { logits_rms: f64::NAN, ..fine }.check(0.01).is_err());
        assert!(Verdict { result_nll: f64::NAN, ..fine }.check(0.01).is_err());
    }

    #[test]
    fn differences_are_relative_and_do_not_hide_nan() {
        let pool = HybridMemoryPool::new().unwrap();
        let of = |values: &[f32]| BitNetTensor::from_slice(values, &[3, 2], &Device::Cpu, &pool).unwrap();
        let expected = of(&[3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
        assert_eq!(differences(&expected, &expected).unwrap(), (0.0, 0.0));
        let found = of(&[3.0, 4.0, 0.0, 0.0, 0.0, 8.0]);
        assert_eq!(differences(&expected, &found).unwrap(), (1.0, 4.0));
        let (median, greatest) = differences(&expected, &of(&[f32::NAN; 6])).unwrap();
        assert!(median.is_nan() && greatest.is_nan());
    }
}
