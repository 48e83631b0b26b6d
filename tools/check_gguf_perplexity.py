#!/usr/bin/env python3
"""Compares the perplexity of a text under bitnet.cpp's (or llama.cpp's) `llama-perplexity` with ours.

Needs numpy, and a `llama-perplexity` that reads the file's types (bitnet.cpp's for I2_S):

    bitnet convert MODEL model.gguf --to gguf-i2_s
    python3 tools/check_gguf_perplexity.py --bitnet target/release/bitnet --peer llama-perplexity model.gguf text.txt

Both cut the text's ids into chunks of 512 and score the second half of each, as that program does. Exits with 1 when
the two differ by more than one percent.
"""

import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

import numpy as np

CHUNK = 512


def peer(binary, model, text):
    command = [binary, "-m", model, "-f", text, "-c", str(CHUNK), "-b", str(CHUNK), "-t", "1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"PPL = ([0-9.]+)", output.stdout + output.stderr)
    if found is None:
        sys.exit(f"{binary} printed no perplexity")
    return float(found.group(1))


def logits(binary, model, ids, folder):
    out = pathlib.Path(folder) / "logits.safetensors"
    command = [binary, "logits", "--model", model, "--ids", ",".join(map(str, ids)), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    data = out.read_bytes()
    (header,) = struct.unpack("<Q", data[:8])
    shape = json.loads(data[8 : 8 + header])["logits"]["shape"]
    return np.frombuffer(data[8 + header :], np.float32).reshape(shape).astype(np.float64)


def ours(binary, model, text):
    def tokens(*options):
        command = [binary, "tokenize", "--model", model, "--file", text, "--json", *options]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["ids"]

    ids, bare = tokens(), tokens("--no-special")
    # What the model puts before a text; none, for a model that has no such habit.
    has_first = len(ids) > len(bare) and ids[1 : 1 + len(bare)] == bare
    total, count = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(ids) - CHUNK + 1, CHUNK):
            chunk = ids[start : start + CHUNK]
            if has_first:
                # Each chunk begins with it, in the place of its own first token, as in that program.
                chunk[0] = ids[0]
            rows = logits(binary, model, chunk, folder)
            for place in range(CHUNK // 2, CHUNK - 1):
                row, most = rows[place], rows[place].max()
                total += np.log(np.exp(row - most).sum()) + most - row[chunk[place + 1]]
                count += 1
    return float(np.exp(total / count))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitnet", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("model")
    parser.add_argument("text")
    args = parser.parse_args()
    theirs, own = peer(args.peer, args.model, args.text), ours(args.bitnet, args.model, args.text)
    print(f"perplexity: peer {theirs:.4f}, ours {own:.4f}")
    sys.exit(0 if abs(own / theirs - 1) <= 0.01 else 1)


if __name__ == "__main__":
    main()
