"""Adapter files: what trains is what is saved; damaged or foreign files change nothing."""

import importlib
import os
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path

import keras
import keras_hub
import models
import numpy as np
import pytest
from archives import rewritten
from cases import METHODS, shake
from fresh_process import fresh_process

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.archive import FORMAT_VERSION, Contents, read_archive, write_archive
from keras_svd_adapters.files.fingerprints import KERNEL_SAMPLES, _every, factor_sample, same_factor
from keras_svd_adapters.kernels.svd.decomposition import Triplets
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.trained_weights import base_weights

backend_free = pytest.mark.backend_free("the bytes are the same whichever backend wrote them")

HERE = Path(__file__).parent
ADAPTED = {name: case for name, case in METHODS.items() if not (case.square_only or case.variant)}


def tuned(method, train=None, family=models.bert):
    backbone, x = family()
    ksa.enable(backbone, method, train=train)
    shake(backbone)
    return backbone, x


@pytest.mark.parametrize("name", ADAPTED)
def test_a_file_restores_the_model(name, tmp_path):
    method = ADAPTED[name].method
    backbone, x = tuned(method, train="*norm*")
    expected = models.output(backbone(x))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    fresh, _ = models.bert()
    report = ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)
    assert {w.path.split("/")[-1] for w in fresh.trainable_weights} == {
        w.path.split("/")[-1] for w in backbone.trainable_weights
    }
    assert str(method) in str(report)
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)


@pytest.mark.parametrize("name", ADAPTED)
def test_the_file_holds_what_trains(name, tmp_path):
    backbone, _ = tuned(ADAPTED[name].method, train="pooled_dense")
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    saved = read_archive(tmp_path / "a.keras").values
    extra = {f"train/{key}" for key, _, w in base_weights(backbone) if w.trainable}
    assert {key for key in saved if key.startswith("train/")} == extra
    frozen = {"sample_U", "sample_Vt", "sample_K"}
    for site in adapted_sites(backbone):
        declared = adapters_of(site.layer)["default"].declared
        frozen |= {array for array, what in declared.items() if not what.trainable}
    trained = {key: v for key, v in saved.items() if key.split("/")[-1] not in frozen}
    assert len(trained) == len(backbone.trainable_weights)
    total = sum(value.size for value in trained.values())
    assert total == sum(int(np.prod(w.shape)) for w in backbone.trainable_weights)


def test_backbone_methods(tmp_path):
    backbone, x = models.bert()
    backbone.enable_svft(pattern="banded", d=2)
    shake(backbone)
    expected = models.output(backbone(x))
    backbone.save_adapter(tmp_path / "a.keras")
    other, _ = models.bert()
    other.load_adapter(tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(other(x)), expected)
    other.merge_adapter()
    np.testing.assert_allclose(models.output(other(x)), expected, atol=1e-5)
    other.enable_svf(targets="query")
    third, _ = models.bert()
    third.enable_adapter(ksa.LoRA(rank=2))
    assert [w.name for w in third.trainable_weights[:2]] == ["lora_a", "lora_b"]


@backend_free
def test_other_backends_read_the_file(tmp_path):
    backbone, x = tuned(ksa.SVFT(pattern="random", d=2, seed=3), train="*norm*")
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    expected = models.output(backbone(x))
    backends = {name for name in ("jax", "tensorflow", "torch") if find_spec(name)}
    others = backends - {keras.backend.backend()}
    runs = [fresh_process("load_elsewhere.py", tmp_path, KERAS_BACKEND=b) for b in sorted(others)]
    for run in runs:
        assert run.wait() == 0
    for backend in others:
        np.testing.assert_allclose(np.load(tmp_path / f"{backend}.npy"), expected, atol=1e-5)


def test_identical_content_gives_identical_bytes(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "b.keras"]


def state(model):
    return {w.path: (w.trainable, w.numpy().tobytes()) for w in model.weights}, type(model)


def refuses(backbone, path, *words):
    """Loading raises our error, says these words, and leaves the model as it was."""
    before = state(backbone)
    with pytest.raises(ksa.AdapterFileError, match=r"Received: ") as caught:
        ksa.load_adapter(backbone, path, name="other")
    for word in words:
        assert word in str(caught.value)
    assert state(backbone) == before


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


