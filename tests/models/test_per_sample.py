"""One adapter per sample: the same as each sample alone with its own."""

from itertools import product

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import EVERY, EVERY_METHOD, shake
from mixed_batch import IDS, adapted, alone, batch, small

import keras_svd_adapters as ksa


def check(model, ids=IDS, batch_size=2):
    x = batch()[: len(ids)]
    expected, plain = (by_name(alone(model, x, given)) for given in (ids, [None] * len(ids)))
    found = by_name(ksa.predict(model, x, ids, batch_size=batch_size))
    for name, right in expected.items():
        assert np.abs(right - plain[name]).max() > 0.02, name
        np.testing.assert_allclose(found[name], right, rtol=0, atol=2e-5, err_msg=name)


def by_name(outputs):
    return outputs if isinstance(outputs, dict) else {"output": outputs}


CASES = {
    name: case.method
    for name, case in EVERY_METHOD.items()
    if name != "token_rows"
    and not case.square_only
    and not (case.variant and case.method.shared_by)  # one model has one set of shared arrays
}
KERNELS = {
    "heads": lambda name: keras.layers.EinsumDense(
        "btd,dhe->bthe", (None, 4, 5), bias_axes="he", name=name
    ),
    "out": lambda name: keras.layers.EinsumDense("bthe,hed->btd", (None, 16), name=name),
    "square": lambda name: keras.layers.Dense(10, activation="gelu", name=name),
}


def test_each_sample_has_its_own():
    """Methods side by side in one model, each with a layer and an output of its own."""
    inputs = keras.Input((6, 10))
    split = keras.layers.Reshape((6, 2, 5))(inputs)
    outputs, targets = {}, {}
    for place, (method, kernel) in enumerate(product(CASES, KERNELS)):
        if EVERY or place % 4 == 0:  # each method with one kernel, each kernel with several
            name = f"{method}_{kernel}"
            outputs[name] = KERNELS[kernel](name)(split if kernel == "out" else inputs)
            targets[name] = CASES[method]
    assert len({key.rpartition("_")[2] for key in targets}) == len(KERNELS)
    check(adapted(keras.Model(inputs, outputs), None, targets=targets))


def test_methods_ranks_and_layers_may_differ():
    model = small()
    ksa.enable(model, ksa.LoRA(rank=2), name="a", targets=["heads", "square"])
    shake(model)
    ksa.enable(model, ksa.SVFT(pattern="banded", d=1), name="b", targets=["out", "square"])
    shake(model)
    ksa.enable(model, ksa.LoRA(rank=4), name="c", targets="*")
    shake(model)
    before = ksa.status(model).adapters
    check(model, ["c", "b", "a", None, "b"], batch_size=5)
    ksa.set_adapter(model, "c")
    assert ksa.status(model).adapters == before


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_half_precision(dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    finally:
        keras.config.set_dtype_policy(before)
    found = ksa.predict(model, batch(), IDS).astype("float32")
    expected = alone(model, batch(), IDS).astype("float32")
    assert np.linalg.norm(found - expected) < 2e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("axes", [2, 3])
def test_convolutions_of_images(axes):
    layer = {2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[axes]
    model = keras.Sequential([keras.Input((*(5,) * axes, 3)), layer(4, 2, name="slide")])
    adapted(model, ksa.SVF(), targets="slide")
    x = np.random.default_rng(3).normal(size=(5, *(5,) * axes, 3)).astype("float32")
    expected = alone(model, x, IDS)
    np.testing.assert_allclose(ksa.predict(model, x, IDS), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("mode", ["int8", "int4", "nf4"])
def test_kernels_of_integers(mode):
    model = small()
    if mode == "nf4":
        ksa.quantize(model, mode, verbose=0)
    else:
        model.quantize(mode, filters="heads|square")
    check(adapted(model, ksa.SVF(), targets=["heads", "square"]))


def test_convolutions_and_embeddings():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(11, 8, name="table")(inputs)
    x = keras.layers.Conv1D(5, 3, padding="same", name="slide")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="up")(x))
    adapted(model, ksa.LoRA(rank=2), targets=["table", "slide", "up"])
    x = np.random.default_rng(3).integers(11, size=(5, 6))
    expected = alone(model, x, IDS)
    found = ksa.predict(model, x, IDS, batch_size=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_several_inputs_and_outputs():
    one, two = keras.Input((4,), name="one"), keras.Input((6,), name="two")
    up, down = keras.layers.Dense(5, name="up")(one), keras.layers.Dense(3, name="down")(two)
    model = keras.Model({"one": one, "two": two}, {"up": up, "down": down})
    adapted(model, ksa.SVF(), targets=["up", "down"])
    rng = np.random.default_rng(3)
    x = {"one": rng.normal(size=(5, 4)), "two": rng.normal(size=(5, 6))}
    found = ksa.predict(model, x, IDS, batch_size=2)
    for i, name in enumerate(IDS):
        ksa.set_adapter(model, name)
        expected = model.predict({k: v[i : i + 1] for k, v in x.items()}, verbose=0)
        for key in expected:
            np.testing.assert_allclose(found[key][i], expected[key][0], rtol=0, atol=2e-5)


def language_model(sampler="greedy"):
    model = models.gemma(num_layers=1, num_key_value_heads=2)
    model.compile(sampler=sampler)
    return model


GENERATED = {
    "greedy": ("greedy", ksa.LoRA(rank=2)),
    "beam": (keras_hub.samplers.BeamSampler(num_beams=3), ksa.SVFT(pattern="banded", d=1)),
}


@pytest.mark.parametrize(("sampler", "method"), GENERATED.values(), ids=GENERATED)
def test_text_is_generated_with_one_per_prompt(sampler, method):
    model = adapted(language_model(sampler), method)
    tokens = np.random.default_rng(2).integers(1, 40, size=(2, 8)).astype("int32")
    mask = np.zeros_like(tokens)
    mask[:, :3] = 1
    prompts = {"token_ids": tokens, "padding_mask": mask}
    ids = ["a", "b"]
    found = ksa.generate(model, prompts, ids, stop_token_ids=None)
    expected = []
    for i, name in enumerate(ids):
        ksa.set_adapter(model, name)
        prompt = {k: v[i : i + 1] for k, v in prompts.items()}
        expected.append(model.generate(prompt, stop_token_ids=None)["token_ids"][0])
    np.testing.assert_array_equal(found["token_ids"], expected)
    assert not np.array_equal(expected[0][3:], expected[1][3:])
