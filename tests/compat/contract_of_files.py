"""KerasHub, and files between versions: those of others are in the folder `COMPAT_FILES`."""

import json
import os
from pathlib import Path

import keras
import keras_hub
import models
import numpy as np
import pytest
from cases import numpy, shake
from subject import X, adapted, close, every_method, moved, plain, predicted

import keras_svd_adapters as ksa

HERE = f"{keras.__version__}-{keras.backend.backend()}"


@pytest.fixture
def files(tmp_path):
    """The folder in which each version leaves its files."""
    folder = Path(os.environ.get("COMPAT_FILES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize("family", models.FAMILIES)
def test_keras_hub(family, tmp_path):
    backbone, x = models.FAMILIES[family]()
    before = models.output(backbone(x))
    backbone.enable_svft(pattern="banded", d=2, verbose=0)
    close(models.output(backbone(x)), before)
    shake(backbone)
    backbone.save_adapter(tmp_path / "a.keras")
    backbone.save_to_preset(tmp_path / "preset")
    again = keras_hub.models.Backbone.from_preset(str(tmp_path / "preset"))
    streamed = ksa.from_preset(tmp_path / "preset")
    for each in (again, streamed):
        close(models.output(each(x)), models.output(backbone(x)))


def test_generate():
    task = models.gemma(num_layers=1, num_key_value_heads=2)
    task.compile(sampler="greedy")
    for name in "ab":
        ksa.enable(task, ksa.LoRA(rank=2), name=name, verbose=0)
        shake(task, 1.0, seed=ord(name))
    mask = np.array([[1, 1, 1, 0, 0, 0, 0, 0]] * 2)
    prompt = models.text() | {"padding_mask": mask}
    found = numpy(ksa.generate(task, prompt, ["a", "b"], stop_token_ids=None)["token_ids"])
    for row, name in enumerate("ab"):
        ksa.set_adapter(task, name)
        alone = task.generate(prompt, stop_token_ids=None)["token_ids"]
        np.testing.assert_array_equal(found[row], numpy(alone)[row])


def test_nested_containers(tmp_path):
    def build():
        keras.utils.set_random_seed(1)
        net = Nested()
        net(X)
        return net

    net = build()
    ksa.enable(net, ksa.LoRA(rank=2), targets="*", verbose=0)
    shake(net)
    ksa.save_adapter(net, tmp_path / "a.keras")
    fresh = build()
    ksa.load_adapter(fresh, tmp_path / "a.keras", verbose=0)
    close(numpy(fresh(X)), numpy(net(X)))


class Nested(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = {"a": [keras.layers.Dense(6), [keras.layers.Dense(6)]]}
        self.head = keras.layers.Dense(3)

    def call(self, x):
        first, (second,) = self.blocks["a"]
        return self.head(second(first(x)))


@every_method
def test_files_of_other_versions(method, request, files):
    """Each version writes a file; each reads those of all others, bit for bit."""
    name = request.node.callspec.id
    base = plain()
    for index, variable in enumerate(base.weights):
        values = np.random.default_rng(index).normal(size=variable.shape) / 3
        variable.assign(values.astype("float32"))
    model = adapted(method, model=base, train="head")
    shake(model)
    ksa.save_adapter(model, files / f"{name}-{HERE}.keras", include_basis=True)
    written = {w.path: numpy(w).tolist() for w in model.trainable_weights}
    (files / f"{name}-{HERE}.json").write_text(json.dumps(written))
    ksa.delete_adapter(model, "default")
    found = sorted(files.glob(f"{name}-*.keras"))
    for file in found:
        ksa.load_adapter(model, file, verbose=0)
        told = json.loads(file.with_suffix(".json").read_text())
        for (path, values), variable in zip(told.items(), model.trainable_weights, strict=True):
            assert path.split("/")[-1] == variable.path.split("/")[-1]
            np.testing.assert_array_equal(numpy(variable), np.array(values, "float32"))
        ksa.delete_adapter(model, "default")


def test_models_of_other_versions(files):
    """A whole model of another version loads and computes the same, or names that version."""
    model = moved(ksa.SVF())
    model.save(files / f"whole-{HERE}.keras")
    np.save(files / f"whole-{HERE}.npy", predicted(model))
    for file in sorted(files.glob("whole-*.keras")):
        version = file.stem.split("-")[1]
        try:
            loaded = keras.models.load_model(file)
        except ValueError as refusal:
            if f"keras>={version}" not in str(refusal):
                raise
        else:
            close(predicted(loaded), np.load(file.with_suffix(".npy")))
