#!/usr/bin/env python3
"""Loads a GGUF file in upstream llama.cpp and compares what it says with `bitnet logits`.

Needs the PyPI packages xllamacpp (llama.cpp with Python bindings), numpy and safetensors:

    python3 -m venv venv && venv/bin/pip install xllamacpp numpy safetensors
    venv/bin/python tools/check_gguf_upstream.py --bitnet target/release/bitnet MODEL.gguf

Both read the same token ids; compared are the log-probabilities of the whole vocabulary after the last one. llama.cpp
quantises activations by blocks of 256 where we do by token, so that a few hundredths are expected for TQ files.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import numpy as np
import xllamacpp
from safetensors.numpy import load_file


def ours(binary, model, ids):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.safetensors"
        command = [binary, "logits", "--model", model, "--ids", ",".join(map(str, ids)), "--out", str(out)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        logits = load_file(out)["logits"][-1].astype(np.float64)
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def upstream(server, ids, vocab, forced):
    # Probabilities come with a token whose text is whole: one is forced, which does not change what they are.
    request = {
        "prompt": ids,
        "n_predict": 1,
        "temperature": 0.0,
        "n_probs": vocab,
        "cache_prompt": False,
        "logit_bias": [[forced, 1000.0]],
    }
    body = json.dumps(request).encode()
    request = urllib.request.Request(f"{server.listening_address}/completion", data=body)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        entries = json.loads(answer.read()).get("completion_probabilities") or []
    out = np.full(vocab, np.nan)
    for item in entries[0]["top_logprobs"] if entries else []:
        out[item["id"]] = item["logprob"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitnet", default="target/release/bitnet")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--forced", type=int, default=300, help="id of a token of plain letters")
    parser.add_argument("model")
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.n_ctx = 128
    params.warmup = False
    server = xllamacpp.Server(params)
    shape = subprocess.run([args.bitnet, "inspect", args.model, "--json"], check=True, capture_output=True)
    vocab = json.loads(shape.stdout)["config"]["vocab"]
    random = np.random.default_rng(1)
    worst, agreed = 0.0, 0
    for _ in range(args.prompts):
        ids = [int(i) for i in random.integers(0, vocab, 12)]
        a, b = ours(args.bitnet, args.model, ids), upstream(server, ids, vocab, args.forced)
        seen = ~np.isnan(b)
        if seen.sum() < vocab // 2:
            sys.exit(f"{args.model}: llama.cpp gave {seen.sum()} of {vocab} probabilities")
        # Weighted by probability, as the far tail says little.
        rms = float(np.sqrt((np.exp(a[seen]) * (a[seen] - b[seen]) ** 2).sum()))
        worst, agreed = max(worst, rms), agreed + int(a.argmax() == np.nanargmax(b))
    print(f"{args.model}: {args.prompts} prompts, worst rms of log-probabilities {worst:.4f}, argmax agrees {agreed}")
    if not worst <= args.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    main()
