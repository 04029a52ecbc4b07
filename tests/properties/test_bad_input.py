"""Bad input: a clear error that ends in `Received: ...`, and the model as it was."""

import importlib
import warnings

import keras
import models
import numpy as np
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.models.state.adapted_model import AdaptedModel
from keras_svd_adapters.models.state.trained_weights import base_weights, trained_with

backend_free = pytest.mark.backend_free("messages are made of names and shapes")


def snapshot(model):
    weights = {w.path: (w.trainable, type(w), w.numpy().tobytes()) for w in model.weights}
    layers = [
        (type(layer), layer.trainable, sorted(vars(layer))) for layer in model._flatten_layers()
    ]
    return weights, layers, list(model.trainable_weights)


@backend_free
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ksa.LoRA(rank=0), "rank=0"),
        (lambda: ksa.LoRA(rank=2.5), "rank=2.5"),
        (lambda: ksa.LoRA(dropout=1.0), "dropout=1.0"),
        (lambda: ksa.LoRA(alpha=-1), "alpha=-1"),
        (lambda: ksa.LoRAXS(alpha=0), "alpha=0"),
        (lambda: ksa.VeRA(d_initial=0), "d_initial=0"),
        (lambda: ksa.SVF(formulation="fast"), "formulation='fast'"),
        (lambda: ksa.SVFT(pattern="diagonal"), "pattern='diagonal'"),
        (lambda: ksa.SVFT(d=2), "pattern='plain', d=2"),
        (lambda: ksa.SVFT(pattern="banded"), "d=0"),
        (lambda: ksa.SVFT(pattern="banded", d=-1), "d=-1"),
        (lambda: ksa.SVFT(pattern="banded", d=1, nnz=5), "nnz=5"),
        (lambda: ksa.SVFT(pattern="random", d=1, nnz=5), "nnz=5"),
        (lambda: ksa.SVFT(pattern="random", nnz=0), "nnz=0"),
        (lambda: ksa.SVFT(pattern="banded", d=1, seed=3), "seed=3"),
    ],
)
def test_hyperparameters(make, words):
    with pytest.raises(ValueError, match="Received: ") as caught:
        make()
    assert words in str(caught.value).split("Received: ")[1]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"method": ksa.LoRA(rank=17)}, ["rank 16 at the most", "Received: rank=17"]),
        ({"method": ksa.SVFT(pattern="banded", d=16)}, ["`d` can be 15", "Received: d=16"]),
        ({"method": ksa.SVFT(pattern="random", nnz=257)}, ["nnz=256", "Received: nnz=257"]),
        ({"method": ksa.SVFT(pattern="top_k", d=1)}, ["square", "Received: pattern='top_k'"]),
        ({"method": ksa.SVFT}, ["not a class", "Received: method="]),
        ({"method": None}, ["Received: method=None"]),
        ({"method": ksa.SVF(), "targets": "nothing"}, ["Received: targets='nothing'"]),
        ({"method": ksa.SVF(), "train": "nothing"}, ["Received: train='nothing'"]),
        ({"method": ksa.SVF(), "name": "two words"}, ["Received: name='two words'"]),
        ({"method": ksa.SVF(), "verbose": 7}, ["Received: verbose=7"]),
    ],
)
def test_enable_refuses_and_touches_nothing(how, words):
    backbone, x = models.bert()
    before, y = snapshot(backbone), models.output(backbone(x))
    with pytest.raises(ValueError, match="Received: ") as caught:
        ksa.enable(backbone, **how)
    for word in words:
        assert word in str(caught.value)
    assert snapshot(backbone) == before
    np.testing.assert_array_equal(models.output(backbone(x)), y)


@backend_free
def test_a_taken_name():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), targets="query")
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="has an adapter of this name.*Received: name='default'"):
        ksa.enable(backbone, ksa.LoRA(rank=2))
    assert snapshot(backbone) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_kernel_that_is_not_finite(bad):
    backbone, _ = models.bert()
    kernel = backbone.get_layer("transformer_layer_1")._feedforward_output_dense.kernel
    value = kernel.numpy().copy()
    value[3, 4] = bad
    kernel.assign(value)
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="transformer_layer_1/feedforward_output_dense.*Received"):
        ksa.enable(backbone, ksa.SVF())
    assert snapshot(backbone) == before
    assert not any(isinstance(x, (AdaptedLayer, AdaptedModel)) for x in backbone._flatten_layers())