def test_flipped_singular_vectors_are_refused(tmp_path, monkeypatch):
    service = importlib.import_module("keras_svd_adapters.kernels.svd.service")
    backbone, _ = tuned(ksa.SVFT(pattern="banded", d=1))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    right = service.decompose

    def flipped(K, part=None):
        found = right(K)
        sign = np.where(np.arange(len(found.s)) == 1, -1.0, 1.0)
        return Triplets(found.U * sign, found.s, found.Vt * sign[:, None])

    monkeypatch.setattr(service, "decompose", flipped)
    fresh, _ = models.bert()
    refuses(fresh, tmp_path / "a.keras", "singular vectors")


@pytest.mark.parametrize("method", [ksa.SVF(), ksa.SVFT()])
def test_equal_singular_values_are_marked(method, tmp_path, monkeypatch):
    def build():
        model = keras.layers.Dense(8, use_bias=False)
        model.build((None, 8))
        hadamard = np.array([[1.0]])
        for _ in range(3):
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        model.kernel.assign(hadamard)
        return model

    tuned_layer = build()
    ksa.enable(tuned_layer, method)
    ksa.save_adapter(tuned_layer, tmp_path / "a.keras")
    ksa.load_adapter(build(), tmp_path / "a.keras")
    svd = importlib.import_module("keras_svd_adapters.kernels.svd.decomposition")
    monkeypatch.setattr(svd, "_by_gram", lambda K: None)
    with pytest.raises(ksa.AdapterFileError, match="singular vectors"):
        ksa.load_adapter(build(), tmp_path / "a.keras")


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="banded", d=2)])
def test_another_precision(method, tmp_path):
    half, x = tuned(method, family=lambda: models.bert("bfloat16"))
    ksa.save_adapter(half, tmp_path / "a.keras", include_basis=method.basis_matters)
    full, _ = models.bert()
    words = r"trained on bfloat16 .* are float32 and differ by (\d\S+) of"
    with pytest.warns(UserWarning, match=words) as told:
        ksa.load_adapter(full, tmp_path / "a.keras")
    message = next(str(w.message) for w in told if "trained on" in str(w.message))
    far = float(re.search(words, message)[1])
    assert 1e-4 < far < 5e-3
    expected = models.output(half(x))
    found = models.output(full(x))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    plain = models.output(models.bert()[0](x))
    assert np.linalg.norm(found - plain) > 0.1 * np.linalg.norm(expected)


def test_another_precision_has_other_singular_vectors(tmp_path):
    half, _ = tuned(ksa.LoRAXS(rank=4), family=lambda: models.bert("bfloat16"))
    ksa.save_adapter(half, tmp_path / "a.keras")
    full, _ = models.bert()
    with pytest.warns(UserWarning, match="trained on bfloat16"):
        refuses(full, tmp_path / "a.keras", "on bfloat16 kernels and these", "include_basis=True")


@pytest.mark.parametrize("angle", [np.pi, 1e-3])
def test_marks_see_every_rotation(angle):
    U = np.linalg.qr(np.random.default_rng(0).normal(size=(300, 300)))[0].astype("float32")
    mark = factor_sample(U)
    rng = np.random.default_rng(1)
    assert same_factor(factor_sample(U + rng.normal(size=U.shape) * 1e-7), mark, "float32")
    for i in range(299):
        turned = U.copy()
        c, s = np.cos(angle), np.sin(angle)
        turned[:, i : i + 2] = U[:, i : i + 2] @ np.array([[c, s], [-s, c]], "float32")
        assert not same_factor(factor_sample(turned), mark, "float32"), i


@pytest.mark.parametrize("shape", [(4096, 1001), (768, 768), (100, 200), (6, 6)])
def test_kernel_marks_lie_everywhere(shape):
    matrix = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    rows, columns = np.unravel_index(_every(matrix, KERNEL_SAMPLES).astype(int), shape)
    assert len(rows) > 1000 or len(rows) == matrix.size
    assert len(set(columns)) > 0.6 * shape[1]
    assert len(set(rows)) > 0.6 * min(shape[0], KERNEL_SAMPLES)


