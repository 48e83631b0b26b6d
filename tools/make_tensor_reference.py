#!/usr/bin/env python3
"""Writes the reference values of tensor operations, as PyTorch computes them on the CPU.

    python3 tools/make_tensor_reference.py crates/bitnet-core/tests/data/tensor/pytorch.safetensors

Needs torch. `tests/tensor_pytorch.rs` of bitnet-core calls the same operations on the same inputs. Of every
floating-point result `NAME` the file also holds `NAME.terms`, the sum of the magnitudes of its terms, which the bound
of the comparison is relative to. Integers are stored as I32, truth values as U8.
"""

import json
import struct
import sys

import torch
from torch.nn import functional

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8"}
tensors = {}
# Of what is lost of numbers below the least normal ones.
TINY = 1e-37


def put(name, value, terms=None):
    if value.dtype == torch.bool:
        value = value.to(torch.uint8)
    if value.dtype == torch.int64:
        value = value.to(torch.int32)
    tensors[name] = value.contiguous()
    if terms is not None:
        tensors[name + ".terms"] = terms.to(torch.float32).contiguous()


def elementwise(x, y, bias):
    put("add", x + bias, x.abs() + bias.abs())
    put("sub", x - y, x.abs() + y.abs())
    put("mul", x * y, (x * y).abs())
    put("div", x / y, (x / y).abs())
    put("rem", torch.remainder(x, y), x.abs() + y.abs())
    put("pow", x.abs() ** bias, x.abs() ** bias)
    put("maximum", torch.maximum(x, y), torch.zeros(()))
    put("minimum", torch.minimum(x, bias), torch.zeros(()))
    for name in ["lt", "le", "gt", "ge", "eq", "ne"]:
        put(name, getattr(torch, name)(x.round(), y.round()))
    put("where", torch.where(x > 0, x, bias), torch.zeros(()))
    positive = x.abs() + 0.01
    for name, of in [("exp", x), ("log", positive), ("log1p", positive), ("sqrt", positive), ("rsqrt", positive),
                     ("sin", x), ("cos", x), ("erf", x), ("tanh", x), ("abs", x), ("sign", x), ("floor", x),
                     ("ceil", x), ("round", x * 2)]:
        result = getattr(torch, name)(of)
        # Sine and cosine are sums that cancel; of the others the result is the one term.
        put(name, result, torch.ones(()) if name in ["sin", "cos"] else result.abs())


def reductions(x):
    put("sum", x.sum((0, 2)), x.abs().sum((0, 2)))
    put("sum_first", x.sum(0, keepdim=True), x.abs().sum(0, keepdim=True))
    put("sum_all", x.sum(), x.abs().sum())
    put("mean", x.mean(1), x.abs().mean(1))
    put("prod", x.prod(-1), x.prod(-1).abs())
    put("max", x.amax((1, 2)), torch.zeros(()))
    put("min", x.amin(0), torch.zeros(()))
    put("argmax", x.argmax(1))
    put("argmin", x.argmin(2, keepdim=True))
    put("var", x.var((1, 2)), (x * x).mean((1, 2)))
    put("var_population", x.var(0, correction=0), (x * x).mean(0))
    put("std", x.std(1), x.abs().amax(1))
    for order in [0.0, 1.0, 2.0, 3.0, float("inf")]:
        norm = torch.linalg.vector_norm(x, order, 1)
        put(f"norm_{order}", norm, norm)
    # The logarithm is the last rounding, and it may cancel.
    put("logsumexp", x.logsumexp(2), x.logsumexp(2).abs() + x.abs().amax(2))
    put("softmax", x.softmax(1), x.softmax(1))
    put("log_softmax", x.log_softmax(-1), x.log_softmax(-1).abs() + x.abs().amax(-1, keepdim=True))
    put("cumsum", x.cumsum(1), x.abs().cumsum(1))
    values, indices = x.sort(dim=1, stable=True)
    put("sort", values, torch.zeros(()))
    put("argsort", indices)
    values, indices = x.topk(3, 2)
    put("topk", values, torch.zeros(()))
    put("topk_indices", indices)
    put("any", (x > 2).any(2))
    put("all", (x > -2).all(2))


