"""Adapter files of every released format version load, and compute what they did."""

from pathlib import Path

import keras
import numpy as np
import pytest
from cases import numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.archive import FORMAT_VERSION

FOLDERS = sorted((Path(__file__).parent / "data").glob("v*"))
KINDS = ("", "_with_basis")


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
