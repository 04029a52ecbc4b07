"""Kernels that a layer reads as weights: stacked experts, recurrent cells, registered classes."""

import keras
import numpy as np
import pytest
from autodiff import gradients
from backbones import BACKBONES
from cases import METHODS, batch, close, numpy, shake
from experts import EXPERTS, INNER, TOKENS, WIDTH, TinyExperts, experts
from keras import ops

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layers import registry as kernel_register
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites


def model_of_experts():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((WIDTH,), batch_size=TOKENS)
    x = keras.layers.Dense(WIDTH, name="first")(inputs)
    x = TinyExperts(name="experts")(x)
    return keras.Model(inputs, ops.mean(x, axis=0))


ROWS = [pytest.param(c, id=name) for name, c in METHODS.items() if not c.square_only]


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


@pytest.mark.parametrize("axes", ["smn", "msn", "nsm", "mns"])
def test_stacks_along_any_axis(axes, register):
    class Stack(keras.layers.Layer):
        def build(self, shape):
            sizes = {"s": 3, "m": 4, "n": 5}
            self.w = self.add_weight(shape=[sizes[letter] for letter in axes], name="w")

        def call(self, x):
            return ops.einsum(f"bm,{axes}->bsn", x, self.w)

    ksa.register_kernels(Stack, w=axes)
    layer = Stack()
    layer.build((None, 4))
    x = ops.eye(4)
    before = numpy(layer(x))
    ksa.enable(layer, ksa.SVFT("banded", d=1))
    np.testing.assert_array_equal(numpy(layer(x)), before)
    (site,) = adapted_sites(layer)
    parts = [matrix() for _, matrix in site.matrices()]
    np.testing.assert_array_equal(np.stack(parts), before.transpose(1, 0, 2))
    np.testing.assert_array_equal(np.stack(parts), site.matrix())
    shake(layer)
    y = numpy(layer(x))
    ksa.merge(layer)
    close(numpy(layer(x)), y)


MOE = sorted(
    name for name in BACKBONES if "Mo" in name or name in ("GptOssBackbone", "MixtralBackbone")
)


@pytest.mark.backend_free("classes of layers and the names of their weights")
def test_the_experts_of_keras_hub_are_known():
    """Every layer class of theirs with `(experts, m, n)` weights."""
    found = {}
    for name in MOE:
        backbone, _ = BACKBONES[name]()
        for site in find_sites(backbone):
            if site.view.count is not None:
                assert site.view.matrix_shape == site.shape
                found.setdefault(site.kind, set()).add(site.name)
    assert found == {
        "MixtralMoeExperts": {
            "expert_feedforward_gate_dense",
            "expert_feedforward_intermediate_dense",
            "expert_feedforward_output_dense",
        },
        **{
            f"{family}Experts": {"expert_feedforward_gate_dense", "expert_feedforward_output_dense"}
            for family in ("QwenMoe", "Qwen3Moe", "Qwen3_5Moe")
        },
        "GptOssExperts": {"gate_up_proj", "down_proj"},
    }


def keras_hub_experts(family):
    """A layer of experts with random weights, and arguments to call it with."""
    from keras_hub.src.models.gemma4.gemma4_moe import Gemma4MoEBlock
    from keras_hub.src.models.gpt_oss.gpt_oss_decoder import GptOssExperts
    from keras_hub.src.models.mixtral.mixtral_decoder import MixtralMoeExperts
    from keras_hub.src.models.qwen3_5_moe.qwen3_5_moe_decoder import Qwen3_5MoeExperts
    from keras_hub.src.models.qwen3_moe.qwen3_moe_decoder import Qwen3MoeExperts
    from keras_hub.src.models.qwen_moe.qwen_moe_decoder import QwenMoeExperts

    known = (
        Gemma4MoEBlock,
        GptOssExperts,
        MixtralMoeExperts,
        QwenMoeExperts,
        Qwen3MoeExperts,
        Qwen3_5MoeExperts,
    )
    layer = next(cls for cls in known if cls.__name__ == family)(EXPERTS, WIDTH, INNER)
    layer.build((TOKENS, WIDTH))
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(0.4 * rng.normal(size=weight.shape))
    inputs = [batch((TOKENS, WIDTH))]
    if family == "Gemma4MoEBlock":
        inputs.append(np.abs(batch((TOKENS, EXPERTS), seed=8)))
    return layer, inputs