def products(generator):
    a = torch.randn(2, 1, 5, 33, generator=generator)
    b = torch.randn(3, 33, 7, generator=generator)
    put("a", a)
    put("b", b)
    put("matmul", a @ b, a.abs() @ b.abs())
    put("matmul_transposed", a.mT @ a, a.mT.abs() @ a.abs())
    put("matmul_row", a[0, 0, 0] @ b[1], a[0, 0, 0].abs() @ b[1].abs())
    for name, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)]:
        left, right = a[0, 0].to(dtype), b[0].to(dtype)
        put(f"matmul_{name}", left @ right, left.float().abs() @ right.float().abs())
    left = torch.randint(-128, 128, (4, 37), generator=generator)
    right = torch.randint(-1, 2, (11, 37), generator=generator)
    put("activations", left.to(torch.int8))
    put("ternary", right.to(torch.int8))
    put("linear_ternary", left @ right.T)


def activations(of, x):
    functions = {
        "relu": functional.relu,
        "relu2": lambda x: functional.relu(x) ** 2,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": functional.softplus,
    }
    # Of the slopes the terms of the formulas: PyTorch computes 1 - tanh^2 and 1 - sigmoid, which cancel.
    s, t, density = torch.sigmoid(x), torch.tanh(x), (-x * x / 2).exp()
    slopes = {
        "relu": torch.ones_like(x),
        "relu2": 2 * functional.relu(x),
        "gelu": 1 + 0.4 * x.abs() * density,
        "gelu_tanh": 1 + x.abs() * (1 + 0.14 * x * x) * (torch.tanh(0.8 * (x + 0.0447 * x ** 3)).abs() < 1),
        "silu": s * (1 + x.abs() * (1 + s)),
        "sigmoid": s * (1 + s),
        "tanh": 1 + t * t,
        "softplus": s,
    }
    gradient = torch.linspace(-2, 2, x.numel()).reshape(x.shape)
    put(f"{of}gradient", gradient)
    for name, function in functions.items():
        leaf = x.clone().requires_grad_(True)
        result = function(leaf)
        result.backward(gradient)
        # Beside x * (1 + erf) and x * (1 + tanh), which cancel below zero, the result is the one term. Subnormal numbers
        # have fewer bits.
        terms = x.abs() if name.startswith("gelu") else result.detach().abs()
        put(f"{of}{name}.forward", result.detach(), terms + TINY)
        put(f"{of}{name}.backward", leaf.grad, gradient.abs() * slopes[name] + TINY)


def odd(generator):
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([
        [1, -2, 0.5, 3, 0],
        [1, nan, -3, 2, 0.25],
        [2, -1, inf, 0.5, 4],
        [-inf, 2, -0.0, 0.0, 1],
        [inf, -1, -inf, 2, 0],
        [-inf, -inf, -inf, -inf, -inf],
        [nan, 1, inf, -inf, 5],
        [3, nan, 3, nan, -1],
        [inf, 7, inf, 7, 2],
    ])
    y = torch.randn(x.shape, generator=generator)
    y[0, 2], y[2, 2], y[3, 0], y[4, 0], y[6, 1] = nan, inf, -inf, -inf, nan
    put("odd", x)
    put("odd.other", y)

    def put_odd(name, value, terms=None):
        put(f"odd.{name}", value, None if not value.is_floating_point() else value.abs() if terms is None else terms)

    for name in ["maximum", "minimum", "add", "sub", "mul", "div", "lt", "le", "gt", "ge", "eq", "ne"]:
        put_odd(name, getattr(torch, name)(x, y))
    put_odd("rem", torch.remainder(x, y), x.abs() + y.abs())
    put_odd("pow", x ** y)
    put_odd("where", torch.where(x.bool(), y, -y))
    put_odd("clamp", x.clamp(-1.5, 2))
    for name in ["exp", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf", "tanh", "abs", "floor", "ceil",
                 "round", "isnan"]:
        result = getattr(torch, name)(x)
        put_odd(name, result, torch.ones(()) if name in ["sin", "cos"] else None)
    for name in ["sum", "mean", "prod", "amax", "amin", "argmax", "argmin", "logsumexp"]:
        put_odd(name, getattr(x, name)(1), x.nan_to_num(0, 0, 0).abs().sum(1))
    put_odd("var", x.var(1), (x * x).sum(1))
    put_odd("std", x.std(1), x.abs().sum(1))
    for order in [0.0, 1.0, 2.0, 3.0, inf, -inf]:
        put_odd(f"norm_{order}", torch.linalg.vector_norm(x, order, 1))
    put_odd("any", x.bool().any(1))
    put_odd("all", x.bool().all(1))
    put_odd("softmax", x.softmax(1))
    put_odd("log_softmax", x.log_softmax(1), x.log_softmax(1).abs() + 10)
    put_odd("cumsum", x.cumsum(1), x.nan_to_num(0, 0, 0).abs().cumsum(1))
    for descending in [False, True]:
        values, indices = x.sort(dim=1, descending=descending, stable=True)
        put_odd(f"sort_{descending}".lower(), values)
        put_odd(f"argsort_{descending}".lower(), indices)
    for greatest in [False, True]:
        put_odd(f"topk_{greatest}".lower(), x.topk(3, 1, largest=greatest).values)
    put_odd("matmul", x @ y.T, x.nan_to_num(0, 0, 0).abs() @ y.nan_to_num(0, 0, 0).abs().T)
    # In the form of their definitions: the vectorised functions of PyTorch give NaN or 0 at infinity by the place.
    functions = {
        "relu": functional.relu,
        "relu2": lambda x: functional.relu(x) ** 2,
        "gelu": lambda x: x * (0.5 * (1 + torch.erf(x * 0.5 ** 0.5))),
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": lambda x: x * torch.sigmoid(x),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": functional.softplus,
    }
    for name, function in functions.items():
        leaf = x.clone().requires_grad_(True)
        result = function(leaf)
        result.backward(torch.ones_like(x))
        put_odd(f"{name}.forward", result.detach(), x.abs())
        put_odd(f"{name}.backward", leaf.grad, 1 + x.abs())


