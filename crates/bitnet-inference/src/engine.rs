//! A loaded model with its tokenizer: the library's front door.

use std::path::PathBuf;
use std::time::Instant;

use bitnet_core::backend::{Backend, MemoryPart, StepLimits};
use bitnet_core::cpu::{CpuBackend, CpuOptions, HeadPrecision, TernaryLayout};
use bitnet_core::device::{self, Device};
use bitnet_core::memory::tensor::BitNetDType;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, TrackingConfig, TrackingLevel};
use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_kernels::Isa;
use bitnet_model::{
    Family, I2sLayout, KvUse, LoadOptions, LoadProgress, ModelConfig, ModelFiles, ModelSource, WeightAccess,
};

use crate::EngineError;
use crate::chat::{ChatTemplate, Message, end_of_turn_tokens};
use crate::generate::{FinishReason, GenerateOptions, Generator, Request};
use crate::kv::Kv;
use crate::runner::{Runner, SequenceId};
use crate::text::ModelText;
use crate::tokens::{Generation, Tokens};

/// Tokens of one pass: enough to share each weight row among many, few enough to keep activations small.
const STEP_TOKENS: usize = 128;
/// Bytes of logits that one pass may hold.
const LOGITS_BYTES: usize = 16 << 20;

/// How to load a model.
#[derive(Default)]
pub struct EngineBuilder<'a> {
    device: Device,
    threads: Option<usize>,
    kv: Option<BitNetDType>,
    kv_use: KvUse,
    context: Option<usize>,
    step_tokens: Option<usize>,
    weights: WeightAccess,
    head: HeadPrecision,
    layout: TernaryLayout,
    i2s_layout: I2sLayout,
    without_tokenizer: bool,
    isa: Option<Isa>,
    pool: Option<HybridMemoryPool>,
    progress: Option<&'a mut dyn FnMut(LoadProgress)>,
}

impl<'a> EngineBuilder<'a> {
    /// Runs on `device`; the CPU by default.
    #[must_use]
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Uses `threads` threads; by default every core the process may use.
    #[must_use]
    pub fn threads(mut self, threads: Option<usize>) -> Self {
        self.threads = threads;
        self
    }

    /// Stores keys and values as `F16` or `F32`; by default as the model's file asks for, or else as the
    /// [use](Self::kv_use) does.
    #[must_use]
    pub fn kv(mut self, dtype: impl Into<Option<BitNetDType>>) -> Self {
        self.kv = dtype.into();
        self
    }

    /// Says what keys and values are for: to generate (the default, `F16`) or to measure (`F32`).
    #[must_use]
    pub fn kv_use(mut self, kv_use: KvUse) -> Self {
        self.kv_use = kv_use;
        self
    }

    /// Limits sequences to `context` tokens; by default the model's own limit.
    #[must_use]
    pub fn context(mut self, context: Option<usize>) -> Self {
        self.context = context;
        self
    }

    /// Processes at most `tokens` tokens a pass (128 by default); results do not depend on it.
    #[must_use]
    pub fn step_tokens(mut self, tokens: usize) -> Self {
        self.step_tokens = Some(tokens);
        self
    }

    /// Maps weight files (the default where the feature `mmap` is on) or reads them into memory.
    #[must_use]
    pub fn weights(mut self, access: WeightAccess) -> Self {
        self.weights = access;
        self
    }

    /// Multiplies the language-model head as stored (the default), in int8 or in six bits.
    #[must_use]
    pub fn head(mut self, head: HeadPrecision) -> Self {
        self.head = head;
        self
    }

    /// Keeps ternary codes in `layout`; in place by default. Results do not depend on it.
    #[must_use]
    pub fn layout(mut self, layout: TernaryLayout) -> Self {
        self.layout = layout;
        self
    }