@pytest.mark.parametrize(
    "family",
    [
        "Gemma4MoEBlock",
        "GptOssExperts",
        "MixtralMoeExperts",
        "QwenMoeExperts",
        "Qwen3MoeExperts",
        "Qwen3_5MoeExperts",
    ],
)
def test_experts_of_keras_hub_expert_by_expert(family):
    """Each expert's kernel, merged by hand, in a plain layer."""
    (layer, inputs), (plain, _) = keras_hub_experts(family), keras_hub_experts(family)
    before = numpy(layer(*inputs))
    ksa.enable(layer, ksa.LoRA(rank=2, alpha=6))
    np.testing.assert_array_equal(numpy(layer(*inputs)), before)
    shake(layer)
    sites = adapted_sites(layer)
    assert len(sites) == sum(len(weight.shape) == 3 for weight in plain.weights)
    for site in sites:
        v = adapters_of(site.layer)["default"].trained
        A, B = numpy(v["lora_a"]), numpy(v["lora_b"])
        kernel = getattr(plain, site.layer.attribute)
        kernel.assign(numpy(kernel) + np.stack([3.0 * a @ b for a, b in zip(A, B, strict=True)]))
    close(numpy(layer(*inputs)), numpy(plain(*inputs)))
    assert np.abs(numpy(layer(*inputs)) - before).max() > 0.1


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVFT("banded", d=1)], ids=str)
def test_recurrent_cells(kind, method):
    build = getattr(keras.layers, kind)
    x = batch((2, 4, 6))
    keras.utils.set_random_seed(2)
    layer, plain = (keras.Sequential([build(5, seed=1)]) for _ in range(2))
    before = numpy(layer(x))
    plain(x)
    plain.set_weights(layer.get_weights())
    assert [s.name for s in find_sites(layer)] == ["kernel", "recurrent_kernel"]
    status = ksa.enable(layer, method, targets=["kernel", "recurrent_kernel"])
    assert len(status.trainable_weights) == len(layer.trainable_weights) > 0
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    for name in ("kernel", "recurrent_kernel"):
        getattr(plain.layers[0].cell, name).assign(getattr(layer.layers[0].cell, name))
    close(numpy(layer(x)), numpy(plain(x)))
    assert all(np.any(g) for g in gradients(layer, x, before))
    y = numpy(layer(x))
    ksa.merge(layer)
    close(numpy(layer(x)), y)


L = keras.layers
CONVOLUTIONS = {
    "separable_1d": (L.SeparableConv1D, (7, 6)),
    "separable_2d": (L.SeparableConv2D, (5, 7, 6)),
    "transposed_1d": (L.Conv1DTranspose, (7, 6)),
    "transposed_2d": (L.Conv2DTranspose, (5, 7, 6)),
    "transposed_3d": (L.Conv3DTranspose, (2, 3, 4, 6)),
}


@pytest.mark.parametrize(("cls", "shape"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF()], ids=str)
def test_other_convolutions(cls, shape, method):
    layer, plain = (cls(4, 3, strides=2, padding="same") for _ in range(2))
    x = batch((2, *shape))
    before = numpy(layer(x))
    plain(x)
    plain.set_weights(layer.get_weights())
    ksa.enable(layer, method)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    (site,) = adapted_sites(layer)
    assert not site.linear
    assert (site.view.m, site.view.n) == (
        (6, 4) if "Sep" in cls.__name__ else (6, 4 * 3 ** (len(shape) - 1))
    )
    shake(layer)
    name = site.layer.attribute
    getattr(plain, name).assign(getattr(layer, name))
    close(numpy(layer(x)), numpy(plain(x)))
    assert np.abs(numpy(layer(x)) - before).max() > 1e-2
    ksa.merge(layer)
    assert type(layer) is cls
    close(numpy(layer(x)), numpy(plain(x)))


def test_a_recurrent_layer_is_named_by_its_name():
    model = keras.Sequential([keras.Input((7, 6)), L.Bidirectional(L.LSTM(4), name="both")])
    for name, count in {
        "both": 4,
        "forward_lstm": 2,
        "lstm_cell": 4,
        "recurrent_kernel": 2,
    }.items():
        assert len(ksa.targets(model, name).sites) == count
    assert len(ksa.targets(model, "both", exclude="forward_lstm").sites) == 2
    layer = model_of_experts()
    assert [site.name for site in ksa.targets(layer, "experts").sites] == ["up_proj", "down_proj"]