def test_what_cannot_train_besides():
    model, _, _ = models.classifier()
    before = snapshot(model)
    with pytest.raises(ValueError, match="kernel of `.*query`, which is adapted.*Received: train="):
        ksa.enable(model, ksa.SVF(), train="query")
    assert snapshot(model) == before
    ksa.enable(model, ksa.SVF(), train=["head", "query/bias"])
    before = snapshot(model)
    with pytest.raises(ValueError, match="trains with the adapter 'default' already.*Received"):
        ksa.enable(model, ksa.LoRA(rank=1), train="head", name="second")
    assert snapshot(model) == before


@backend_free
@pytest.mark.parametrize("name", ["names", "kernel", "adapters", "default"])
def test_any_word_is_a_name(name):
    backbone, x = models.bert()
    y = models.output(backbone(x))
    ksa.enable(backbone, ksa.SVF(), name=name)
    np.testing.assert_array_equal(models.output(backbone(x)), y)
    ksa.delete_adapter(backbone, name)


def test_a_failure_after_attaching(monkeypatch):
    refresh = importlib.import_module("keras_svd_adapters.models.refresh")

    def broken(model):
        raise RuntimeError("broken")

    backbone, _ = models.bert()
    before = snapshot(backbone)
    with monkeypatch.context() as patched:
        patched.setattr(refresh, "mark_adapted", broken)
        with pytest.raises(RuntimeError, match="broken"):
            ksa.enable(backbone, ksa.SVF(), train="*norm*")
        assert not [w for _, _, w in base_weights(backbone) if trained_with(w)]
    weights, layers, trainable = snapshot(backbone)
    assert (weights, trainable) == (before[0], before[2])
    assert [layer[:2] for layer in layers] == [layer[:2] for layer in before[1]]


def test_interrupted_half_way(monkeypatch):
    service = importlib.import_module("keras_svd_adapters.kernels.svd.service")
    right, calls = service.decompose, []

    def interrupted(K, part=None):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return right(K)

    monkeypatch.setattr(service, "decompose", interrupted)
    backbone, x = models.bert()
    before, y = snapshot(backbone), models.output(backbone(x))
    with pytest.raises(KeyboardInterrupt):
        ksa.enable(backbone, ksa.SVF(), train="*norm*")
    assert snapshot(backbone) == before
    monkeypatch.setattr(service, "decompose", right)
    ksa.enable(backbone, ksa.SVF())
    np.testing.assert_array_equal(models.output(backbone(x)), y)


@backend_free
def test_unbuilt_layers():
    with pytest.raises(ValueError, match=r"build it first.*Received"):
        ksa.SVFDense(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="built Dense, EinsumDense or conv.*Received"):
        ksa.LoRADense(keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match="not built.*Received"):
        ksa.enable(keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)]), ksa.SVF())


@backend_free
def test_keras_lora_and_ours_do_not_meet():
    backbone, _ = models.bert()
    backbone.enable_lora(2)
    before = snapshot(backbone)
    with pytest.raises(ValueError, match=r"Keras's own LoRA is enabled.*Received"):
        ksa.enable(backbone, ksa.SVF(), targets="query")
    assert snapshot(backbone) == before
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    before = snapshot(backbone)
    for call in (lambda: backbone.enable_lora(2), lambda: query(backbone).enable_lora(2)):
        with pytest.raises(ValueError, match="cannot be added.*Received: enable_lora"):
            call()
    assert snapshot(backbone) == before


def query(backbone):
    return backbone.get_layer("transformer_layer_0")._self_attention_layer._query_dense


@backend_free
def test_quantized_layers():
    layer = keras.layers.Dense(4)
    layer.build((None, 8))
    layer.quantize("float8")
    with pytest.raises(ValueError, match=r"quantized \(float8\).*Received"):
        ksa.SVFDense(layer)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    ksa.enable(model, ksa.SVF())
    with pytest.raises(ValueError, match="merge.*Received: quantize"):
        model.quantize("int8")
    assert all(layer.quantization_mode is None for layer in model.layers)
    ksa.merge(model)
    model.quantize("int8")
    assert model.layers[1].quantization_mode == "int8"


