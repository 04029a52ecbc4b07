"""One adapter per sample: the same as each sample alone with its own."""

from itertools import product

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import EVERY, METHODS, shake

import keras_svd_adapters as ksa

IDS = ["a", None, "b", "a", "b"]


def small():
    inputs = keras.Input((6, 10))
    x = keras.layers.EinsumDense("btd,dhe->bthe", (None, 3, 4), bias_axes="he", name="heads")(
        inputs
    )
    x = keras.layers.Activation("gelu")(x)
    x = keras.layers.EinsumDense("bthe,hed->btd", (None, 16), name="out")(x)
    x = keras.layers.Dense(16, activation="gelu", name="square")(x)
    return keras.Model(inputs, keras.layers.Dense(7, name="head")(x))


def adapted(model, one, other=None, **targets):
    """The model with adapters `a` and `b` of other values each."""
    for seed, (name, method) in enumerate((("a", one), ("b", other or one))):
        ksa.enable(model, method, name=name, **targets)
        rng = np.random.default_rng(seed)
        for weight in model.trainable_weights:
            weight.assign_add(0.2 * rng.normal(size=weight.shape))
    return model


def batch():
    return np.random.default_rng(3).normal(size=(len(IDS), 6, 10)).astype("float32")


def alone(model, x, ids):
    """Each sample by itself with its adapter."""
    rows = []
    for sample, name in zip(x, ids, strict=True):
        ksa.set_adapter(model, name)
        rows.append(model.predict(sample[None], verbose=0))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *rows)


def check(model, ids=IDS, batch_size=2):
    x = batch()[: len(ids)]
    expected, plain = (by_name(alone(model, x, given)) for given in (ids, [None] * len(ids)))
    found = by_name(ksa.predict(model, x, ids, batch_size=batch_size))
    for name, right in expected.items():
        assert np.abs(right - plain[name]).max() > 0.05, name
        np.testing.assert_allclose(found[name], right, rtol=0, atol=2e-5, err_msg=name)


def by_name(outputs):
    return outputs if isinstance(outputs, dict) else {"output": outputs}