def test_they_are_no_blocks():
    """Two recurrent or separable layers do not make a model of repeated blocks."""
    model = keras.Sequential(
        [keras.Input((7, 6))]
        + [L.SeparableConv1D(6, 3, name=f"separable_{i}") for i in range(2)]
        + [L.Bidirectional(L.LSTM(4, return_sequences=True), name=f"both_{i}") for i in range(2)]
        + [L.GRU(4, return_sequences=True, name="gru_0"), L.GRU(4, name="gru_1")]
        + [L.Dense(5, name="inner"), L.Dense(2, name="head")]
    )
    meant = {site.path.split("/")[0] for site in ksa.targets(model).sites}
    assert meant == {"both_0", "both_1", "gru_0", "gru_1", "inner"}
    with pytest.raises(ValueError, match="no repeated blocks"):
        ksa.targets(model, last=1)


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(kernel_register, "_registered", dict(kernel_register._registered))


class Heads(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(2, shape[-1], 3), name="w")

    def call(self, x):
        return ops.einsum("bi,hio->bho", x, self.w)


def test_registered_layers_are_adapted(register):
    model = keras.Sequential([keras.Input((5,)), Heads(name="heads"), keras.layers.Flatten()])
    assert not find_sites(model)
    ksa.register_kernels(Heads, w="nmn")
    (site,) = find_sites(model)
    assert (site.path, site.kind, site.view.m, site.view.n) == ("heads/w", "Heads", 5, 6)
    ksa.enable(model, ksa.SVF(), targets="w")
    assert numpy(model.trainable_weights[0]).shape == (5,)
    x = batch((3, 5))
    before = numpy(model(x))
    shake(model)
    assert np.abs(numpy(model(x)) - before).max() > 1e-3


def test_an_own_call_of_a_known_class(register):
    class Scaled(keras.layers.Dense):
        def call(self, inputs):
            return 2 * ops.matmul(inputs, self.kernel)

    layer = Scaled(4)
    layer.build((None, 6))
    assert not find_sites(layer)
    ksa.register_kernels(Scaled, kernel="mn")
    ksa.enable(layer, ksa.LoRA(rank=1))
    shake(layer)
    close(numpy(layer(ops.eye(6))), 2 * numpy(layer.kernel))


@pytest.mark.parametrize(
    ("cls", "axes", "what"),
    [
        (Heads, {}, "a letter per axis"),
        (Heads, {"w": "mx"}, "a letter per axis"),
        (Heads, {"w": "mn_"}, "a letter per axis"),
        (Heads, {"w": 3}, "a letter per axis"),
        (Heads, {"w": "smm"}, "a letter per axis"),
        (keras.layers.Dense, {"kernel": "mn"}, "without being registered"),
        (keras.layers.LSTMCell, {"kernel": "mn"}, "already registered"),
        (keras.Model, {"w": "mn"}, "layers of a model"),
        ("Heads", {"w": "mn"}, "class of Keras layers"),
    ],
)
def test_bad_registrations(register, cls, axes, what):
    with pytest.raises(ValueError, match=what) as error:
        ksa.register_kernels(cls, **axes)
    assert "Received: " in str(error.value)


def test_a_name_that_is_no_weight(register):
    ksa.register_kernels(Heads, weight="nmn")
    layer = Heads()
    layer.build((None, 4))
    with pytest.raises(ValueError, match="is not a weight of this layer; its weights are 'w'"):
        ksa.enable(layer, ksa.SVF())


def test_a_property_over_a_weight(register):
    class Hidden(keras.layers.Layer):
        def build(self, shape):
            self._w = self.add_weight(shape=(shape[-1], 3), name="w")

        @property
        def w(self):
            return self._w

        def call(self, x):
            return ops.matmul(x, self._w)

    ksa.register_kernels(Hidden, w="mn")
    layer = Hidden()
    layer.build((None, 4))
    ksa.enable(layer, ksa.LoRA(rank=1))
    shake(layer)
    close(numpy(layer(ops.eye(4))), numpy(layer.w))
    close(numpy(layer.w), numpy(adapted_sites(layer)[0].layer.merged_kernel()))


def test_a_model_that_reads_kernels_itself_is_left_alone():
    class MoEModel(keras.Model):
        def build(self, shape):
            self.one = self.add_weight(shape=(2, 3, 4))
            self.two = self.add_weight(shape=(2, 4, 3))

    model = MoEModel()
    model.build((None, 3))
    assert not find_sites(model)


def test_registered_twice(register):
    ksa.register_kernels(Heads, w="nmn")
    with pytest.raises(ValueError, match="already registered"):
        ksa.register_kernels(Heads, w="nmn")


def test_axes_that_do_not_fit(register):
    ksa.register_kernels(Heads, w="mn")
    layer = Heads()
    layer.build((None, 4))
    with pytest.raises(ValueError, match="axes 'mn'"):
        ksa.enable(layer, ksa.SVF(), targets="w")
