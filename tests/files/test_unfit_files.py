"""Damaged, foreign and unfit adapter files, and loads that were stopped, change nothing."""

import importlib
import zipfile

import keras
import models
import numpy as np
import pytest
from adapter_files import refuses, tuned
from archives import rewritten
from cases import shake
from snapshots import state

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import FORMAT_VERSION, Contents, read_archive, write_archive
from keras_svd_adapters.models.state.trained_weights import base_weights


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "a.keras"
    backbone, _ = tuned(ksa.SVFT(pattern="banded", d=2))
    ksa.save_adapter(backbone, path)
    whole = path.read_bytes()
    fresh, _ = models.bert()

    (tmp_path / "text.keras").write_text("not a zip")
    refuses(fresh, tmp_path / "text.keras", "not a complete zip")
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.keras").write_bytes(whole[:length])
        refuses(fresh, tmp_path / "cut.keras", "damaged")
    flipped = bytearray(whole)
    flipped[whole.index(b"__metadata__") if b"__metadata__" in whole else len(whole) // 2] ^= 1
    (tmp_path / "flipped.keras").write_bytes(flipped)
    refuses(fresh, tmp_path / "flipped.keras")

    refuses(models.llama()[0], path, "which this model lacks")
    other, _ = models.bert()
    other.get_layer("transformer_layer_1")._feedforward_output_dense.kernel.assign_add(
        np.full((32, 16), 1e-3)
    )
    refuses(other, path, "transformer_layer_1/feedforward_output_dense", "other values")

    rewritten(path, lambda metadata, config: metadata.update(format_version=FORMAT_VERSION + 1))
    refuses(fresh, path, "format version", "pip install --upgrade")
    path.write_bytes(whole)
    for version in (0, True):
        rewritten(path, lambda metadata, config, v=version: metadata.update(format_version=v))
        refuses(fresh, path, "format version")
        path.write_bytes(whole)
    wrong = {"config.json": "0" * 64}
    rewritten(path, lambda metadata, config: None, checksums=wrong)
    refuses(fresh, path, "checksum of config.json is wrong")
    path.write_bytes(whole)
    rewritten(path, lambda metadata, config: metadata.update(format="something"))
    refuses(fresh, path, "not an adapter file")
    path.write_bytes(whole)
    site = next(iter(read_archive(path).config["sites"]))
    rewritten(path, lambda m, config: config["config"]["sites"][site].update(method="future"))
    refuses(fresh, path, "'future'", "svft")
    path.write_bytes(whole)
    rewritten(path, lambda m, config: config["config"]["sites"][site].pop("kernel"))
    refuses(fresh, path, "not well formed")

    fresh.save(tmp_path / "model.keras")
    refuses(fresh, tmp_path / "model.keras", "keras.saving.load_model")
    with pytest.raises(FileNotFoundError):
        ksa.load_adapter(fresh, tmp_path / "nowhere.keras")
    path.write_bytes(whole)
    with pytest.raises(Exception, match="load_adapter"):
        keras.saving.load_model(path)


def test_another_size_of_the_family(tmp_path):
    backbone, _ = tuned(ksa.SVF(), family=models.gemma3)
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    small, _ = models.bert()
    refuses(small, tmp_path / "a.keras")


def test_two_files_with_one_head(tmp_path):
    for name, targets in (("p", "value"), ("q", "query")):
        model, _, _ = models.classifier()
        ksa.enable(model, ksa.LoRA(rank=2), targets, train="head")
        shake(model)
        ksa.save_adapter(model, tmp_path / f"{name}.keras")
    model, _, _ = models.classifier()
    ksa.load_adapter(model, tmp_path / "p.keras", name="p")
    refuses(model, tmp_path / "q.keras", "trains with the adapter 'p'", "stays active on other")
    ksa.delete_adapter(model, "p")
    ksa.enable(model, ksa.SVF(), "value", name="p")
    adapted = next(k for k, _, w in base_weights(model) if "value" in w.path and "kernel" in k)

    contents = read_archive(tmp_path / "q.keras")
    contents.config["train"].append(adapted)
    kernel = next(w for k, _, w in base_weights(model) if k == adapted)
    contents.values[f"train/{adapted}"] = np.zeros(kernel.shape, "float32")
    identity = {"module": "m", "class_name": "c", "config": contents.config}
    write_archive(tmp_path / "q.keras", Contents(identity, contents.values))
    refuses(model, tmp_path / "q.keras", "which is adapted")


def moved_on(path):
    """A classifier that has other values by now than those in its file."""
    model, _, _ = models.classifier()
    ksa.enable(model, ksa.LoRA(rank=2), train="head")
    shake(model)
    ksa.save_adapter(model, path)
    shake(model)
    return model


def test_interrupted_while_values_come(tmp_path, monkeypatch):
    loader = importlib.import_module("keras_svd_adapters.files.load")
    model = moved_on(tmp_path / "a.keras")
    before, take, calls = state(model), loader._take, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        take(*args)

    monkeypatch.setattr(loader, "_take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ksa.load_adapter(model, tmp_path / "a.keras")
    assert state(model) == before


def test_stopped_after_the_values_came(tmp_path, monkeypatch):
    loader = importlib.import_module("keras_svd_adapters.files.load")
    model = moved_on(tmp_path / "a.keras")
    ksa.enable(model, ksa.SVF(), name="second")
    before = state(model)
    monkeypatch.setattr(loader, "train_and_sync", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ksa.load_adapter(model, tmp_path / "a.keras")
    assert state(model) == before


def test_what_fits_is_loaded_if_not_strict(tmp_path, capsys):
    backbone, x = tuned(ksa.LoRA(rank=2), train="*norm*")
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    other, _ = models.bert()
    kernel = other.get_layer("transformer_layer_1")._feedforward_output_dense.kernel
    kernel.assign_add(np.full((32, 16), 1e-3))
    refuses(other, tmp_path / "a.keras", "11 of its 12 layers match", "has other values")
    with pytest.warns(UserWarning, match="11 of its 12 layers match"):
        ksa.load_adapter(other, tmp_path / "a.keras", strict=False)
    np.testing.assert_allclose(models.output(other(x)), models.output(backbone(x)), atol=0.1)

    rewritten(
        tmp_path / "a.keras",
        lambda metadata, config: config["config"]["sites"].update(
            {"layers/gone": next(iter(config["config"]["sites"].values()))}
        ),
    )
    fresh, _ = models.bert()
    refuses(fresh, tmp_path / "a.keras", "12 of its 13", "`layers/gone`, which this model lacks")
    capsys.readouterr()
    with pytest.warns(UserWarning, match="12 of its 13"):
        ksa.load_adapter(fresh, tmp_path / "a.keras", strict=False, verbose=1)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "a.keras: 12 layers matched, 0 missing, 1 unexpected; 10 other weights matched, "
        "0 unexpected"
    )
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))
    with pytest.raises(ksa.AdapterFileError, match="0 of its 13"):
        ksa.load_adapter(models.vit()[0], tmp_path / "a.keras", strict=False)


def test_a_zip_bomb(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    path = tmp_path / "a.keras"
    ksa.save_adapter(backbone, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, bytes(50_000_000) if name.endswith("tensors") else data)
    refuses(models.bert()[0], path, "claims more than")
