"""What leaves for HF PEFT, and what cannot."""

import keras
import pytest
from peft_exchange import MODULES, take_off, unchanged

import keras_svd_adapters as ksa


def test_what_fails_midway_leaves_no_adapter(model, written, monkeypatch):
    from keras_svd_adapters.files.peft import directory

    ksa.enable(model, ksa.LoRA(rank=2, alpha=7), targets=list(MODULES))
    before, calls = directory.written_at_once, []

    def fails(path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk full")
        return before(path)

    monkeypatch.setattr(directory, "written_at_once", fails)
    with pytest.raises(OSError, match="disk full"):
        ksa.export_peft(model, written, modules=MODULES)
    assert not (written / "adapter_config.json").exists()


EXPORTS = {
    "unknown family": (ksa.LoRA(rank=2), {}, "Give them with `modules=`"),
    "no such kernel": (ksa.LoRA(rank=2), {"modules": {"left": "x"}}, "names no kernel"),
    "other braces": (ksa.LoRA(rank=2), {"modules": {"up": "x.{}"}}, "same number of `{}`"),
    "no names": (ksa.LoRA(rank=2), {"modules": ["up"]}, "maps paths of kernels"),
    "a place in a name": (ksa.LoRA(rank=2), {"modules": {"up": "a{0}"}}, "maps paths of kernels"),
    "one name for two": (
        ksa.LoRA(rank=2),
        {"modules": dict.fromkeys(MODULES, "x")},
        "be one module",
    ),
    "no prefix": (ksa.LoRA(rank=2), {"modules": MODULES, "prefix": 3}, "`prefix` is a name"),
    "a kernel without": (ksa.LoRA(rank=2), {"modules": {"up": "x"}}, "is not known"),
    "no exact LoRA": (ksa.SVF(), {"modules": MODULES}, "Give `rank=` or `energy="),
    "rank and energy": (ksa.SVF(), {"rank": 2, "energy": 0.5}, "not both"),
    "no such adapter": (ksa.SVF(), {"name": "other"}, "no such adapter"),
}


@pytest.mark.parametrize(("method", "arguments", "match"), EXPORTS.values(), ids=EXPORTS)
def test_what_cannot_leave(model, method, arguments, match, tmp_path):
    ksa.enable(model, method, targets=list(MODULES))

    def act():
        ksa.export_peft(model, tmp_path / "lora", **arguments)

    unchanged(model, act, ValueError, match)
    assert not (tmp_path / "lora").exists()


def test_weights_that_trained_besides_are_told(model, tmp_path):
    ksa.enable(model, ksa.LoRA(rank=2), targets="up", train="down")
    modules = {"up": MODULES["up"]}

    def act(**arguments):
        ksa.export_peft(model, tmp_path / "lora", modules=modules, **arguments)

    unchanged(model, act, ValueError, "`strict=False` leaves them out")
    assert not (tmp_path / "lora").exists()
    with pytest.warns(UserWarning, match="down/kernel, down/bias"):
        act(strict=False)
    ksa.delete_adapter(model, "default")
    ksa.import_peft(model, tmp_path / "lora", "back", modules=modules)


def test_kernels_that_lie_otherwise_in_transformers_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(4, 2, name="slide")])
    ksa.enable(model, ksa.LoRA(rank=2), targets="slide")
    with pytest.raises(ValueError, match="`merge` covers all"):
        ksa.export_peft(model, tmp_path / "lora", modules={"slide": "conv"})


def test_a_tied_table_is_refused(pairs, tmp_path):
    model = pairs("gemma3").keras
    ksa.enable(model, ksa.LoRA(rank=2), targets="token_embedding", tied=True)
    with pytest.raises(ValueError, match="only the look-up"):
        ksa.export_peft(model, tmp_path / "lora")
    take_off(model)