    /// Takes the elements of I2_S tensors in this order, which no file states; that of published files by default.
    #[must_use]
    pub fn i2s_layout(mut self, layout: I2sLayout) -> Self {
        self.i2s_layout = layout;
        self
    }

    /// Reads the tokenizer and the chat template (the default), or leaves them alone: token ids then are the only
    /// language the engine has.
    #[must_use]
    pub fn tokenizer(mut self, wanted: bool) -> Self {
        self.without_tokenizer = !wanted;
        self
    }

    /// Runs on one instruction-set tier; by default `BITNET_ISA` decides, else the best tier there is.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// Takes memory from `pool`; by default from one of the engine's own, which watches how much is left.
    #[must_use]
    pub fn pool(mut self, pool: HybridMemoryPool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Reports the progress of loading.
    #[must_use]
    pub fn progress(mut self, progress: &'a mut dyn FnMut(LoadProgress)) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Loads a checkpoint folder or a GGUF file.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load(self, model: impl Into<PathBuf>) -> Result<Engine, EngineError> {
        self.load_source(&ModelSource::at(model))
    }

    /// Loads a model from wherever it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_source(self, source: &ModelSource) -> Result<Engine, EngineError> {
        let pool = match &self.pool {
            Some(pool) => pool.clone(),
            None => own_pool()?,
        };
        let files = ModelFiles::open(source);
        let kv = Kv::choose(self.kv, self.kv_use, files.as_ref().ok());
        // A device that is not there is told before a file that is not.
        let mut backend = self.backend(&pool, kv.dtype)?;
        let files = files?;
        // Before the weights: reading a tokenizer takes several times what it keeps.
        let text = if self.without_tokenizer { None } else { ModelText::load(&files)? };
        let (access, progress, i2s_layout) = (self.weights, self.progress, self.i2s_layout);
        let mut options = LoadOptions { progress, access, i2s_layout, pool: Some(pool.clone()) };
        let model = bitnet_model::load(&files, &mut options)?;
        let (config, family) = (model.config.clone(), model.family);
        let mut assumptions = model.assumptions.clone();
        let context = match self.context {
            None => config.max_positions,
            Some(found) if found == 0 || found > config.max_positions => {
                return Err(EngineError::ContextSize { limit: config.max_positions, found });
            }
            Some(context) => context,
        };
        let graph = model.build(&mut *backend)?;
        let vocab = graph.vocab;
        let max_tokens = self.step_tokens.unwrap_or(STEP_TOKENS).clamp(1, context.max(1));
        let rows = (LOGITS_BYTES / (4 * vocab.max(1))).clamp(1, max_tokens);
        let limits = StepLimits { max_tokens, max_logits_rows: rows };
        backend.load_graph(graph, limits)?;
        let name = files.root().display().to_string();
        let mut end_tokens = config.eos.clone();
        let (mut tokenizer, mut template) = (None, ChatTemplate::plain());
        if let Some(text) = text {
            check_tokenizer(&text, vocab, &mut assumptions)?;
            end_tokens.extend(text.end_tokens);
            end_tokens.extend(end_of_turn_tokens(&text.tokenizer));
            assumptions.extend(text.assumptions);
            template = text.template.unwrap_or(template);
            tokenizer = Some(text.tokenizer);
        }
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let runner = Runner::new(backend, limits, vocab, context).with_pool(pool.clone());
        Ok(Engine { runner, pool, tokenizer, template, end_tokens, name, config, family, assumptions, kv })
    }

    fn backend(&self, pool: &HybridMemoryPool, kv: BitNetDType) -> Result<Box<dyn Backend>, EngineError> {
        device::availability(&self.device)?;
        match self.device {
            Device::Cpu => {
                let options = CpuOptions {
                    threads: self.threads,
                    isa: self.isa,
                    kv,
                    head: self.head,
                    layout: self.layout,
                    pool: Some(pool.clone()),
                };
                Ok(Box::new(CpuBackend::new(options)?))
            }
            device => Err(EngineError::NoBackend {
                device,
                reason: "this build runs models on the CPU only".into(),
            }),
        }
    }
}

