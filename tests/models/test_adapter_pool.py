"""Adapters of a pool compute as each of them alone, whatever their method."""

import keras
import models
import numpy as np
import pytest
from cases import EVERY, METHODS
from mixed_batch import IDS, adapted, alone, batch, small
from traces import Watch

import keras_svd_adapters as ksa

CASES = {
    name: case.method
    for place, (name, case) in enumerate(METHODS.items())
    if name != "token_rows"
    and not (case.variant and case.method.shared_by)  # one model has one set of shared arrays
    and (EVERY or place % 4 == 0)
}
WEIGHTS = {"a": [0.4, 1.0, 0.0, 0.5, -1.0], "b": 1.0}


def with_weights(model, x, weights):
    """Each sample by itself with its weights."""
    rows = []
    for i, sample in enumerate(x):
        ksa.set_adapter(model, {k: w if np.isscalar(w) else w[i] for k, w in weights.items()})
        rows.append(model.predict(sample[None], verbose=0))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *rows)


def check(found, expected, size=2e-5):
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=size * max(1, np.abs(other).max()))


def pooled(model, like="a", slots=2):
    """The adapters of a model in a pool, and no longer on the model."""
    pool = ksa.AdapterPool(model, like, slots=slots)
    for name in ("a", "b"):
        pool.add(name, model)
        ksa.delete_adapter(model, name)
    return pool


def test_each_method():
    inputs = keras.Input((6, 10))
    outputs = {name: keras.layers.Dense(10, name=name)(inputs) for name in CASES}
    model, x = adapted(keras.Model(inputs, outputs), None, targets=CASES), batch()
    expected, weighted = alone(model, x, IDS), with_weights(model, x, WEIGHTS)
    plain = alone(model, x, [None] * len(IDS))
    pooled(model)
    check(ksa.predict(model, x, IDS), expected)
    for name, right in expected.items():
        assert np.abs(right - plain[name]).max() > 0.05, name
    check(ksa.predict(model, x, adapter_weights=WEIGHTS), weighted)
    check(ksa.predict(model, x, [None] * len(IDS)), plain)


def tables():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(11, 8, name="table")(inputs)
    x = keras.layers.Conv1D(5, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="up")(x))
    adapted(model, ksa.LoRA(rank=2), targets=["table", "slide", "up"])
    return model, np.random.default_rng(3).integers(11, size=(5, 6)), 2e-5


def integers():
    model = small()
    model.quantize("int8", filters="heads|square")
    return adapted(model, ksa.SVF(), targets=["heads", "square"]), batch(), 2e-5


def halves():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return adapted(small(), ksa.LoRA(rank=2), targets="*"), batch(), 2e-2
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("build", [tables, integers, halves])
def test_each_kernel(build):
    model, x, size = build()
    expected = alone(model, x, IDS).astype("float32")
    pool = pooled(model)
    check(ksa.predict(model, x, IDS, batch_size=3).astype("float32"), expected, size)
    assert pool.host_bytes == 2 * pool.device_bytes // 3  # in the compute dtype on both


def test_a_thousand_adapters_of_a_llama():
    """In random order, with 16 slots: equal to each alone, nothing traced, no more memory."""
    watch, rng = Watch(), np.random.default_rng(0)
    backbone, _ = models.llama(num_layers=1)
    model = keras.Model(backbone.input, watch(backbone.output))
    pool = ksa.AdapterPool(model, ksa.LoRA(rank=2), slots=16, targets=["query", "value"])
    held, shapes = pool.device_bytes, {s.path: s.view.matrix_shape for s in pool.sites.values()}
    order = [f"user {i}" for i in rng.permutation(1000)]
    drawn = {name: {path: draw(rng, *shape) for path, shape in shapes.items()} for name in order}
    for name in sorted(order):
        pool.add(name, drawn[name])
    tokens = rng.integers(1, models.TOKENS, (1000, 4)).astype("int32")
    x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    ksa.predict(model, part(x, 0, 16), order[:16], batch_size=16)
    watch.traced.clear()
    found = ksa.predict(model, x, order, batch_size=16)
    assert keras.backend.backend() == "torch" or not watch.traced
    assert pool.loads == 1000
    assert set(order[-8:]) < set(pool.resident) < set(order[-24:])
    rows = [w for w in model.weights if w.path.endswith("/adapter_pool/slots/rows_float32")]
    assert sum(4 * np.prod(weight.shape) for weight in rows) == pool.device_bytes == held
    assert pool.host_bytes == 1000 * held // 17

    pool.close()
    ksa.enable(model, ksa.LoRA(rank=2), targets=["query", "value"])
    own = {weight.path: weight for weight in model.trainable_weights}
    for row, name in list(enumerate(order))[:: 1 if EVERY else 5]:
        for path, arrays in drawn[name].items():
            for array, value in arrays.items():
                own[f"{path}/adapter_default/{array}"].assign(value)
        right = keras.ops.convert_to_numpy(model.predict_on_batch(part(x, row, row + 1)))
        check(found[row : row + 1], right)


def draw(rng, m, n):
    """A LoRA for a kernel."""
    a, b = rng.normal(size=(m, 2)), rng.normal(size=(2, n))
    return {"lora_a": a.astype("float32"), "lora_b": b.astype("float32")}


def part(x, start, stop):
    return {key: value[start:stop] for key, value in x.items()}
