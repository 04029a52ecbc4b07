"""Keys and values of a prefix from one embedding and one hidden layer for all layers of a model.

    P_k = h D_k + b_k,  P_v = h D_v + b_v,  h = tanh(E W + b)        E (p, s), W (s, s), D (s, n)

Li and Liang 2021, arXiv:2101.00190.
"""

from __future__ import annotations

from math import sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
from keras import ops

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.contract import Array
from keras_svd_adapters.methods.random_bases import PortableRandom

TIED = ("prompt", "encoder", "encoder_bias")


def encoder_arrays(length: int, size: int, n: int) -> dict[str, Array]:
    """Return the declarations of E, W, b and, for each layer, D and its bias."""
    decoder = Array((size, n), trainable=True, axes=".n")
    bias = Array((n,), trainable=True, start=0.0, axes="n")
    return {
        "prompt": Array((length, size), trainable=True),
        "encoder": Array((size, size), trainable=True),
        "encoder_bias": Array((size,), trainable=True, start=0.0),
        "keys": decoder,
        "values": decoder,
        "keys_bias": bias,
        "values_bias": bias,
    }


def start_encoder(
    length: int, size: int, n: int, std: float, seed: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return first values: tied arrays from the seed, and D from the generator of the layer."""
    same = PortableRandom(seed)
    return {
        "prompt": same.normal((length, size)),
        "encoder": same.uniform((size, size), 1 / sqrt(size)),
        **{x: rng.normal(size=(size, n)) * std / sqrt(size) for x in ("keys", "values")},
    }


def encoded(v: SimpleNamespace) -> dict[str, Any]:
    """Return the keys and values, each `(p, n)`."""
    hidden = ops.tanh(matmul(v.prompt, v.encoder) + v.encoder_bias)
    return {
        "keys": matmul(hidden, v.keys) + v.keys_bias,
        "values": matmul(hidden, v.values) + v.values_bias,
    }
