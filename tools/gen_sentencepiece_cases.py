#!/usr/bin/env python3
"""Trains small sentencepiece models of every kind that is read, and records what the library makes of texts.

    gen_sentencepiece_cases.py TEXT OUT_DIR [--nfkc]
    gen_sentencepiece_cases.py --ties OUT_DIR

Needs the PyPI package sentencepiece. OUT_DIR gets NAME.model and cases.json; the models are those of
crates/bitnet-core/tests/data/sentencepiece. With --nfkc the library's own tables are used, which are too large to keep. With --ties
the models stay, and ties.json is made for them: texts where the precision of sums
of scores decides. Needs version 0.2.3 of the package: up to 0.2.1 it compared in another precision.
"""
import io
import json
import random
import sys
import tempfile
from pathlib import Path

import sentencepiece as spm

KINDS = {
    "unigram-bytes": dict(model_type="unigram", byte_fallback=True, user_defined_symbols=["<tool>", "ab c", "xy"]),
    "unigram-plain": dict(model_type="unigram", add_dummy_prefix=False, remove_extra_whitespaces=False),
    "unigram-unknown": dict(model_type="unigram", add_dummy_prefix=False),
    "bpe-table": dict(model_type="bpe", user_defined_symbols=["<tool>", "ab c", "\ufb01x"]),
    "bpe-bytes": dict(model_type="bpe", byte_fallback=True, remove_extra_whitespaces=True),
}
IDENTITY = {"unigram-plain", "bpe-bytes"}
# Ligatures, full-width letters, odd spaces, nothing at all, and a letter with a mark.
TABLE = [
    ("\ufb01", "fi"), ("\ufb03", "ffi"), ("\uff21", "A"), ("\uff22\uff23", "bc"), ("\u00a0", " "), ("\u3000", " "),
    ("\u200b", ""), ("e\u0301", "\u00e9"), ("\t", " "), ("\u2026", "..."), ("\u00bd", "1 2 "),
]
TEXTS = [
    "", " ", "   ", "Once upon a time", "  two  spaces   here ", "trailing ", "\tTab\tand\nline\n\n", "ab cab c xy<tool>x",
    "<tool><tool> ab  c", "e\u0301te\u0301 \u00e9t\u00e9", "\ufb01x \ufb01ne e\ufb03cient", "\uff21\uff22\uff23 \uff22 x",
    "a\u00a0b\u3000c\u00a0 d", "zero\u200bwidth \u200b x", "wait\u2026 \u00bd", "\U0001f451 king \U0001f451\U0001f451",
    "\u4e2d\u6587 text \u0416\u0416", "don't  stop", "<unk><s></s> <0x0A>", "a" * 40, "the " * 12, "\u2581under\u2581", "x\u0000y",
]


def double_way(text, scores):
    """The best way through a text by sums of double precision; None where a character has no piece."""
    data = text.encode()
    best = [None] * (len(data) + 1)
    best[0] = (0.0, 0, None)
    for at in range(len(data)):
        if best[at] is None:
            continue
        for end in range(at + 1, min(len(data), at + 48) + 1):
            piece = scores.get(data[at:end])
            if piece is not None:
                total = best[at][0] + piece[1]
                if best[end] is None or total > best[end][0]:
                    best[end] = (total, at, piece[0])
    if best[-1] is None:
        return None
    ids, at = [], len(data)
    while at > 0:
        _, at, piece = best[at]
        ids.append(piece)
    return ids[::-1]


def ties(folder):
    """Adds ties.json: texts that sums of double precision cut otherwise, for the unigram models that are there."""
    rng = random.Random(11)
    cases = {}
    for model in sorted(folder.glob("unigram-*.model")):
        processor = spm.SentencePieceProcessor(model_proto=model.read_bytes())
        count = processor.get_piece_size()
        scores = {
            processor.id_to_piece(i).encode(): (i, processor.get_score(i)) for i in range(count)
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i) or processor.is_unused(i))
        }
        found = []
        for _ in range(20000):
            # Of several ways through a repetition the pieces are the same, in another order.
            parts = ["".join(rng.choices("etaoinshrdl", k=rng.randrange(1, 4))) * rng.randrange(2, 12) for _ in range(4)]
            text = " ".join(parts)
            ids = processor.encode(text)
            prepared = "".join(processor.id_to_piece(ids))
            double = double_way(prepared, scores)
            if double != ids:
                found.append({"text": text, "ids": ids, "decoded": processor.decode(ids), "double": double})
            if len(found) == 12:
                break
        cases[model.stem] = found
    (folder / "ties.json").write_text(json.dumps(cases, ensure_ascii=True, indent=0, sort_keys=True) + "\n")


def main():
    if sys.argv[1] == "--ties":
        return ties(Path(sys.argv[2]))
    text, out = Path(sys.argv[1]), Path(sys.argv[2])
    nfkc = "--nfkc" in sys.argv
    out.mkdir(parents=True, exist_ok=True)
    sample = "\n".join(line.strip() for line in text.read_text(encoding="utf-8").splitlines()[:4000] if line.strip())
    table = tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False)
    for source, target in TABLE:
        spell = lambda s: " ".join(f"{ord(c):X}" for c in s)
        table.write(f"{spell(source)}\t{spell(target)}\n")
    table.close()
    rng = random.Random(7)
    alphabet = list("aeit nrs.,'\n\t") + ["  ", "\u00e9", "e\u0301", "\ufb01", "\uff21", "\u00a0", "\u3000", "\u200b", "\u2026",
        "\u00bd", "\U0001f451", "\u4e2d", "<tool>", "ab c", "xy", "the ", "king", "\u2581", "\u0416", "<s>"]
    texts = TEXTS + ["".join(rng.choices(alphabet, k=rng.randrange(1, 30))) for _ in range(400 if nfkc else 60)]
    cases = {}
    for name, options in KINDS.items():
        if name in IDENTITY:
            options = dict(options, normalization_rule_name="identity")
        elif nfkc:
            options = dict(options, normalization_rule_name="nmt_nfkc" if "bpe" in name else "nfkc_cf")
        else:
            options = dict(options, normalization_rule_tsv=table.name)
        model = io.BytesIO()
        size = 600 if options.get("byte_fallback") else 340
        spm.SentencePieceTrainer.train(sentence_iterator=iter(sample.splitlines()), model_writer=model, vocab_size=size,
            character_coverage=0.98, minloglevel=2, hard_vocab_limit=False, **options)
        (out / f"{name}.model").write_bytes(model.getvalue())
        processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
        cases[name] = []
        for case in texts:
            ids = processor.encode(case)
            cases[name].append({"text": case, "ids": ids, "decoded": processor.decode(ids)})
    (out / "cases.json").write_text(json.dumps(cases, ensure_ascii=True, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
