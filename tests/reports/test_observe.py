"""What a pass of data finds for each kernel of a model, adapted or not, against float64."""

import keras
import numpy as np
import pytest
import rate_models
from cases import batch, numpy, shake
from experts import model_of_experts
from snapshots import refused, snapshot

import keras_svd_adapters as ksa

X, Y = rate_models.data()
RNG = np.random.default_rng(3)
FORWARD = ["inputs", "magnitudes", "branch_norms"]


def network(*layers):
    model = keras.Sequential(layers)
    model.compile(loss="mse")
    return model


def effective(layer):
    """The kernel of a layer, and what its adapter adds, in float64."""
    K = numpy(layer.base_kernel_value()).astype("float64")
    v = layer.adapter().numpy_values()[0]
    return K, layer.adapter().method.scale * v.lora_a @ v.lora_b


def test_what_passes_forward_without_padding():
    words = keras.layers.Embedding(9, 5, mask_zero=True, name="words")
    layers = [keras.layers.Dense(n, name=name) for n, name in ((4, "up"), (3, "down"))]
    model = network(keras.Input((4,), dtype="int32"), words, *layers)
    ksa.enable(model, ksa.LoRA(rank=2, alpha=6), targets=["up", "down"])
    shake(model, size=0.5)
    ids = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])
    report = ksa.observe(model, ids, what=FORWARD)
    rows = numpy(words.embeddings)[[1, 2, 3, 4, 5]].astype("float64")
    assert list(report) == ["up", "down"]
    for layer in layers:
        K, change = effective(layer)
        found = report[layer.name]
        assert found.inputs.rows == found.magnitudes.rows == 5
        np.testing.assert_allclose(found.inputs.second, rows.T @ rows / 5, atol=1e-6)
        np.testing.assert_allclose(found.magnitudes.absolute, np.abs(rows).mean(0), atol=1e-6)
        np.testing.assert_allclose(found.magnitudes.square, (rows**2).mean(0), atol=1e-6)
        norms = ((rows @ change) ** 2).sum(1)
        np.testing.assert_allclose(found.branch_norms, norms.mean(), rtol=1e-5)
        assert found.gradient is None
        assert found.squared_gradients is None
        rows = rows @ (K + change) + numpy(layer.bias)


