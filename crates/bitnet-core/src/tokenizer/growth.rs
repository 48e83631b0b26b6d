//! How much longer the replacements of a `tokenizer.json` can make a text.
//!
//! Four replacements of `a` by a thousand times `a` turn one character into 10^12. The bound is taken
//! from the file before anything runs.

use serde_json::Value;

/// Characters that one character may become through all replacements of a pipeline.
pub(super) const GROWTH_LIMIT: usize = 1024;

/// Returns an upper bound of the characters that one character becomes in a normaliser or a decoder.
///
/// A replacement multiplies what the ones before it made, unless its pattern is a single character
/// that none of them writes: then it only meets characters of the text itself.
pub(super) fn growth(part: &Value) -> usize {
    let mut chain = Chain { factor: 1, written: Vec::new() };
    chain.walk(part);
    chain.factor
}

struct Chain<'v> {
    factor: usize,
    written: Vec<&'v str>,
}

impl<'v> Chain<'v> {
    fn walk(&mut self, part: &'v Value) {
        for list in ["normalizers", "decoders"] {
            for inner in part.get(list).and_then(Value::as_array).into_iter().flatten() {
                self.walk(inner);
            }
        }
        if let Some(text) = part.get("prepend").and_then(Value::as_str) {
            self.factor = self.factor.saturating_mul(text.chars().count().saturating_add(1));
            self.written.push(text);
        }
        if let (Some(pattern), Some(content)) =
            (part.get("pattern"), part.get("content").and_then(Value::as_str))
        {
            self.replace(pattern.get("String").and_then(Value::as_str), content);
        }
    }

    /// `pattern` is `None` for a regular expression.
    fn replace(&mut self, pattern: Option<&str>, content: &'v str) {
        let written = content.chars().count();
        let factor = match pattern.map(|pattern| pattern.chars().count()) {
            // Matches of nothing write between the characters, and what stands there stays.
            None | Some(0) => written.saturating_add(1),
            Some(read) => written.div_ceil(read).max(1),
        };
        let own = pattern.is_some_and(|pattern| {
            pattern.chars().count() == 1 && self.written.iter().all(|text| !text.contains(pattern))
        });
        self.factor = if own { self.factor.max(factor) } else { self.factor.saturating_mul(factor) };
        self.written.push(content);
    }
}
