"""Methods whose change depends on the input: what works, and what is refused."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pytest
from cases import batch, numpy, shake
from snapshots import refused

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.methods.method import Array, Method
from keras_svd_adapters.models.sites.search import adapted_sites

ops = keras.ops
X, Y = batch((6, 8)), batch((6, 3), seed=4)
REASON = "its gate weighs the change for each input"


@dataclass(frozen=True, repr=False)
class Gate(Method):
    """Adds `sigmoid(x w) x a b`, with a penalty of the mean gate."""

    weight: float = 0.5

    depends_on_input: ClassVar[str] = REASON

    recommended_learning_rate = 1e-3

    def arrays(self, m, n, form):
        return {
            "gate": Array((m, 1), trainable=True, start=0.0),
            "factor": Array((m, 1), start=1.0),
            "b": Array((1, n), trainable=True, start=0.0),
        }

    def apply(self, x, base, c, form, dropout):
        gates = ops.sigmoid(base.times(x, c.gate))
        return base.plus(x, gates * base.times(x, c.factor), c.b)

    def input_penalty(self, x, base, c, form):
        gates = ops.sigmoid(ops.cast(base.times(x, c.gate), "float32"))
        return self.weight * ops.mean(gates) if self.weight else None


Gate.name = "gate_of_a_test"  # set later, so that the method is registered in these tests alone


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(Method.registry, Gate.name, Gate)


GATE = Gate()


def build():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(size, name=f"hidden_{size}") for size in (10, 7)]
    return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3, name="head")])


def adapted(method=GATE, name="default", targets="hidden_*"):
    model = build()
    ksa.enable(model, method, targets, name=name)
    shake(model)
    return model


def two(method=GATE):
    """A model with LoRA and a method whose change depends on the input, which is active."""
    model = build()
    ksa.enable(model, ksa.LoRA(rank=2), "hidden_*", name="lora")
    shake(model)
    ksa.enable(model, method, "hidden_*", name="gate")
    shake(model, seed=3)
    return model


def compiled(model, rate=0.0):
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def mse(model):
    return float(np.mean((model.predict(X, verbose=0) - Y) ** 2))


VERBS = {
    "merge": lambda model, path: ksa.merge(model),
    "merge without a copy": lambda model, path: ksa.merge(model, tolerance=1.0, probe=X),
    "to_lora": lambda model, path: ksa.to_lora(model, "gate", "c"),
    "to_lora of a rank": lambda model, path: ksa.to_lora(model, "gate", "c", rank=2),
    "to_sparse": lambda model, path: ksa.to_sparse(model, 0.5, "gate"),
    "combine": lambda model, path: ksa.combine(model, {"lora": 0.5, "gate": 0.5}, "c"),
    "combine by an SVD": lambda model, path: ksa.combine(
        model, {"lora": 0.5, "gate": 0.5}, "c", how="svd", rank=2
    ),
    "search_blend": lambda model, path: ksa.search_blend(
        model, ["lora", "gate"], lambda model: 0.0, into="c", iterations=1, population=4, elite=0.5
    ),
    "compress": lambda model, path: ksa.compress(model, "gate", "c"),
    "extract_lora": lambda model, path: ksa.extract_lora(
        build(), model, rank=2, targets=["hidden_10", "hidden_7"]
    ),
    "transfer": lambda model, path: ksa.transfer(build(), model, "gate", rank=2),
    "similarity": lambda model, path: ksa.similarity(model),
    "coefficients": lambda model, path: ksa.coefficients(model, cache=False),
    "export_peft": lambda model, path: ksa.export_peft(
        model, path / "p", "gate", modules={"hidden_{}": "layers.{}"}
    ),
    "gradient": lambda model, path: ksa.observe(compiled(model), (X, Y), "gradient"),
    "the kernel": lambda model, path: model.get_layer("hidden_10").kernel,
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_what_needs_the_change_of_a_kernel_is_refused(verb, tmp_path):
    model = two()
    if verb is VERBS["gradient"]:
        compiled(model)
    with refused(model, f"{REASON}.*save_adapter"):
        verb(model, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_merge_of_weights_is_refused():
    model = two()
    ksa.set_adapter(model, {"lora": 0.5, "gate": 0.5})
    with refused(model, REASON):
        ksa.merge(model)


def test_a_layer_that_reads_its_kernel_is_refused():
    model = keras.Sequential([keras.Input((4, 8)), keras.layers.GRU(3), keras.layers.Dense(3)])
    with refused(model, f"{REASON}; this layer reads its kernel.*exclude"):
        ksa.enable(model, Gate(), targets="*")
    table = keras.Sequential([keras.Input((4,)), keras.layers.Embedding(9, 3, name="table")])
    with refused(table, "adapt an embedding"):
        ksa.enable(table, Gate(), targets="table")


def test_reports_work():
    model = two()
    assert "hidden_10" in str(ksa.status(model))
    assert ksa.plan(build(), Gate(), "hidden_*").trainable_parameters == 8 + 10 + 10 + 7


def test_the_branch_is_what_it_adds():
    model = adapted(targets="hidden_10")
    layer = model.get_layer("hidden_10")
    with_adapter = numpy(layer(X))
    with ksa.disabled(model):
        expected = np.mean(np.sum((with_adapter - numpy(layer(X))) ** 2, axis=-1))
    found = ksa.observe(model, X, "branch_norms")
    np.testing.assert_allclose(found["hidden_10"].branch_norms, expected, rtol=1e-5)


def test_a_weighted_sum():
    model = adapted(name="gate", targets="hidden_10")
    layer = model.get_layer("hidden_10")
    one = numpy(layer(X))
    ksa.enable(model, ksa.LoRA(rank=2), "hidden_10", name="lora")
    shake(model, seed=3)
    other = numpy(layer(X))
    with ksa.disabled(model):
        plain = numpy(layer(X))
    ksa.set_adapter(model, {"gate": 0.7, "lora": -0.4})
    expected = plain + 0.7 * (one - plain) - 0.4 * (other - plain)
    np.testing.assert_allclose(numpy(layer(X)), expected, atol=1e-5)


def test_an_adapter_for_each_sample():
    model = two()
    alone = {}
    for name in ("lora", "gate", None):
        ksa.set_adapter(model, name)
        alone[name] = model.predict(X, verbose=0)
    names = ["gate", "lora", None, "gate", None, "lora"]
    found = ksa.predict(model, X, names)
    expected = np.stack([alone[name][place] for place, name in enumerate(names)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not model.losses


def test_fit_adds_the_penalty_and_evaluate_does_not():
    model = compiled(adapted())
    penalty = sum(
        0.5 * np.mean(1 / (1 + np.exp(-numpy(x) @ numpy(adapter.gate))))
        for x, adapter in inputs_of(model)
    )
    assert model.fit(X, Y, verbose=0).history["loss"][0] == pytest.approx(mse(model) + penalty)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(mse(model), rel=1e-5)
    assert not model.losses
    assert mse(copy.deepcopy(model)) == pytest.approx(mse(model))
    ksa.set_adapter(model, None)
    compiled(model)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(mse(model), rel=1e-5)


def inputs_of(model):
    """The inputs of each kernel, and its adapter."""
    x = ops.convert_to_tensor(X)
    for site in adapted_sites(model):
        yield x, adapters_of(site.layer)["default"]
        x = site.layer(x)


def test_a_step_follows_the_penalty():
    """The last kernel's penalty depends on its own gate, in a way that is known."""
    moved = []
    for weight in (0.5, 0.0):
        model = adapted(Gate(weight))
        *_, (x, adapter) = inputs_of(model)
        gates = 1 / (1 + np.exp(-numpy(x) @ numpy(adapter.gate)))
        compiled(model, 1.0).fit(X, Y, batch_size=6, verbose=0)
        moved.append(numpy(adapter.gate))
    slope = 0.5 * numpy(x).T @ (gates * (1 - gates)) / len(X)
    np.testing.assert_allclose(moved[0] - moved[1], -slope, atol=1e-5)


def test_the_penalty_of_a_weighted_sum():
    """Of the adapters that train, once each."""
    model = two()
    ksa.set_adapter(model, {"lora": 0.5, "gate": 0.5}, train="gate")
    model(X, training=True)
    assert len(model.losses) == 2
    ksa.set_adapter(model, {"lora": 0.5, "gate": 0.5})
    model(X, training=True)
    assert not model.losses
