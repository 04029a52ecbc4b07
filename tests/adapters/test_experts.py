"""Stacked kernels of experts: each is adapted as if it were alone."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from cases import METHODS, batch, close, numpy, shake
from experts import EXPERTS, TOKENS, WIDTH, TinyExperts, experts, model_of_experts
from keras import ops

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites

ROWS = [
    pytest.param(c, id=name)
    for name, c in METHODS.items()
    if not c.square_only and not c.method.tied
]


@pytest.mark.parametrize("case", ROWS)
def test_each_expert_is_adapted_as_if_alone(case):
    layer, plain, x = experts(), experts(), batch((TOKENS, WIDTH))
    before = numpy(layer(x))
    status = ksa.enable(layer, case.method, cache=False)
    assert status.trainable_parameters == ksa.plan(experts(), case.method).trainable_parameters
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    g, expected = batch(before.shape, seed=4), {}
    for site, kernel in zip(adapted_sites(layer), (plain._up_proj, plain._down_proj), strict=True):
        adapter = adapters_of(site.layer)["default"]
        values = [vars(v) for v in adapter.numpy_values()]
        each = [
            case.reference(K.astype("float64"), case.method, v)
            for K, v in zip(numpy(kernel), values)
        ]
        kernel.assign(np.stack([merged for merged, _ in each]))
        expected[site.key] = [gradients_of for _, gradients_of in each]
    close(numpy(layer(x)), numpy(plain(x)))
    of_kernels = dict(zip([w.name for w in plain.trainable_weights], gradients(plain, x, g)))
    found = dict(zip([id(w) for w in layer.trainable_weights], gradients(layer, x, g)))
    for site in adapted_sites(layer):
        G = of_kernels[site.name].astype("float64")
        each = [of_one(one) for of_one, one in zip(expected[site.key], G, strict=True)]
        for name, variable in adapters_of(site.layer)["default"].trained.items():
            close(found.pop(id(variable)), np.stack([one[name] for one in each]))
    assert not found


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVFT("banded", d=1)], ids=str)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_low_precision(method, dtype):
    layer, x = experts(dtype), batch((TOKENS, WIDTH))
    before = layer(x)
    ksa.enable(layer, method)
    after = layer(x)
    assert after.dtype == before.dtype
    np.testing.assert_array_equal(numpy(after), numpy(before))
    assert all(w.dtype == "float32" for w in layer.trainable_weights)
    shake(layer)
    assert np.abs(numpy(layer(x)) - numpy(before)).max() > 0.1


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVFT("random", d=1)], ids=str)
def test_a_model_learns_is_saved_and_merged(method, tmp_path):
    model, x = model_of_experts(), batch((TOKENS, WIDTH))
    plain = model.predict(x, verbose=0)
    holder = model.get_layer("experts")
    ksa.enable(model, method, targets="*_proj", train="up_bias")
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(x, 0 * x, batch_size=TOKENS, epochs=3, verbose=0)
    y = model.predict(x, verbose=0)
    assert np.abs(y - plain).max() > 1e-3
    ksa.save_adapter(model, tmp_path / "adapter.keras")
    model.save(tmp_path / "model.keras")
    fresh = model_of_experts()
    ksa.load_adapter(fresh, tmp_path / "adapter.keras")
    custom = {"TinyExperts": TinyExperts}
    again = keras.saving.load_model(tmp_path / "model.keras", custom_objects=custom)
    for other in (fresh, again):
        np.testing.assert_array_equal(other.predict(x, verbose=0), y)
        assert other.count_params() == model.count_params()
    again.fit(x, 0 * x, batch_size=TOKENS, epochs=1, shuffle=False, verbose=0)
    model.fit(x, 0 * x, batch_size=TOKENS, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))

    y = model.predict(x, verbose=0)
    ksa.enable(model, ksa.SVF(), targets="up_proj", name="second")
    ksa.set_adapter(model, ["default"])
    np.testing.assert_array_equal(model.predict(x, verbose=0), y)
    ksa.delete_adapter(model, "second")
    bias = numpy(holder.up_bias)
    with ksa.disabled(model):
        holder.up_bias.assign(numpy(model_of_experts().get_layer("experts").up_bias))
        np.testing.assert_array_equal(model.predict(x, verbose=0), plain)
    holder.up_bias.assign(bias)
    report = ksa.merge(model)
    assert [kernel.path for kernel in report.kernels[:2]] == [
        "experts/up_proj[0]",
        "experts/up_proj[1]",
    ]
    assert type(holder) is TinyExperts
    assert not holder._flatten_layers(include_self=False)
    np.testing.assert_allclose(model.predict(x, verbose=0), y, atol=1e-5)
    ksa.unmerge(model)
    np.testing.assert_array_equal(model.predict(x, verbose=0), y)


def test_looks_at_each_expert():
    layer = experts()
    assert [k.path for k in ksa.spectrum(layer).kernels][:2] == [
        "up_proj[0]",
        "up_proj[1]",
    ]
    ksa.enable(layer, ksa.SVFT("banded", d=1))
    shake(layer)
    found = ksa.coefficients(layer).kernels
    assert [k.path for k in found][3:] == [f"down_proj[{i}]" for i in range(EXPERTS)]
    assert all(k.relative > 0 for k in found)


def test_converts_each_expert():
    layer, x = experts(), batch((TOKENS, WIDTH))
    ksa.enable(layer, ksa.PiSSA(rank=2))
    shake(layer)
    y = numpy(layer(x))
    ksa.to_lora(layer)
    close(numpy(layer(x)), y)


def test_dropout_has_no_input_there():
    layer, x = experts(), batch((TOKENS, WIDTH))
    with pytest.warns(UserWarning, match="give dropout no input"):
        ksa.enable(layer, ksa.LoRA(rank=2, dropout=0.5))
    shake(layer)
    np.testing.assert_array_equal(numpy(layer(x, training=True)), numpy(layer(x)))


def test_paths_are_told_apart(tmp_path):
    """No variable has the path of a folder of others, which Orbax and HDF5 would refuse."""
    model = model_of_experts()
    ksa.enable(model, ksa.SVF(), targets="*_proj")
    model.compile("adam", "mse")
    paths = [variable.path for variable in model.variables]
    assert len(set(paths)) == len(paths)
    assert not [p for p in paths for other in paths if other.startswith(f"{p}/")]
    model.get_state_tree()
    model.save(tmp_path / "model.h5")


def test_a_layer_is_made_again_from_its_configuration():
    model = model_of_experts()
    ksa.enable(model, ksa.LoRA(rank=2), targets="*_proj")
    layer = model.get_layer("experts")
    copy = type(layer).from_config(layer.get_config())
    copy.build((TOKENS, WIDTH))
    assert copy(batch((TOKENS, WIDTH))).shape == (EXPERTS, TOKENS, WIDTH)


def test_the_head_and_the_blocks():
    """A layer that reads two kernels is an output as a whole."""
    model = model_of_experts()
    assert {s.name for s in ksa.targets(model, "*_proj").sites} == {"up_proj", "down_proj"}
    inputs = keras.Input((4, WIDTH))
    x = keras.layers.Dense(WIDTH, name="first")(inputs)
    ends = keras.Model(inputs, keras.layers.LSTM(3, name="last")(x))
    assert {s.name for s in ksa.targets(ends).sites} == {"first"}


class Aliased(TinyExperts):
    """Reads one weight by another name than the one it was made under."""

    def build(self, shape):
        super().build(shape)
        self.other = self._up_proj
        self.flat = self.add_weight(shape=(EXPERTS, 1, WIDTH), name="flat")

    def call(self, x):
        return ops.einsum("th,ehm->etm", x, self.other)


def test_one_weight_in_two_attributes():
    layer = Aliased()
    layer.build((TOKENS, WIDTH))
    x = batch((TOKENS, WIDTH))
    before = numpy(layer(x))
    assert [site.name for site in find_sites(layer)] == ["up_proj", "down_proj"]
    ksa.enable(layer, ksa.LoRA(rank=2), targets="up_proj")
    shake(layer)
    y = numpy(layer(x))
    assert np.abs(y - before).max() > 1e-2
    ksa.merge(layer)
    close(numpy(layer(x)), y)
    assert type(layer) is Aliased


def test_no_experts():
    class DemoEncoder(keras.layers.Layer):
        def build(self, shape):
            self.q = self.add_weight(shape=(2, shape[-1], 3))
            self.k = self.add_weight(shape=(2, shape[-1], 3))

    layer = DemoEncoder()
    layer.build((None, 4))
    assert not find_sites(layer)


def test_a_model_that_reads_kernels_itself_is_left_alone():
    class MoEModel(keras.Model):
        def build(self, shape):
            self.one = self.add_weight(shape=(2, 3, 4))
            self.two = self.add_weight(shape=(2, 4, 3))

    model = MoEModel()
    model.build((None, 3))
    assert not find_sites(model)