LAYERS = {
    "quantized": lambda: (keras.layers.Dense(4), (6,)),
    "image": lambda: (keras.layers.Conv2D(4, 3, strides=2, padding="same"), (5, 7, 3)),
    "heads": lambda: (keras.layers.EinsumDense("btd,dhk->bhtk", (2, None, 5)), (3, 6)),
    "words": lambda: (keras.layers.Embedding(9, 4), (3,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_branch_norms_are_those_of_the_difference_of_outputs(name):
    layer, shape = LAYERS[name]()
    is_words = name == "words"
    model = network(keras.Input(shape, dtype="int32" if is_words else "float32"), layer)
    if name == "quantized":
        model.quantize("int8")
    ksa.enable(model, ksa.LoRA(rank=2, alpha=3), targets=layer.name)
    shake(model, size=0.5)
    x = RNG.integers(0, 9, (5, *shape)) if is_words else batch((5, *shape))
    found = ksa.observe(model, x, "branch_norms")[layer.name].branch_norms
    with ksa.disabled(model):
        plain = numpy(model(x))
    squares = (numpy(model(x)).astype("float64") - plain) ** 2
    np.testing.assert_allclose(found, squares.sum() * layer.kernel_view.n / squares.size, rtol=1e-4)


def test_squared_gradients_are_those_of_single_samples():
    model = network(keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="up"))
    x, y, weights = X[:5], Y[:5], np.array([1.0, 2.0, 1.0, 0.5, 0.0])
    for is_adapted in (False, True):
        if is_adapted:
            ksa.enable(model, ksa.LoRA(rank=1), targets="up")
            shake(model, size=0.5)
        error = numpy(model(x)).astype("float64") - y
        each = np.einsum("im,in,i->imn", x, error, weights)
        data = iter([(x[:3], y[:3], weights[:3]), (x[3:], y[3:], weights[3:])])
        found = ksa.observe(model, data, "squared_gradients", targets="up")["up"]
        assert (found.method is not None) == is_adapted
        np.testing.assert_allclose(found.squared_gradients, (each**2).mean(0), atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_gradients_are_those_of_the_merged_kernels(kind):
    if kind == "experts":
        model, x, targets = model_of_experts(), batch((6, 10)), "experts/*"
        model.compile(loss="mse")
    else:
        layers = [keras.layers.Dense(n, "tanh", name=f"layer_{n}") for n in (7, 4)]
        model, x, targets = network(keras.Input((10,)), *layers), batch((6, 10)), "layer_*"
    ksa.enable(model, ksa.DoRA(rank=2), targets=targets)
    shake(model, size=0.3)
    data = x, np.ones(model(x).shape, "float32")
    adapted = ksa.observe(model, iter([data]), "gradient")
    ksa.merge(model)
    merged = ksa.observe(model, iter([data]), "gradient", targets=targets)
    assert list(adapted) == list(merged)
    assert len(merged) == (6 if kind == "experts" else 2)
    for name, found in adapted.items():
        assert np.abs(found.gradient).max() > 1e-3
        np.testing.assert_allclose(found.gradient, merged[name].gradient, atol=1e-5)


@pytest.mark.parametrize("is_adapted", [False, True])
def test_it_leaves_no_trace(is_adapted):
    model = rate_models.compiled("dropout and statistics")
    if is_adapted:
        ksa.enable(model, ksa.LoRA(rank=2), targets=["first", "second"])
    model.fit(X, Y, verbose=0)
    before, bits, drawn = snapshot(model), rate_models.everything(model), random_numbers()
    what = ["inputs", "gradient"] + FORWARD * is_adapted
    ksa.observe(model, (X[:8], Y[:8]), what, targets=["first", "second"])
    assert snapshot(model) == before
    assert rate_models.everything(model) == bits
    assert random_numbers() == drawn


def random_numbers():
    """The state of PyTorch's own generator, which draws the masks of dropout."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state().tolist()


def test_within_fit():
    """A callback may observe; the training goes on as it would."""
    found = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found.append(ksa.observe(self.model, (X, Y), ["branch_norms", "gradient"]))

    ended = []
    for callbacks in ([], [Watch()]):
        model = rate_models.compiled("plain")
        ksa.enable(model, ksa.LoRA(rank=2), targets="second")
        model.fit(X, Y, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
        ended.append(rate_models.values(model))
    assert ended[0] == ended[1]
    first, last = (each["second"].branch_norms for each in found)
    assert 0 < first < last


def test_each_name_selects_its_kernel_alone():
    block = keras.Sequential([keras.layers.Dense(5, name="up")], name="block")
    model = network(keras.Input((6,)), block, keras.layers.Dense(4, name="up"))
    report = ksa.observe(model, X, "magnitudes", targets=["block/up", "up"])
    assert [kernel.path for kernel in report.values()] == ["block/up", "up"]
    assert next(iter(report)) == "block/up"
    for name, kernel in report.items():
        (site,) = ksa.targets(model, name).sites
        assert (site.path, site.shape) == (kernel.path, kernel.shape)


def test_the_model_as_it_computes():
    """Within `disabled`, no adapter is active; the kernels are those of all adapters."""
    model = network(keras.Input((6,)), *[keras.layers.Dense(6, name=name) for name in "ab"])
    plain = ksa.observe(model, X, targets=["a", "b"])
    assert plain["b"].method is None
    ksa.enable(model, ksa.LoRA(rank=2), targets=["a", "b"])
    shake(model, size=0.5)
    adapted = ksa.observe(model, X, exclude="a")
    assert list(adapted) == ["b"]
    assert np.abs(adapted["b"].inputs.mean - plain["b"].inputs.mean).max() > 0.1
    with ksa.disabled(model):
        again = ksa.observe(model, X)
    np.testing.assert_array_equal(again["b"].inputs.second, plain["b"].inputs.second)


def test_the_report():
    model = network(keras.Input((6,)), *[keras.layers.Dense(6, name=f"up_{i}") for i in range(3)])
    ksa.enable(model, ksa.LoRA(rank=2), targets="up_*")
    shake(model)
    report = ksa.observe(model, (X, Y[:, [0] * 6]), [*FORWARD, "gradient"])
    shares = report.importance()
    assert sum(shares.values()) == pytest.approx(1)
    lines = str(report).splitlines()
    assert lines[0].split()[:2] == ["kernel", "shape"]
    assert f"{shares['up_1']:.1%}" in lines[3]
    assert "share of the branch norms" in report._repr_html_()
    assert "share" not in str(ksa.observe(model, X))
    assert {**report}.keys() == {"up_0", "up_1", "up_2"}


REFUSED = {
    "what": ({"what": "branches"}, "one or several of.*'inputs'"),
    "components": ({"what": "components"}, "one or several of.*'inputs'"),
    "nothing": ({"what": []}, "one or several of"),
    "no data": ({"data": None}, "some hundred samples"),
    "no kernel": ({"targets": "third"}, "matches no layer"),
    "no adapter": ({"what": "branch_norms"}, "`enable` one first"),
    "no targets": ({"what": "gradient"}, "needs targets"),
    "no samples": ({"data": X[:0]}, "same number of samples"),
    "no batches": ({"data": iter([])}, "make a new one"),
    "a tuple of four": ({"data": (X, X, X, X)}, "`data` is inputs"),
    "infinite": ({"data": np.full((4, 6), np.inf, "float32")}, "NaN or infinite"),
    "verbose": ({"verbose": "loud"}, "`verbose` is"),
}


@pytest.mark.parametrize(("how", "match"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_refused(how, match):
    model = rate_models.compiled("plain")
    with refused(model, match):
        ksa.observe(model, **({"data": X} | how))


def test_models_and_kernels_that_do_not_suit():
    with refused(model := rate_models.network(), "`compile` the model"):
        ksa.observe(model, (X, Y), "squared_gradients")
    ksa.enable(model, ksa.LoRA(rank=1), targets="first")
    with refused(model, "computes without one"):
        ksa.observe(model, X, "branch_norms", targets=["first", "second"])
    experts = model_of_experts()
    with refused(experts, "reads its kernel as a weight"):
        ksa.observe(experts, batch((6, 10)), targets="experts/*")
    with pytest.raises(ValueError, match="must be a Keras model.*Received: "):
        ksa.observe("model", X)
    with pytest.raises(ValueError, match="branch_norms.*Received: a report without them"):
        ksa.observe(model, X).importance()