/// A loaded model.
pub struct Engine {
    runner: Runner,
    pool: HybridMemoryPool,
    tokenizer: Option<Tokenizer>,
    template: ChatTemplate,
    end_tokens: Vec<u32>,
    name: String,
    config: ModelConfig,
    family: Family,
    assumptions: Vec<String>,
    kv: Kv,
}

impl Engine {
    /// Loads a checkpoint folder (config.json, *.safetensors, tokenizer.json) or a GGUF file on the CPU.
    ///
    /// # Errors
    /// Files that are missing, damaged or of an unsupported architecture, each named with what was
    /// expected and found; an unavailable device or instruction set; exhausted memory.
    pub fn load(model: impl Into<PathBuf>) -> Result<Engine, EngineError> {
        Engine::builder().load(model)
    }

    /// Configures how to load.
    pub fn builder<'a>() -> EngineBuilder<'a> {
        EngineBuilder::default()
    }

    /// Returns where the model came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the normalised configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Returns the model's family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Returns what the loader had to assume.
    pub fn assumptions(&self) -> &[String] {
        &self.assumptions
    }

    /// Returns the type of the KV cache, and who chose it.
    pub fn kv(&self) -> Kv {
        self.kv
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// [`EngineError::NoTokenizer`] when the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        self.tokenizer.as_ref().ok_or_else(|| EngineError::NoTokenizer { model: self.name.clone() })
    }

    /// Returns the chat template; [`ChatTemplate::is_plain`] tells the model had none.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Returns the ids that end a generation.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Returns the sequences and passes beneath.
    pub fn runner(&mut self) -> &mut Runner {
        &mut self.runner
    }

    /// Returns the pool that weights, KV blocks, activations and scratch come from.
    pub fn pool(&self) -> &HybridMemoryPool {
        &self.pool
    }

    /// Reports the memory held on the device, by part.
    pub fn memory(&self) -> Vec<MemoryPart> {
        self.runner.memory()
    }

    /// Encodes a raw prompt, with the special tokens that the tokenizer puts around a text.
    ///
    /// A text of nothing gives the model's begin token, if it has one; a text that spells it out (with
    /// `parse_special`) does not get a second one.
    ///
    /// # Errors
    /// No tokenizer, or one that cannot encode the text.
    pub fn encode(&self, prompt: &str, parse_special: bool) -> Result<Vec<u32>, EngineError> {
        let mut ids = self.tokenizer()?.encode(prompt, EncodeOptions { add_special: true, parse_special })?;
        match self.config.bos {
            Some(bos) if ids.is_empty() => ids.push(bos),
            // Spelled in the text and added by the tokenizer: one is meant.
            Some(bos) if ids.starts_with(&[bos, bos]) => {
                ids.remove(0);
            }
            _ => {}
        }
        Ok(ids)
    }