def test_two_files_with_one_head(tmp_path):
    for name in ("p", "q"):
        model, _, _ = models.classifier()
        ksa.enable(model, ksa.LoRA(rank=2), "query", train="head")
        shake(model)
        ksa.save_adapter(model, tmp_path / f"{name}.keras")
    model, _, _ = models.classifier()
    ksa.load_adapter(model, tmp_path / "p.keras", name="p")
    refuses(model, tmp_path / "q.keras", "trains with the adapter 'p' already")
    ksa.delete_adapter(model, "p")
    ksa.enable(model, ksa.SVF(), "value", name="p")
    adapted = next(k for k, _, w in base_weights(model) if "value" in w.path and "kernel" in k)

    contents = read_archive(tmp_path / "q.keras")
    contents.config["train"].append(adapted)
    kernel = next(w for k, _, w in base_weights(model) if k == adapted)
    contents.values[f"train/{adapted}"] = np.zeros(kernel.shape, "float32")
    identity = {"module": "m", "class_name": "c", "config": contents.config}
    write_archive(tmp_path / "q.keras", Contents(identity, contents.values))
    refuses(model, tmp_path / "q.keras", "the kernel of", "which is adapted")


@pytest.mark.parametrize(
    ("method", "most"), [(ksa.SVF(), 80_000), (ksa.SVFT(pattern="banded", d=2), 350_000)]
)
def test_sizes(method, most, tmp_path):
    """The 36 kernels of MiniLM."""
    backbone = keras_hub.models.BertBackbone(models.TOKENS, 6, 12, 384, 1536)
    ksa.enable(backbone, method)
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    assert 36 * 384 * 4 < (tmp_path / "a.keras").stat().st_size < most


def test_numbers_of_numpy_are_numbers(tmp_path):
    backbone, x = tuned(ksa.LoRA(rank=2, alpha=np.float32(4)))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))


def test_values_that_are_not_finite_are_told(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    weight = backbone.trainable_weights[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.warns(UserWarning, match="NaN or infinite.*Received: "):
        ksa.save_adapter(backbone, tmp_path / "a.keras")
    with pytest.warns(UserWarning, match="NaN or infinite.*Received: "):
        ksa.load_adapter(models.bert()[0], tmp_path / "a.keras")


def test_what_fails_leaves_no_litter(tmp_path, monkeypatch):
    backbone, _ = tuned(ksa.SVF())
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    (tmp_path / "link.keras").symlink_to(tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()
    monkeypatch.setattr(os, "fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ksa.save_adapter(backbone, tmp_path / "b.keras")
    assert sorted(os.listdir(tmp_path)) == ["a.keras", "link.keras"]


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


@pytest.mark.parametrize("name", ["svft_banded", "svf", "lora_xs", "lora"])
def test_a_file_with_its_factors(name, tmp_path, monkeypatch):
    backbone, x = tuned(METHODS[name].method)
    ksa.save_adapter(backbone, tmp_path / "a.keras", include_basis=True)
    monkeypatch.setattr(
        importlib.import_module("keras_svd_adapters.kernels.svd.service"), "decompose", None
    )  # there is none
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), models.output(backbone(x)))


def test_a_hash_of_every_value(tmp_path):
    layer = keras.layers.Dense(200, use_bias=False)
    layer.build((None, 100))
    ksa.enable(layer, ksa.LoRA(rank=2))
    kernel = layer.base_kernel
    for full, words in ((False, None), (True, "other values")):
        ksa.save_adapter(layer, tmp_path / "a.keras", full_hash=full)
        before = kernel.numpy()
        changed = before.copy()
        changed[0, 1] += 1  # not among the samples
        kernel.assign(changed)
        if words is None:
            ksa.load_adapter(layer, tmp_path / "a.keras")
        else:
            with pytest.raises(ksa.AdapterFileError, match=words):
                ksa.load_adapter(layer, tmp_path / "a.keras")
        kernel.assign(before)


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


def test_names_of_adapters(tmp_path):
    backbone, _ = tuned(ksa.SVF())
    ksa.enable(backbone, ksa.LoRA(rank=2), name="pirate")
    with pytest.raises(ValueError, match="several adapters"):
        ksa.save_adapter(backbone, tmp_path / "a.keras")
    ksa.save_adapter(backbone, tmp_path / "a.keras", name="pirate")
    with pytest.raises(ksa.AdapterFileError, match="another method"):
        ksa.load_adapter(backbone, tmp_path / "a.keras", name="default")
    ksa.load_adapter(backbone, tmp_path / "a.keras", name="third")
    with pytest.raises(ValueError, match="'default', 'pirate', 'third'"):
        ksa.save_adapter(backbone, tmp_path / "b.keras", name="fourth")
