"""Inputs, names and layers that adapters per sample take, and those that they refuse."""

import keras
import numpy as np
import pytest
from mixed_batch import IDS, adapted, batch, small

import keras_svd_adapters as ksa


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
