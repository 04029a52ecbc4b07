"""Directories of PEFT for one small model, and what must not change it."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_svd_adapters as ksa

MODULES = {"up": "mlp.up_proj", "down": "mlp.down_proj"}


def take_off(model):
    while "default" in dict.fromkeys(row[0] for row in ksa.status(model).adapters):
        ksa.delete_adapter(model, "default")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def unchanged(model, act, error, match):
    """An error, and a model that is as it was."""
    names = [(w.path, w.trainable) for w in model.weights]
    values = [keras.ops.convert_to_numpy(w) for w in model.weights]
    with pytest.raises(error, match=match) as raised:
        act()
    assert [(w.path, w.trainable) for w in model.weights] == names
    for weight, value in zip(model.weights, values, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)
    assert "Received: " in str(raised.value)


def changed(directory, key=None, tensors=None, **settings):
    """The directory with other settings, or another tensor; `None` takes it out."""
    config = json.loads((directory / "adapter_config.json").read_text()) | settings
    (directory / "adapter_config.json").write_text(json.dumps(config))
    values = load_file(directory / "adapter_model.safetensors")
    if key is not None:
        values |= {f"base_model.model.mlp.{key}": tensors}
    values = {name: value for name, value in values.items() if value is not None}
    save_file(values, directory / "adapter_model.safetensors")
