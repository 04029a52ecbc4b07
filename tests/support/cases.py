"""The tables that every property runs over: one row per method, kernel and dtype."""

import os
from itertools import product

import keras
import numpy as np
import pytest
from method_table import METHODS
from routed_table import ROUTED

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.low_rank_update import LowRankUpdate
from keras_svd_adapters.methods.spectral.spectral import Spectral


def dense(m, n):
    def build(dtype):
        layer = keras.layers.Dense(n, activation="gelu", dtype=dtype)
        layer.build((None, m))
        return layer

    return build, (5, m)


def einsum(equation, input_shape, output_shape, bias_axes=None):
    def build(dtype):
        layer = keras.layers.EinsumDense(
            equation, output_shape=output_shape, bias_axes=bias_axes, dtype=dtype
        )
        layer.build((None, *input_shape[1:]))
        return layer

    return build, input_shape


KERNELS = {
    "tall": dense(40, 12),
    "wide": dense(12, 40),
    "square": dense(16, 16),
    "nearly_square": dense(18, 14),
    "btd,ndh->btnh": einsum("btd,ndh->btnh", (2, 3, 16), (None, 4, 4)),
    "btnh,nhd->btd": einsum("btnh,nhd->btd", (2, 3, 4, 4), (None, 16), "d"),
    "btd,df->btf": einsum("btd,df->btf", (2, 3, 10), (None, 24), "f"),
}

SQUARE = {"square", "btd,ndh->btnh", "btnh,nhd->btd"}
DTYPES = ("float32", "mixed_bfloat16", "bfloat16")


EVERY = "EVERY" in os.environ


EVERY_METHOD = METHODS | ROUTED  # the latter have no merged kernel
# Methods outside of the core: most tables have one row of each, on one backend.
FURTHER = {n for n, case in EVERY_METHOD.items() if not hasattr(ksa, type(case.method).__name__)}


def combinations(*tables, fits=lambda *names: True, each_backend=False):
    """The combinations of the rows of several tables.

    With `EVERY=1` all of them. Else three for each row of the first table, each at another
    place of the other tables, and each backend is dealt one of the three (`conftest.py`): one more
    method adds a test a table and backend, however many kernels and dtypes there are.

    Args:
        tables: Lists, or dictionaries for their keys. Methods come first.
        fits: Whether a combination is one.
        each_backend: Whether the further methods have three rows as well.
    """
    chosen = []
    for place, first in enumerate(tables[0]):
        rows = [(first, *rest) for rest in product(*tables[1:]) if fits(first, *rest)]
        if len(rows) > 3 and not EVERY:
            third = len(rows) // 3
            turns = 1 if first in FURTHER and not each_backend else 3
            rows = [rows[(place + turn * third) % len(rows)] for turn in range(turns)]
        chosen += rows
    return chosen


def method_kernel_pairs(variants=False, dtypes=None, table=METHODS):
    """Methods with kernels, and with dtypes if these are given."""
    rows = combinations(
        [name for name, case in table.items() if variants or not case.variant],
        KERNELS,
        *([dtypes] if dtypes else []),
        fits=lambda name, kernel, *_: kernel in SQUARE or not table[name].square_only,
        each_backend=True,
    )
    return [
        pytest.param(table[name], *KERNELS[kernel], *given, id="-".join([name, kernel, *given]))
        for name, kernel, *given in rows
    ]


def many_tokens_pairs():
    """The methods that compute otherwise for many tokens."""
    kinds = (Spectral, LowRankUpdate)
    return [pair for pair in method_kernel_pairs() if isinstance(pair.values[0].method, kinds)]


def build_layer(build, dtype="float32"):
    """A layer whose kernel has a spectrum as of trained weights, and a bias that is not zero."""
    layer = build(dtype)
    rng = np.random.default_rng(11)
    for weight in layer.weights:
        weight.assign(0.4 * rng.normal(size=weight.shape))
    return layer


def adapted(case, layer):
    """The public layer of the method of a case, around a layer."""
    return wrapped_layer(case.method, layer)


def wrapped_layer(method, layer):
    """`SVFTDense(layer, ...)` for an `SVFT(...)`, and so on."""
    public = getattr(ksa.layers, f"{type(method).__name__}Dense")
    return public(layer, **method.get_config())


def batch(shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def shake(layer, size=0.1, seed=9):
    """Moves every trained value away from its start."""
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign_add(size * rng.normal(size=weight.shape))


def numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


def arrays_of(layer):
    """The arrays of the adapter of a public layer, as float64."""
    adapter = layer.base_layer.adapter()
    arrays = adapter.arrays | (adapter.shared.arrays if adapter.shared else {})
    values = {name: keras.ops.convert_to_numpy(v) for name, v in arrays.items()}
    return adapter, {
        k: v.astype("float64") if v.dtype.kind == "f" else v for k, v in values.items()
    }


def close(found, expected, tolerance=2e-5):
    """Equal to a part of the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
