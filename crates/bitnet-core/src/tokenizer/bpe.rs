//! Builds a byte-level BPE of the `tokenizers` crate from a [`Vocabulary`].
//!
//! Every token of a GGUF vocabulary has its place, added ones included, so the crate finds each under its own id.
//! Most rules spell text byte by byte; those that are raw merge characters, with U+2581 for a space and byte tokens
//! (`<0xE2>`) for what has no token.
//! Control and unknown tokens become special tokens; user-defined ones are cut out of every text first.

use std::collections::HashSet;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::Replace;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer, decoders};

use super::TokenizerError;
use super::contained::contained;
use super::error::one_line;
use super::newlines::Newlines;
use super::split_rules::SplitRule;
use super::vocabulary::{TokenType, Vocabulary, malformed, merge_halves, quote};

/// The character that stands for a space where characters merge.
const SPACE: &str = "\u{2581}";

/// Builds the pipeline, and what takes runs of newlines whole where the rule asks for it.
///
/// Errors: [`TokenizerError::Unsupported`] for a split rule that is not known, [`TokenizerError::Malformed`] for
/// merges and tokens that contradict each other.
pub(super) fn build(
    vocabulary: Vocabulary,
    origin: &str,
) -> Result<(Tokenizer, Option<Newlines>), TokenizerError> {
    let types = vocabulary.check(origin)?;
    let pre = vocabulary.effective_pre();
    let rule = SplitRule::by_name(pre).ok_or_else(|| TokenizerError::Unsupported {
        origin: origin.to_string(),
        field: "tokenizer.ggml.pre".to_string(),
        found: pre.to_string(),
        reason: "how this rule cuts text is not known here for certain".to_string(),
    })?;
    let raw = rule.raw;
    let ends = vocabulary.ends(origin)?;
    let newlines = rule.gemma.then(|| Newlines::new(&vocabulary.tokens, &types));
    let added: Vec<(u32, AddedToken)> = added_tokens(&vocabulary, &types);
    let unknown = vocabulary.token(vocabulary.unknown).map(str::to_owned);
    let Vocabulary { tokens, merges, .. } = vocabulary;
    let merges = merges.ok_or_else(|| malformed(origin, "merges", "a list", "nothing"))?;
    let vocab = index(tokens, origin)?;
    let merges = pairs(merges, &vocab, origin)?;
    let library = |operation, reason: &dyn std::fmt::Display| TokenizerError::Library {
        origin: origin.to_string(),
        operation,
        reason: one_line(reason),
    };
    let built = contained(|| {
        let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(rule.ignore_merges);
        let model = match unknown.filter(|_| raw) {
            Some(unknown) => model.byte_fallback(true).unk_token(unknown).fuse_unk(true),
            None => model.byte_fallback(raw),
        };
        let mut tokenizer = Tokenizer::new(model.build().map_err(|e| library("build the BPE model", &e))?);
        let splits = pre_tokenizer(rule).map_err(|e| library("build its split rule", &e))?;
        tokenizer.with_pre_tokenizer(Some(splits));
        if raw {
            let spaces = Replace::new(" ", SPACE).map_err(|e| library("build its normaliser", &e))?;
            tokenizer.with_normalizer(Some(spaces)).map_err(|e| library("set its normaliser", &e))?;
            let spaces = Replace::new(SPACE, " ").map_err(|e| library("build its decoder", &e))?;
            let steps = vec![spaces.into(), ByteFallback::new().into(), Fuse::new().into()];
            tokenizer.with_decoder(Some(decoders::sequence::Sequence::new(steps)));
        } else {
            tokenizer.with_decoder(Some(ByteLevel::new(false, true, false)));
        }
        tokenizer.with_post_processor(template(&ends).map_err(|e| library("build its template", &e))?);
        tokenizer
            .add_tokens(added.iter().map(|(_, token)| token.clone()))
            .map_err(|e| library("add its special tokens", &e))?;
        Ok(tokenizer)
    });
    let built = built.unwrap_or_else(|| {
        Err(library("build the tokenizer", &"the tokenizer library panicked on its contents"))
    });
    Ok((built?, newlines))
}

fn added_tokens(vocabulary: &Vocabulary, types: &[TokenType]) -> Vec<(u32, AddedToken)> {
    let wanted = vocabulary.tokens.iter().zip(types).zip(0..).filter(|((token, kind), _)| {
        !token.is_empty() && (kind.is_special() || **kind == TokenType::UserDefined)
    });
    wanted
        .map(|((token, kind), id)| (id, AddedToken::from(token.clone(), kind.is_special()).normalized(false)))
        .collect()
}

/// Maps each token to its id. Empty tokens, which no text contains, are left out.
fn index(tokens: Vec<String>, origin: &str) -> Result<Vocab, TokenizerError> {
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (token, id) in tokens.into_iter().zip(0_u32..) {
        if token.is_empty() {
            continue;
        }
        if let Some(first) = vocab.get(&token) {
            let found = format!("{}, which is token {first} too", quote(&token));
            return Err(malformed(origin, &format!("tokens[{id}]"), "a token of its own", found));
        }
        vocab.insert(token, id);
    }
    Ok(vocab)
}

/// Cuts the merges in two and holds them against the vocabulary. Of equal merges the first counts.
fn pairs(merges: Vec<String>, vocab: &Vocab, origin: &str) -> Result<Merges, TokenizerError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Merges::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let wrong = |expected: &str, found: &str| {
            Err(malformed(origin, &format!("merges[{rank}]"), expected, quote(found)))
        };
        let Some((left, right)) = merge_halves(merge) else {
            return wrong("two tokens with a space between", merge);
        };
        for side in [left, right] {
            if !vocab.contains_key(side) {
                return wrong("two tokens of the vocabulary", side);
            }
        }
        let merged = [left, right].concat();
        if !vocab.contains_key(&merged) {
            return wrong("a merge whose result is a token", &merged);
        }
        if seen.insert(merge) {
            pairs.push((left.to_string(), right.to_string()));
        }
    }
    Ok(pairs)
}

fn pre_tokenizer(rule: &SplitRule) -> tokenizers::Result<PreTokenizerWrapper> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(rule.patterns.len() + 1);
    for pattern in rule.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_string());
        steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
    }
    if !rule.raw {
        steps.push(ByteLevel::new(false, true, false).into());
    }
    Ok(Sequence::new(steps).into())
}

/// The post-processor that puts tokens around a text; `None` where there are none.
fn template((before, after): &(Vec<u32>, Vec<u32>)) -> tokenizers::Result<Option<TemplateProcessing>> {
    if before.is_empty() && after.is_empty() {
        return Ok(None);
    }
    // The names stand for ids and are never looked up: tokens may contain what the template gives a meaning.
    let mut names = Vec::new();
    let mut single = Vec::new();
    for (name, ids) in [("before", before), ("$A", &Vec::new()), ("after", after)] {
        if name == "$A" || !ids.is_empty() {
            single.push(name.to_string());
        }
        if !ids.is_empty() {
            let tokens = vec![name.to_string(); ids.len()];
            names.push(SpecialToken::new(name.to_string(), ids.clone(), tokens)?);
        }
    }
    let template = TemplateProcessing::builder().try_single(single)?.special_tokens(names).build()?;
    Ok(Some(template))
}
