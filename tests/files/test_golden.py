"""What earlier versions of the package wrote loads, and computes what it did."""

from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import FORMAT_VERSION

FOLDERS = sorted((Path(__file__).parents[1] / "data").glob("v*"))
MODELS = Path(__file__).parents[1] / "data" / "models"
TARGETS = {"square": ksa.SVFT(pattern="random", d=2, seed=5), "second": ksa.VeRA(rank=4, seed=3)}


def base():
    """A model whose weights are the same for ever."""
    model = keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(12, name="square", activation="tanh"),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    for index, weight in enumerate(model.weights):
        weight.assign(values(weight.shape, index + 1))
    return model


def values(shape, seed):
    """Numbers that no library's generator decides: the fractions of multiples of a root."""
    count = np.arange(1, int(np.prod(shape)) + 1, dtype="float64")
    return ((count * seed * np.sqrt(2) % 1) - 0.5).reshape(shape).astype("float32")


def batch():
    return values((5, 12), 11)


def test_there_are_files_of_every_version():
    assert [folder.name for folder in FOLDERS] == [f"v{v + 1}" for v in range(FORMAT_VERSION)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_golden_files(folder):
    with np.load(folder / "outputs.npz") as outputs:
        assert len(outputs) == len(list(folder.glob("*.keras")))
        for name, expected in outputs.items():
            model = base()
            ksa.load_adapter(model, folder / f"{name}.keras")
            np.testing.assert_allclose(numpy(model(batch())), expected, atol=1e-5, err_msg=name)


def adapted():
    """A compiled model with two methods, whose adapters have moved."""
    model = base()
    model.add(keras.layers.Dense(3, name="second"))
    model.layers[-1].kernel.assign(values((3, 3), 21))
    ksa.enable(model, targets=TARGETS, train="norm", cache=False)
    move(model)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    return model


def move(model):
    for index, weight in enumerate(model.trainable_weights):
        weight.assign_add(0.2 * values(weight.shape, 31 + index))


def backbone():
    """A tiny BERT whose weights are the same for ever."""
    model = keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        max_sequence_length=6,
        dropout=0.0,
    )
    for index, weight in enumerate(model.weights):
        weight.assign(values(weight.shape, index + 1))
    return model


def adapted_backbone():
    model = backbone()
    for name, method in (("first", ksa.LoRA(rank=2)), ("second", ksa.SVF())):
        ksa.enable(model, method, targets=["query", "value"], name=name, cache=False)
        move(model)
    return model


def tokens():
    ids = np.arange(1, 13, dtype="int32").reshape(2, 6)
    return {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": np.zeros_like(ids)}


@pytest.fixture(scope="module")
def expected():
    with np.load(MODELS / "outputs.npz") as outputs:
        return dict(outputs)


def test_a_golden_model_loads_and_learns(expected):
    model = keras.saving.load_model(MODELS / "adapted.keras")
    np.testing.assert_allclose(numpy(model(batch())), expected["model"], atol=1e-5)
    assert int(model.optimizer.iterations) == 1
    before = [numpy(weight) for weight in model.trainable_weights]
    model.fit(batch(), np.zeros((5, 3)), verbose=0)
    for weight, value in zip(model.trainable_weights, before, strict=True):
        assert np.any(numpy(weight) != value), weight.path


def test_golden_weights_load(expected):
    model = adapted()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(MODELS / "adapted.weights.h5")
    np.testing.assert_allclose(numpy(model(batch())), expected["model"], atol=1e-5)


def test_a_golden_preset_loads(expected):
    model = keras_hub.models.Backbone.from_preset(str(MODELS / "preset"))
    y = numpy(model(tokens())["sequence_output"])
    np.testing.assert_allclose(y, expected["preset"], atol=1e-5)
    assert sorted(row[0] for row in ksa.status(model).adapters) == ["first", "second"]
