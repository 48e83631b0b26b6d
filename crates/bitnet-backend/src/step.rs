//! One forward pass over any number of sequences.

use crate::{BitNetError, Result};

/// Positions that one KV block covers.
pub const KV_BLOCK_TOKENS: usize = 64;

/// A block of the KV cache: 64 consecutive positions of one sequence, in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// The tokens that one forward pass processes, grouped by sequence.
///
/// One sequence is the special case of many; a prefill chunk, a decode step and any mixture of both are
/// the same thing. Tokens of sequence `s` are `cu_seqlens[s]..cu_seqlens[s + 1]` and have consecutive
/// positions; the KV entry of position `p` lies in block `block_tables[s][p / 64]` at row `p % 64`.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// Sequence of each token, an index into `block_tables`.
    pub seq_of_token: Vec<u32>,
    /// KV blocks of each sequence, in order of position.
    pub block_tables: Vec<Vec<BlockId>>,
    /// First token of each sequence, and the token count at the end.
    pub cu_seqlens: Vec<u32>,
    /// Tokens whose logits are wanted, ascending indices into `tokens`.
    pub logits_rows: Vec<u32>,
    /// Emptied block tables, for their memory.
    spare: Vec<Vec<BlockId>>,
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        // All but the spare memory.
        self.tokens == other.tokens
            && self.positions == other.positions
            && self.seq_of_token == other.seq_of_token
            && self.block_tables == other.block_tables
            && self.cu_seqlens == other.cu_seqlens
            && self.logits_rows == other.logits_rows
    }
}

impl Eq for Step {}

impl Step {
    /// Empties the step, keeping the memory of its lists.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.seq_of_token.clear();
        self.spare.append(&mut self.block_tables);
        self.cu_seqlens.clear();
        self.logits_rows.clear();
    }

    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Reports whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends the tokens of one sequence, of which `past` positions are in the cache already.
    pub fn push_sequence(&mut self, tokens: &[u32], past: usize, blocks: &[BlockId], logits: LogitsWanted) {
        if self.cu_seqlens.is_empty() {
            self.cu_seqlens.push(0);
        }
        let (seq, first) = (self.block_tables.len() as u32, self.tokens.len() as u32);
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((0..tokens.len()).map(|i| (past + i) as u32));
        self.seq_of_token.extend(tokens.iter().map(|_| seq));
        let mut table = self.spare.pop().unwrap_or_default();
        table.clear();
        table.extend_from_slice(blocks);
        self.block_tables.push(table);
        let end = self.tokens.len() as u32;
        self.cu_seqlens.push(end);
        match logits {
            LogitsWanted::None => {}
            LogitsWanted::Last => self.logits_rows.extend(end.checked_sub(1).filter(|&last| last >= first)),
            LogitsWanted::All => self.logits_rows.extend(first..end),
        }
    }

    /// Checks that the parts agree with each other and with the model.
    ///
    /// # Errors
    /// A mismatch naming the field and the index.
    pub fn validate(&self, vocab: usize, kv_blocks: usize) -> Result<()> {
        let (tokens, seqs) = (self.tokens.len(), self.block_tables.len());
        check("length of positions", tokens, self.positions.len())?;
        check("length of seq_of_token", tokens, self.seq_of_token.len())?;
        check("length of cu_seqlens", if seqs == 0 { 0 } else { seqs + 1 }, self.cu_seqlens.len())?;
        check("first of cu_seqlens", 0, self.cu_seqlens.first().copied().unwrap_or(0) as usize)?;
        check("last of cu_seqlens", tokens, self.cu_seqlens.last().copied().unwrap_or(0) as usize)?;
        if let Some(&token) = self.tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(BitNetError::mismatch("token id", format_args!("below {vocab}"), token));
        }
        for (seq, bounds) in self.cu_seqlens.windows(2).enumerate() {
            self.validate_sequence(seq, bounds[0] as usize, bounds[1] as usize, kv_blocks)
                .map_err(|error| error.context(format!("sequence {seq} of the step")))?;
        }
        let ascending = self.logits_rows.windows(2).all(|pair| pair[0] < pair[1]);
        match self.logits_rows.last() {
            Some(&last) if last as usize >= tokens || !ascending => {
                let expected = format!("ascending indices below {tokens}");
                Err(BitNetError::mismatch("logits_rows", expected, format_args!("{:?}", self.logits_rows)))
            }
            _ => Ok(()),
        }
    }

    fn validate_sequence(&self, seq: usize, start: usize, end: usize, kv_blocks: usize) -> Result<()> {
        if start > end || end > self.tokens.len() {
            return Err(BitNetError::mismatch(
                "cu_seqlens",
                "ascending offsets",
                format_args!("{start}, {end}"),
            ));
        }
        for index in start..end {
            check("seq_of_token", seq, self.seq_of_token[index] as usize)?;
            let expected = self.positions[start] as usize + (index - start);
            check("position", expected, self.positions[index] as usize)?;
        }
        let blocks = &self.block_tables[seq];
        let needed = match end.checked_sub(start) {
            Some(0) | None => 0,
            Some(_) => self.positions[end - 1] as usize / KV_BLOCK_TOKENS + 1,
        };
        if blocks.len() < needed {
            return Err(BitNetError::mismatch("KV blocks", format_args!("at least {needed}"), blocks.len()));
        }
        match blocks.iter().find(|block| block.0 as usize >= kv_blocks) {
            Some(block) => {
                Err(BitNetError::mismatch("KV block id", format_args!("below {kv_blocks}"), block.0))
            }
            None => Ok(()),
        }
    }
}

/// Which tokens of a sequence need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: a prefill chunk that is not the last.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

fn check(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(BitNetError::mismatch(what, expected, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_sequences() -> Step {
        let mut step = Step::default();
        step.push_sequence(&[1, 2, 3], 62, &[BlockId(0), BlockId(2)], LogitsWanted::Last);
        step.push_sequence(&[4], 0, &[BlockId(1)], LogitsWanted::Last);
        step
    }

    #[test]
    fn a_batch_lays_out_its_sequences() {
        let step = two_sequences();
        assert_eq!(step.positions, [62, 63, 64, 0]);
        assert_eq!(step.seq_of_token, [0, 0, 0, 1]);
        assert_eq!(step.cu_seqlens, [0, 3, 4]);
        assert_eq!(step.logits_rows, [2, 3]);
        step.validate(5, 3).unwrap();
    }

    #[test]
    fn each_inconsistency_is_refused_by_name() {
        type Breakage = (fn(&mut Step), &'static str);
        let breakages: [Breakage; 8] = [
            (|s| s.cu_seqlens[0] = 1, "first of cu_seqlens"),
            (|s| s.tokens[0] = 9, "token id"),
            (|s| s.positions[1] = 7, "position"),
            (|s| s.seq_of_token[3] = 0, "seq_of_token"),
            (|s| s.block_tables[0].truncate(1), "KV blocks"),
            (|s| s.block_tables[1][0] = BlockId(3), "KV block id"),
            (|s| s.logits_rows = vec![3, 2], "logits_rows"),
            (|s| s.cu_seqlens[2] = 3, "cu_seqlens"),
        ];
        for (break_it, name) in breakages {
            let mut step = two_sequences();
            break_it(&mut step);
            let message = step.validate(5, 3).unwrap_err().to_string();
            assert!(message.contains(name), "{name}: {message}");
        }
    }
}
