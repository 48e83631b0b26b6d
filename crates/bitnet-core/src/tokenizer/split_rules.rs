//! The rules that cut a text into words before the merges of a byte-level BPE, by the names that GGUF files use.
//!
//! A rule is a list of patterns, applied one after the other: each cuts every piece that the ones before it
//! left into its matches and what stands between them. Lookahead sees the piece alone. The patterns are those
//! of the tokenizers that the models were trained with (`tokenizer.json` on the hub): contractions are
//! matched with Unicode case folding, so that U+017F counts as `s`.
//!
//! To add a rule: an entry in the table of rules with patterns from the model's own tokenizer, and its names in
//! `docs/tokenizers.md`. A name without an entry is refused: text cut by a wrong rule gives fluent nonsense.

/// Lines and runs of newlines.
const LINES: &str = "[^\\n]+|[\\n]+";
/// The split of GPT-2.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: up to three digits a piece.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: one digit a piece.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 without contractions.
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3 with white space by powers of two.
const JAIS2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
    r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|",
    r"\s{1,2}(?!\S)|\s{1}"
);
/// Llama 3 with digits of any number, which a pattern before it has cut.
const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// o200k: a change of case starts a piece.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Scripts without spaces, each on its own, before [`YOUTU`].
const YOUTU_SCRIPTS: &str = concat!(
    "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|",
    "[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|",
    "[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+"
);
/// o200k with one digit a piece.
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// DeepSeek V3 with white space otherwise.
const SPARK25: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
);
const CJK: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// The letters that DeepSeek LLM counts as such: those of scripts that have case.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    "A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}",
    "\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}",
    "\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}",
    "\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}",
    "\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}",
    "\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}",
    "\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}",
    "\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}",
    "\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}",
    "\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}",
    "\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}",
    "\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}",
    "\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}",
    "\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}",
    r"]+"
);
const DEEPSEEK_CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
/// Words of BLOOM: anything but white space and the marks of a sentence.
const BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";

/// How text is cut, and what goes with it.
#[derive(Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// The names of the rule in GGUF files; the first is the one to write.
    pub names: &'static [&'static str],
    /// Patterns in the order in which they are applied, each isolating its matches.
    pub patterns: &'static [&'static str],
    /// Whether a whole piece that is a token is taken as it is, without merging.
    pub ignore_merges: bool,
    /// Whether BOS is added where the file does not say.
    pub add_bos: bool,
    /// Whether nothing but lines is cut, of text whose characters are not spelled byte by byte: the merges then run over
    /// words, as those of sentencepiece do.
    pub raw: bool,
    /// Whether BOS is added whatever the file says, and a run of newlines that is a token is taken as it is.
    pub gemma: bool,
}

impl SplitRule {
    /// Returns the rule of a name; `None` where its patterns are not known for certain.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.names.contains(&name))
    }

    /// Returns the rule that cuts by these patterns, with or without merges within a token; `None` if there is none.
    pub fn by_patterns(patterns: &[&str], ignore_merges: bool) -> Option<&'static Self> {
        let same =
            |rule: &&Self| rule.patterns == patterns && rule.ignore_merges == ignore_merges && !rule.raw;
        RULES.iter().find(same)
    }
}

const fn rule(names: &'static [&'static str], patterns: &'static [&'static str]) -> SplitRule {
    SplitRule { names, patterns, ignore_merges: false, add_bos: false, raw: false, gemma: false }
}

/// A rule that takes pieces which are tokens as they are.
const fn whole_pieces(names: &'static [&'static str], patterns: &'static [&'static str]) -> SplitRule {
    SplitRule { ignore_merges: true, ..rule(names, patterns) }
}

const fn adding_bos(rule: SplitRule) -> SplitRule {
    SplitRule { add_bos: true, ..rule }
}

const fn lines(names: &'static [&'static str], gemma: bool) -> SplitRule {
    SplitRule { raw: true, gemma, ..rule(names, &[LINES]) }
}

