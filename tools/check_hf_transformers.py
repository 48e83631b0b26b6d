#!/usr/bin/env python3
"""Compares the loss of a packed folder that we wrote, in transformers, with `bitnet eval` on the same tokens.

Needs torch, transformers and accelerate:

    bitnet convert MODEL OUT --to hf-packed
    python3 tools/check_hf_transformers.py --bitnet target/release/bitnet OUT tokens.u16 [--windows 16] [--window 512]

tokens.u16 holds ids of two bytes, such as crates/bitnet-model-fairytales/eval/valid.u16. The model is run in float32 and
windows follow each other as `bitnet eval` cuts them. Exits with 1 when the two differ by more than 0.005 nats.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def theirs(folder, ids, windows, window):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # from_pretrained keeps the types of such checkpoints.
    model = model.to(torch.float32).eval()
    print(f"{type(model).__name__}, {type(model.model.layers[0].mlp.up_proj).__name__}", file=sys.stderr)
    losses = []
    with torch.no_grad():
        for at in range(0, windows * window, window):
            piece = torch.from_numpy(ids[at : at + window + 1].astype(np.int64))
            logits = model(piece[None, :-1]).logits[0].double()
            losses.append(torch.nn.functional.cross_entropy(logits, piece[1:]).item())
    return float(np.mean(losses))


def ours(binary, folder, ids, windows, window):
    with tempfile.TemporaryDirectory() as temporary:
        tokens = pathlib.Path(temporary) / "tokens.u16"
        tokens.write_bytes(ids[: windows * window + 1].astype("<u2").tobytes())
        command = [binary, "eval", "--model", folder, "--tokens", tokens, "--window", str(window), "--json"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output)["mean_nll"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("tokens")
    parser.add_argument("--bitnet", default="target/release/bitnet")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()
    ids = np.fromfile(arguments.tokens, dtype="<u2")
    found = theirs(arguments.folder, ids, arguments.windows, arguments.window)
    wanted = ours(arguments.bitnet, arguments.folder, ids, arguments.windows, arguments.window)
    print(f"transformers {found:.5f}, bitnet {wanted:.5f}, difference {abs(found - wanted):.5f} nats a token")
    sys.exit(abs(found - wanted) > 0.005)


if __name__ == "__main__":
    main()