def choices(x, generator):
    indices = torch.randint(0, x.shape[1], (x.shape[0], 4, x.shape[2]), generator=generator)
    put("gather_indices", indices)
    put("gather", x.gather(1, indices), torch.zeros(()))
    places = torch.tensor([4, 0, 0, 2])
    put("index_select", x.index_select(1, places), torch.zeros(()))
    put("one_hot", functional.one_hot(places, 6))
    put("concat", torch.cat([x, x[:, 1:3]], 1), torch.zeros(()))
    put("stack", torch.stack([x[0], x[1]], 1), torch.zeros(()))
    put("views", x.flip(0)[:, 1::2].permute(2, 0, 1), torch.zeros(()))


def integers(generator):
    left = torch.randint(-100, 100, (6, 5), generator=generator, dtype=torch.int32)
    right = torch.randint(1, 9, (5,), generator=generator, dtype=torch.int32)
    put("integers", left)
    put("divisors", right)
    put("integer_rem", torch.remainder(left, -right))
    put("integer_pow", left ** right)
    put("integer_sum", left.sum(0))
    put("integer_matmul", left @ left.T)
    put("integer_cumsum", left.cumsum(1))


def half(x):
    for name, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16)]:
        low = x.to(dtype)
        put(f"{name}", low)
        put(f"{name}.add", low + low[0])
        put(f"{name}.mul", low * low[1])
        put(f"{name}.exp", low.exp())


def main():
    generator = torch.Generator().manual_seed(20)
    x = torch.randn(4, 5, 6, generator=generator) * 3
    y = torch.randn(4, 5, 6, generator=generator) * 3
    bias = torch.randn(5, 1, generator=generator)
    put("x", x)
    put("y", y)
    put("bias", bias)
    wide = torch.linspace(-12, 12, 193)
    put("wide", wide)
    elementwise(x, y, bias)
    reductions(x)
    products(generator)
    activations("", wide)
    # Where exponentials leave the numbers of f32 and squares do not.
    far = torch.tensor([20.0, 45, 88, 104, 1e4, 1e18]).outer(torch.tensor([1.0, -1])).flatten()
    put("far", far)
    activations("far.", far)
    choices(x, generator)
    integers(generator)
    half(x)
    odd(generator)
    header, at = {}, 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(sys.argv[1], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(bytes(value.flatten().view(torch.uint8).tolist()) if value.numel() else b"")
    print(f"{sys.argv[1]}: {len(tensors)} tensors of torch {torch.__version__}")


if __name__ == "__main__":
    main()