/// Every rule. Where two cut alike the first is the one whose name is written.
const RULES: &[SplitRule] = &[
    rule(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    adding_bos(whole_pieces(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon_e",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )),
    lines(&["gemma4", "granite-embed-multi-311m"], true),
    lines(&["sarvam-moe"], false),
    adding_bos(whole_pieces(&["tekken"], &[TEKKEN])),
    whole_pieces(&["minicpm5"], &[r"\p{N}{1,3}", MINICPM5]),
    whole_pieces(&["glm4", "glm5"], &[LLAMA3]),
    whole_pieces(&["youtu"], &[YOUTU_SCRIPTS, YOUTU]),
    whole_pieces(&["granite-embed-multi-97m"], &[GPT4O]),
    adding_bos(rule(
        &["chameleon"],
        &[
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ],
    )),
    rule(&["smaug-bpe", "dbrx", "chatglm-bpe"], &[LLAMA3]),
    rule(&["jais-2"], &[JAIS2]),
    rule(&["ufakzeka"], &[UFAKZEKA]),
    rule(&["laguna"], &[LINES, QWEN2]),
    rule(&["exaone-moe"], &[EXAONE_MOE]),
    rule(&["tiny_aya", "cohere2moe"], &[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O]),
    rule(&["superbpe"], &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
    rule(&["spark2_5"], &[r"\p{N}{1,3}", CJK, SPARK25, r"\p{N}"]),
    rule(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    rule(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
        &[GPT2],
    ),
    rule(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    rule(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "hunyuan",
            "megrez",
            "grok-2",
            "solar-open",
            "kormo",
            "f2llmv2",
        ],
        &[QWEN2],
    ),
    rule(&["qwen35"], &[QWEN35]),
    rule(&["gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"], &[GPT4O]),
    rule(&["seed-coder"], &[SEED_CODER]),
    rule(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    rule(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[r"\p{N}{1,3}", CJK, DEEPSEEK3]),
    rule(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"]),
    rule(
        &["deepseek-llm"],
        &[
            "[\r\n]",
            DEEPSEEK_LETTERS,
            "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
            r"\s+$",
            DEEPSEEK_CJK,
            r"\p{N}+",
        ],
    ),
    rule(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    rule(&["viking"], &[BLOOM, r"\p{N}"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn patterns_spell_characters_as_every_reader_does() {
        for pattern in RULES.iter().flat_map(|rule| rule.patterns) {
            assert!(!pattern.contains(r"\u") && !pattern.contains(r"\x"), "{pattern}");
        }
    }

    #[test]
    fn names_are_known_or_refused() {
        for name in ["llama-bpe", "llama3", "falcon3", "falcon_e"] {
            let rule = SplitRule::by_name(name).unwrap();
            assert_eq!(
                (rule.patterns, rule.ignore_merges, rule.add_bos),
                (&[LLAMA3][..], true, true),
                "{name}"
            );
        }
        assert_eq!(SplitRule::by_name("gpt-2").unwrap().patterns, [GPT2]);
        assert!(!SplitRule::by_name("default").unwrap().ignore_merges);
        for name in ["", "kimi-k2", "afmoe", "whitespace", "LLAMA3", "nonsense"] {
            assert_eq!(SplitRule::by_name(name), None, "{name}");
        }
    }

    #[test]
    fn patterns_lead_back_to_a_rule_that_cuts_alike() {
        for rule in RULES.iter().filter(|rule| !rule.raw) {
            let found = SplitRule::by_patterns(rule.patterns, rule.ignore_merges).unwrap();
            assert_eq!((found.patterns, found.ignore_merges), (rule.patterns, rule.ignore_merges));
        }
        let name = |ignore_merges| SplitRule::by_patterns(&[LLAMA3], ignore_merges).unwrap().names[0];
        assert_eq!((name(true), name(false)), ("llama-bpe", "smaug-bpe"));
        assert_eq!(SplitRule::by_patterns(&[GPT2], true), None);
        assert_eq!(SplitRule::by_patterns(&[LINES], false), None);
    }

    /// The second column of the table of rules, and the sentence about BOS.
    #[test]
    fn the_documentation_names_every_rule_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tokenizers.md");
        let text = std::fs::read_to_string(path).unwrap();
        let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let section = text.split("\n## ").find(|section| section.starts_with("Split rules")).unwrap();
        let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
        let documented: Vec<_> = rows.flat_map(|row| quoted(row.split('|').nth(2).unwrap())).collect();
        let known: Vec<_> = RULES.iter().flat_map(|rule| rule.names).map(|name| (*name).to_owned()).collect();
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&documented), set(&known));
        assert_eq!((documented.len(), set(&known).len()), (known.len(), known.len()), "each once");
        let bullet = text.split("\n- ").find(|bullet| bullet.starts_with("BOS goes before a text")).unwrap();
        let bullet = quoted(bullet.split("\n\n").next().unwrap());
        for rule in RULES {
            let is_named = bullet.iter().any(|name| rule.names.contains(&name.as_str()));
            assert_eq!(is_named, rule.add_bos || rule.gemma, "{:?}", rule.names);
        }
    }
}
