#!/usr/bin/env python3
"""Writes what PyTorch makes of a BitLinear layer and of its gradients, for the tests of bitnet-quant.

    python3 -m venv venv && venv/bin/pip install torch numpy safetensors
    venv/bin/python tools/make_bit_linear_reference.py crates/bitnet-quant/tests/data/bit_linear_torch.safetensors

Both quantisers are straight-through (`x + (quantised(x) - x).detach()`) and round in f32, as in training; products run
in f64, and autograd brings their gradients back to the f32 leaves. Inputs are drawn until none of what is rounded
lies near a half, so that the last bit of a norm decides nothing.
"""

import argparse

import torch
from safetensors.torch import save_file

OUT, IN, TOKENS, EPS = 26, 72, 6, 1e-5
MARGIN = 1e-4


def through(value, quantised):
    # In f64, where the sum is the quantised value itself and not one beside it.
    return value.double() + (quantised - value.double()).detach()


def scale_of_weights(weight):
    return 1.0 / weight.abs().mean().clamp(min=1e-5)


def scale_of_tokens(x):
    return 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)


def layer(x, weight, bias, gains):
    if gains is not None:
        x = torch.nn.functional.rms_norm(x, (IN,), gains, EPS)
    s, t = scale_of_weights(weight), scale_of_tokens(x)
    ternary = through(weight, (weight * s).round().clamp(-1, 1).double() / s.double())
    int8 = through(x, (x * t).round().clamp(-128, 127).double() / t.double())
    return torch.nn.functional.linear(int8, ternary, bias.double())


def near_half(values):
    return ((values.abs() % 1.0) - 0.5).abs().min().item() < MARGIN


def draw(seed):
    random = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=random)
    x, weight, bias = normal(TOKENS, IN) * 3.0, normal(OUT, IN) * 0.04, normal(OUT)
    gains, gradient = 1.0 + 0.2 * normal(IN), normal(TOKENS, OUT)
    normed = torch.nn.functional.rms_norm(x, (IN,), gains, EPS)
    rounded = [weight * scale_of_weights(weight)] + [v * scale_of_tokens(v) for v in (x, normed)]
    return None if any(map(near_half, rounded)) else (x, weight, bias, gains, gradient)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    out = parser.parse_args().out
    seed, drawn = 7, None
    while drawn is None:
        drawn, seed = draw(seed), seed + 1
    x, weight, bias, gains, gradient = drawn
    tensors = {"x": x, "weight": weight, "bias": bias, "gains": gains, "gradient": gradient}
    for name, norm in [("plain", None), ("norm", gains)]:
        leaves = {"x": x, "weight": weight, "bias": bias} | ({} if norm is None else {"gains": norm})
        leaves = {key: value.clone().requires_grad_() for key, value in leaves.items()}
        y = layer(leaves["x"], leaves["weight"], leaves["bias"], leaves.get("gains"))
        y.backward(gradient.double())
        tensors[f"{name}.y"] = y.detach()
        tensors |= {f"{name}.d{key}": value.grad for key, value in leaves.items()}
    metadata = {"torch": torch.__version__, "eps": str(EPS), "seed": str(seed - 1)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, out, metadata)


if __name__ == "__main__":
    main()