@backend_free
def test_what_is_left_out_is_told():
    model = keras.Sequential([keras.Input((8,)), *[keras.layers.Dense(8) for _ in range(3)]])
    model.layers[0].quantize("float8")
    with pytest.warns(
        UserWarning, match=r"1 of the layers .* quantized \(float8\).*Received: "
    ) as told:
        ksa.enable(model, ksa.SVF())
    assert told[0].filename == __file__
    assert not hasattr(model.layers[0], "active_adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ksa.plan(model, ksa.LoRA(rank=2), exclude=model.layers[0].name)


@backend_free
@pytest.mark.parametrize("name", [5, [None], ["default", 1], {"default": 1}])
def test_what_is_no_name(name):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    for verb in (ksa.set_adapter, ksa.delete_adapter):
        with pytest.raises(ValueError, match="name.*Received: name="):
            verb(backbone, name)
    with pytest.raises(ValueError, match="Received: name=None"):
        ksa.delete_adapter(backbone, None)


def test_two_on_one_layer():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF())
    ksa.enable(backbone, ksa.LoRA(rank=2), name="second")
    before = snapshot(backbone)
    with pytest.raises(ValueError, match="One adapter of a layer.*Received: name="):
        ksa.set_adapter(backbone, ["default", "second"])
    assert snapshot(backbone) == before


VERBS = {
    "merge": ksa.merge,
    "save": lambda model: ksa.save_adapter(model, "nowhere.keras"),
    "disabled": lambda model: ksa.disabled(model).__enter__(),
    "set": lambda model: ksa.set_adapter(model, "pirate"),
    "delete": lambda model: ksa.delete_adapter(model, "pirate"),
}


@backend_free
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_on_a_plain_model(verb):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="has no adapter: `enable` one first. Received: "):
        VERBS[verb](backbone)


@backend_free
@pytest.mark.parametrize("method", [ksa.PiSSA(rank=2), ksa.LoRA(rank=2)])
def test_an_integer_kernel(method):
    layer = keras.layers.Dense(4, use_bias=False)
    layer.build((None, 6))
    layer.kernel._dtype = "int8"
    with pytest.raises(ValueError, match=r"its kernel is int8.*Received: "):
        ksa.enable(layer, method)


@backend_free
def test_more_than_one_matrix():
    layer = keras.layers.EinsumDense("bed,edf->bef", output_shape=(3, 5))
    layer.build((None, 3, 4))
    with pytest.raises(ValueError, match=r"every axis.*Received: "):
        ksa.enable(layer, ksa.DoRA(rank=2))


@backend_free
def test_a_method_that_no_target_has_a_use_for():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="has its own method.*Received: method=LoRA"):
        ksa.enable(backbone, ksa.LoRA(rank=2), targets={"attention": ksa.SVF()})


@backend_free
@pytest.mark.parametrize(
    "swapped",
    [
        lambda model: ksa.enable(ksa.SVF(), model),
        lambda model: ksa.save_adapter("a.keras", model),
        lambda model: ksa.status("a.keras"),
        lambda model: ksa.load_adapter("a.keras", model),
        lambda model: ksa.load_adapter(model, model),
    ],
)
def test_arguments_in_the_wrong_order(swapped):
    with pytest.raises(ValueError, match="first argument must be|`filepath` is the path"):
        swapped(models.bert()[0])


@backend_free
@pytest.mark.parametrize("train", [True, 3, [True]])
def test_train_that_names_nothing(train):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="`train` names layers or weights.*Received: train="):
        ksa.enable(backbone, ksa.SVF(), train=train)


@backend_free
def test_a_layer_as_a_target():
    backbone, _ = models.bert()
    for target in (backbone.layers[-1], keras.layers.Dense):
        with pytest.raises(ValueError, match="is a layer's name.*Received: "):
            ksa.enable(backbone, ksa.SVF(), targets=target)


@backend_free
def test_what_another_adapter_trained_is_not_in_the_file(tmp_path):
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.SVF(), train="*norm*")
    ksa.enable(backbone, ksa.SVF(), name="second")
    with pytest.warns(UserWarning, match="trained with 'default' also change the model's outputs"):
        ksa.save_adapter(backbone, tmp_path / "second.keras", name="second")


@backend_free
def test_what_a_merged_model_says():
    backbone, _ = models.bert()
    ksa.enable(backbone, ksa.PiSSA(rank=1))
    assert "nan" not in str(ksa.status(backbone))
    ksa.merge(backbone)
    with pytest.raises(ValueError, match="it was merged, and `unmerge`"):
        ksa.merge(backbone)
    ksa.unmerge(backbone)
    with pytest.raises(ValueError, match="was undone already"):
        ksa.unmerge(backbone)
    assert ksa.status(backbone).adapters