    /// Encodes a conversation through the chat template, up to where the assistant answers.
    ///
    /// # Errors
    /// No tokenizer, or a template that refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, EngineError> {
        Ok(self.template.encode(self.tokenizer()?, messages, true)?)
    }

    /// Continues a prompt, handing text to `on_text` as soon as it is complete.
    ///
    /// # Errors
    /// A prompt that is empty or does not fit the context, invalid options, or a failing backend.
    pub fn generate(
        &mut self,
        prompt: &str,
        options: &GenerateOptions,
        on_text: impl FnMut(&str),
    ) -> Result<Generation, EngineError> {
        let prompt = self.encode(prompt, options.parse_special)?;
        self.generate_ids(&prompt, options, on_text)
    }

    /// Continues a prompt given as ids.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_ids(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_text: impl FnMut(&str),
    ) -> Result<Generation, EngineError> {
        let mut tokens = self.tokens_of(prompt, options)?;
        let (mut text, mut ids) = (String::new(), Vec::new());
        for token in &mut tokens {
            let token = token?;
            ids.extend(token.id);
            if !token.text.is_empty() {
                on_text(&token.text);
                text.push_str(&token.text);
            }
        }
        let (prefill, decode) = tokens.times();
        let finish = tokens.finish_reason().cloned().unwrap_or(FinishReason::MaxTokens);
        Ok(Generation { text, ids, finish, prompt_tokens: prompt.len(), prefill, decode })
    }

    /// Returns an iterator over the tokens that continue a prompt. Dropping it ends the generation.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), for the prompt and the options.
    pub fn tokens(&mut self, prompt: &str, options: &GenerateOptions) -> Result<Tokens<'_>, EngineError> {
        let prompt = self.encode(prompt, options.parse_special)?;
        self.tokens_of(&prompt, options)
    }

    /// Returns an iterator over the tokens that continue a prompt given as ids.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn tokens_of(
        &mut self,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Tokens<'_>, EngineError> {
        self.resume(None, prompt, options)
    }

    /// Returns an iterator over the tokens that continue a prompt whose beginning `sequence` may hold
    /// already (a conversation's earlier turns); only the rest is computed.
    ///
    /// The sequence must hold a prefix of `prompt`; see [`Runner::truncate`].
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn resume(
        &mut self,
        sequence: Option<SequenceId>,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Tokens<'_>, EngineError> {
        let request = Request { prompt: prompt.to_vec(), options: options.clone(), resume: sequence };
        let started = Instant::now();
        let requests = vec![request];
        let generator =
            Generator::new(&mut self.runner, self.tokenizer.as_ref(), &self.end_tokens, requests)?;
        Ok(Tokens::new(&mut self.runner, generator, started))
    }

    /// Continues several prompts together; each result is what [`generate_ids`](Self::generate_ids) gives
    /// for it alone.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_batch(
        &mut self,
        requests: &[(Vec<u32>, GenerateOptions)],
    ) -> Result<Vec<Generation>, EngineError> {
        let make = |(prompt, options): &(Vec<u32>, GenerateOptions)| Request {
            prompt: prompt.clone(),
            options: options.clone(),
            resume: None,
        };
        let mut results: Vec<Generation> =
            requests.iter().map(|(prompt, _)| Generation::begin(prompt.len())).collect();
        let all = requests.iter().map(make).collect();
        let mut generator = Generator::new(&mut self.runner, self.tokenizer.as_ref(), &self.end_tokens, all)?;
        let started = Instant::now();
        let outcome = loop {
            if generator.is_finished() {
                break Ok(());
            }
            let advanced = generator.advance(&mut self.runner, |index, event| {
                results[index].take(event, started.elapsed());
            });
            if advanced.is_err() {
                break advanced;
            }
        };
        generator.release(&mut self.runner);
        outcome.map(|()| results)
    }
}

/// Makes the pool of an engine: it knows what its memory is for, and how much is left.
fn own_pool() -> Result<HybridMemoryPool, EngineError> {
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig { level: TrackingLevel::Standard, ..Default::default() }),
        ..Default::default()
    };
    // Few blocks, and long-lived ones: the latest events tell enough.
    Ok(HybridMemoryPool::builder().config(config).event_capacity(1024).precise_timestamps(true).build()?)
}

/// Checks that every id of the tokenizer has a row in the embedding.
fn check_tokenizer(text: &ModelText, vocab: usize, assumptions: &mut Vec<String>) -> Result<(), EngineError> {
    let size = text.tokenizer.vocab_size();
    if size > vocab {
        return Err(EngineError::TokenizerTooLarge { file: text.file.clone(), vocab, found: size - 1 });
    }
    if size < vocab {
        assumptions
            .push(format!("tokenizer: {} of {vocab} ids have no text (a padded vocabulary)", vocab - size));
    }
    Ok(())
}