CASES = {
    name: case.method
    for name, case in METHODS.items()
    if name != "token_rows" and not case.square_only
}
KERNELS = {
    "heads": lambda name: keras.layers.EinsumDense(
        "btd,dhe->bthe", (None, 3, 5), bias_axes="he", name=name
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


def test_nothing_of_it_stays():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    x = batch()
    names = [w.path for w in model.weights]
    before = model.predict(x, verbose=0)
    ksa.predict(model, x, IDS)
    assert [w.path for w in model.weights] == names
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    ksa.predict(model, x, IDS)


def test_other_ids_need_no_other_trace():
    traced = []

    class Watch(keras.layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    model = keras.Sequential([keras.Input((6, 10)), Watch(), keras.layers.Dense(4, name="up")])
    adapted(model, ksa.LoRA(rank=2), targets="up")
    x = batch()[:2]
    model.compile(run_eagerly=False)
    expected = {ids: alone(model, x, ids) for ids in (("a", "b"), ("b", "a"))}
    ksa.predict(model, x, ["a", "b"])
    traced.clear()
    for ids in (("b", "a"), ("a", "b"), ("b", "a")):
        np.testing.assert_allclose(ksa.predict(model, x, ids), expected[ids], rtol=0, atol=2e-5)
    if keras.backend.backend() != "torch":
        assert not traced


class Table(keras.layers.Layer):
    """Adds to each step what a layer makes of a table, which has no samples."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.up = keras.layers.Dense(10, name="of_table")

    def build(self, shape):
        self.table = self.add_weight(shape=(self.steps, 4))
        self.up.build((self.steps, 4))

    def call(self, x):
        return x + self.up(self.table)


class StepsFirst(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.up = keras.layers.Dense(10, name="of_steps")

    def build(self, shape):
        self.up.build((None, None, 10))

    def call(self, x):
        turned = self.up(keras.ops.transpose(x, (1, 0, 2)))
        return keras.ops.transpose(turned, (1, 0, 2))


@pytest.mark.parametrize("samples", [2, 3, 6])
@pytest.mark.parametrize("layer", [lambda: Table(6), StepsFirst], ids=["table", "steps"])
def test_layers_without_the_batch_in_front_are_refused(layer, samples):
    inputs = keras.Input((6, 10))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(layer()(inputs)))
    adapted(model, ksa.LoRA(rank=2), targets=lambda site: site.name.startswith("of_"))
    x = np.random.default_rng(0).normal(size=(samples, 6, 10)).astype("float32")
    before = model.predict(x, verbose=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="the batch as its first axis"):
            ksa.predict(model, x, ["a", "b", "a", "b", "a", "b"][:samples])
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


def test_what_was_saved_before_fits_after(tmp_path):
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    model.save_weights(tmp_path / "before.weights.h5")
    ksa.predict(model, batch(), IDS)
    ksa.predict(model, batch(), IDS, batch_size=2)
    model.load_weights(tmp_path / "before.weights.h5")
    model.save_weights(tmp_path / "after.weights.h5")
    fresh = adapted(small(), ksa.LoRA(rank=2), targets="*")
    fresh.load_weights(tmp_path / "after.weights.h5")


def test_models_that_share_a_layer_know_nothing_of_it():
    inner = keras.Sequential([keras.Input((6, 10)), keras.layers.Dense(10, name="up")])
    outer = keras.Sequential([keras.Input((6, 10)), inner, keras.layers.Dense(2)])
    adapted(inner, ksa.LoRA(rank=2), targets="up")
    paths = [[w.path for w in model.weights] for model in (inner, outer)]
    named = [sorted(m.state_dict()) for m in (inner, outer) if hasattr(m, "state_dict")]
    ksa.predict(inner, batch(), IDS)
    assert [[w.path for w in model.weights] for model in (inner, outer)] == paths
    assert [sorted(m.state_dict()) for m in (inner, outer) if hasattr(m, "state_dict")] == named


def test_training_goes_on_as_without():
    def trained(mixes):
        keras.utils.set_random_seed(3)
        model = adapted(small(), ksa.LoRA(rank=2, dropout=0.3), targets="*")
        model.compile(keras.optimizers.Adam(0.01), "mse")
        y = np.zeros((len(IDS), 6, 7), "float32")
        for _ in range(2):
            model.fit(batch(), y, batch_size=2, epochs=1, shuffle=False, verbose=0)
            if mixes:
                ksa.predict(model, batch(), IDS)
        return [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(found, expected)


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


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_kernels_of_integers(mode):
    model = small()
    model.quantize(mode, filters="heads|square")
    check(adapted(model, ksa.SVF(), targets=["heads", "square"]))


def test_inputs_of_other_kinds():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    expected = ksa.predict(model, batch(), IDS)
    for x in (batch().tolist(), keras.ops.convert_to_tensor(batch())):
        np.testing.assert_allclose(ksa.predict(model, x, IDS), expected, rtol=0, atol=1e-6)
    ksa.predict(model, batch(), np.array([name or "a" for name in IDS]))
    for x in ([], None, "abc", {"one": batch(), "two": batch()[:2]}):
        with pytest.raises(ValueError, match="with the same number of samples.*Received"):
            ksa.predict(model, x, IDS)
    with pytest.raises(ValueError, match="Only a KerasHub task"):
        ksa.generate(model, ["a"], ["a"])


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


def test_what_cannot_be_mixed():
    model = adapted(small(), ksa.SVF(), targets="*")
    x = batch()
    weights = [w.path for w in model.weights]
    for ids, match in (
        (["a", "b"], "there are 5 samples"),
        ("a", "for each sample"),
        (["a", "b", "c", "a", "b"], "no such adapter"),
        (["a", "b", 3, "a", "b"], "no such adapter.*Received: name=3"),
    ):
        with pytest.raises(ValueError, match=match):
            ksa.predict(model, x, ids)
    with pytest.raises(ValueError, match="positive"):
        ksa.predict(model, x, IDS, batch_size=0)
    with pytest.raises(ValueError, match="no adapter"):
        ksa.predict(small(), x, IDS)
    assert [w.path for w in model.weights] == weights


def test_a_layer_that_reads_its_kernel_is_refused():
    model = keras.Sequential([keras.Input((6, 10)), keras.layers.LSTM(4, name="cell")])
    adapted(model, ksa.LoRA(rank=2), targets="cell")
    before = model.predict(batch(), verbose=0)
    with pytest.raises(ValueError, match="reads its kernel"):
        ksa.predict(model, batch(), IDS)
    np.testing.assert_array_equal(model.predict(batch(), verbose=0), before)
