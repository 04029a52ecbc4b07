"""What comes in from HF PEFT, and what cannot."""

import copy

import keras
import numpy as np
import peft
import pytest
import safetensors.torch
import torch
from cases import shake
from peft_exchange import MODULES, changed, close, take_off, unchanged
from safetensors.numpy import load_file, save_file

import keras_svd_adapters as ksa
from keras_svd_adapters.files.peft.families import FAMILIES
from keras_svd_adapters.files.peft.settings import check_settings, method_for
from keras_svd_adapters.files.peft.twins import TWINS, are_written_together, twin_settings

CONFIGS = {
    "llama": peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 2, "layers.1.self_attn.q_proj": 4},
        alpha_pattern={r"layers\.0\.self_attn\.q_proj": 9},
    ),
    "bert": peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, target_modules=["query", "dense"]),
    "gemma3": peft.VeraConfig(r=12, target_modules=["q_proj", "k_proj", "o_proj"]),
    "vit": peft.LoraConfig(r=3, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "fc1"]),
    "qwen3": peft.LoraConfig(r=2, use_dora=True, target_modules="all-linear"),
    "gemma": peft.LoraConfig(r=2, lora_dropout=0.1, target_modules="all-linear"),
}


@pytest.mark.parametrize(("pair", "config"), CONFIGS.items(), indirect=["pair"], ids=CONFIGS)
def test_what_peft_trained_comes_in(pair, config, tmp_path):
    config = copy.deepcopy(config)
    trained = peft.get_peft_model(copy.deepcopy(pair.transformers), config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = pair.transformers_outputs(trained.eval())
    trained.save_pretrained(tmp_path)
    base = pair.keras_outputs()
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), expected)
    assert np.abs(expected - base).max() > 0.05


def test_what_came_in_trains_and_is_saved(pairs, tmp_path):
    pair = pairs("bert")
    trained = peft.get_peft_model(
        copy.deepcopy(pair.transformers),
        peft.VeraConfig(r=8, target_modules=["query"], task_type="FEATURE_EXTRACTION"),
    )
    trained.save_pretrained(tmp_path)
    ksa.import_peft(pair.keras, tmp_path)
    shake(pair.keras)
    expected = pair.keras_outputs()
    ksa.save_adapter(pair.keras, tmp_path / "mine.keras")
    take_off(pair.keras)
    ksa.load_adapter(pair.keras, tmp_path / "mine.keras")
    np.testing.assert_array_equal(pair.keras_outputs(), expected)
    take_off(pair.keras)


def test_a_table_that_was_saved_whole_is_not_turned(model, written):
    inputs = keras.Input((3,), dtype="int32")
    x = keras.layers.Embedding(8, 8, name="table")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(6, name="up")(x))
    table = np.random.default_rng(1).normal(size=(8, 8)).astype("float32")
    changed(written, "table.weight", table)
    for key in ("lora_A", "lora_B"):
        changed(written, f"down_proj.{key}.weight", None)
    modules = {"up": "mlp.up_proj", "table": "mlp.table"}
    ksa.import_peft(model, written, modules=modules)
    found = keras.ops.convert_to_numpy(model.get_layer("table").embeddings)
    np.testing.assert_array_equal(found, table)


A = "up_proj.lora_A.weight"
CHANGES = {
    "another method": ({"peft_type": "XLORA"}, "Only LoRA, DoRA, VeRA, LN"),
    "kernels of LN tuning": ({"peft_type": "LN_TUNING"}, "LN tuning has no kernels"),
    "a start that changed the base": ({"init_lora_weights": "pissa"}, "changed the base model"),
    "lora_bias": ({"lora_bias": True}, "lora_bias=True"),
    "token indices": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "layers twice": ({"layer_replication": [[0, 1]]}, "layer_replication"),
    "rank of text": ({"r": "two"}, "must be a number"),
    "rank of another": ({"r": 3}, r"should have `lora_A.weight` of shape \(3, 6\)"),
    "rank too large": ({"r": 60}, "does not suit"),
    "patterns of text": ({"rank_pattern": "x"}, "must be a mapping"),
    "a pattern that is none": ({"rank_pattern": {"(": 2}}, "does not suit"),
    "dropout of text": ({"lora_dropout": "x"}, "must be a number"),
    "alpha too large": ({"lora_alpha": 10**400}, "must be a number"),
    "no alpha": ({"lora_alpha": 0}, "does not suit"),
    "DoRA without magnitudes": ({"use_dora": True}, "lora_magnitude_vector"),
    "no B": ({"key": "up_proj.lora_B.weight"}, "should have"),
    "another shape": ({"key": A, "tensors": np.ones((2, 5), "float32")}, "of shape"),
    "NaN": ({"key": A, "tensors": np.full((2, 8), np.nan, "float32")}, "NaN"),
    "integers": ({"key": A, "tensors": np.ones((2, 8), "int8")}, "I8 values"),
    "of another model": (
        {"key": "o_proj.lora_A.weight", "tensors": np.ones((2, 8), "float32")},
        "no place for 1 modules",
    ),
    "a head that is not there": (
        {"key": "score.weight", "tensors": np.ones((2, 8), "float32")},
        "no place for 1 modules",
    ),
}


@pytest.mark.parametrize(("change", "match"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_come_in(model, written, change, match):
    changed(written, **change)
    unchanged(model, lambda: ksa.import_peft(model, written, modules=MODULES), ValueError, match)


def test_what_has_no_place_can_be_left_out(model, written):
    changed(written, "o_proj.lora_A.weight", np.ones((2, 8), "float32"))
    with pytest.warns(UserWarning, match="no place for 1 modules"):
        ksa.import_peft(model, written, modules=MODULES, strict=False)


def test_files_that_are_not_there_or_pickled(model, written):
    def act():
        ksa.import_peft(model, written, modules=MODULES)

    config = (written / "adapter_config.json").read_text()
    (written / "adapter_config.json").write_text("[1, {")
    unchanged(model, act, ValueError, "damaged")
    (written / "adapter_config.json").write_text("[1]")
    unchanged(model, act, ValueError, "no settings")
    (written / "adapter_config.json").write_text(config)
    with safetensors.safe_open(written / "adapter_model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}  # as PEFT and transformers ask
    values = (written / "adapter_model.safetensors").read_bytes()
    (written / "adapter_model.safetensors").write_bytes(values[:-3])
    unchanged(model, act, ValueError, "damaged")
    (written / "adapter_model.safetensors").unlink()
    unchanged(model, act, FileNotFoundError, "adapter_model.safetensors")
    (written / "adapter_model.bin").write_bytes(b"anything")
    unchanged(model, act, ValueError, "a pickle")
    (written / "adapter_config.json").unlink()
    unchanged(model, act, FileNotFoundError, "adapter_config.json")
    unchanged(model, lambda: ksa.import_peft(model, 3), ValueError, "is the path")


def test_vera_without_its_random_pair_is_refused(model, tmp_path):
    ksa.enable(model, ksa.VeRA(rank=4), targets=list(MODULES))
    ksa.export_peft(model, tmp_path, modules=MODULES)
    with pytest.raises(ValueError, match="is taken|an adapter of this name"):
        ksa.import_peft(model, tmp_path, modules=MODULES)
    ksa.import_peft(model, tmp_path, "again", modules=MODULES)
    for name in ("default", "again"):
        ksa.delete_adapter(model, name)
    values = load_file(tmp_path / "adapter_model.safetensors")
    other = {k: v + 1 if "vera_A" in k else v for k, v in values.items()}
    ksa.enable(model, ksa.VeRA(rank=4), targets=list(MODULES))
    save_file(other, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="other random arrays"):
        ksa.import_peft(model, tmp_path, "again", modules=MODULES)
    save_file(
        {k: v for k, v in values.items() if "vera_B" not in k},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match="save_projection=True"):
        ksa.import_peft(model, tmp_path, "again", modules=MODULES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_in_half_precision(model, written, dtype):
    values = safetensors.torch.load_file(written / "adapter_model.safetensors")
    halves = {name: value.to(dtype) for name, value in values.items()}
    safetensors.torch.save_file(halves, written / "adapter_model.safetensors")
    ksa.import_peft(model, written, modules=MODULES)
    kernel = values["base_model.model.mlp.up_proj.lora_A.weight"].to(dtype).float().numpy().T
    found = model.get_layer("up").adapter().lora_a
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(found), kernel)


def test_names_of_transformers_before_5_are_read(pairs, tmp_path):
    model = pairs("vit").keras
    ksa.enable(model, ksa.LoRA(rank=2))
    shake(model)
    adapted = pairs("vit").keras_outputs()
    ksa.export_peft(model, tmp_path)
    take_off(model)
    family, values = FAMILIES["ViTBackbone"], load_file(tmp_path / "adapter_model.safetensors")
    for path, module in family.kernels.items():
        for block in range(2):
            now, before = module.format(block), family.older[path].format(block)
            values = {key.replace(f"{now}.", f"vit.{before}."): v for key, v in values.items()}
    assert all(".vit.encoder.layer." in key for key in values)
    save_file(values, tmp_path / "adapter_model.safetensors")
    ksa.import_peft(model, tmp_path)
    np.testing.assert_array_equal(pairs("vit").keras_outputs(), adapted)
    take_off(model)


@pytest.mark.backend_free("settings")
@pytest.mark.parametrize("kind", TWINS)
def test_another_form_of_a_method_is_refused(kind):
    fixed = TWINS[kind].fixed
    settings = twin_settings(TWINS[kind].method())
    check_settings({"peft_type": kind, **settings})
    assert method_for({"peft_type": kind, **settings}, "up") == TWINS[kind].method(
        **TWINS[kind].form
    ) or kind in (
        "LOHA",
        "LOKR",
        "ADALORA",  # an alpha of None is written as the rank
        "IA3",  # its side is written as a list of modules
        "VBLORA",  # PEFT has one bank
    )
    for name in fixed.keys() - {"r", "bias"}:
        with pytest.raises(ValueError, match=f"not supported.*Received: {name}="):
            check_settings({"peft_type": kind, **settings, name: "another"})


@pytest.mark.backend_free("settings")
def test_settings_that_peft_has_once_must_be_equal():
    LoHa, LoKr, MiSS = ksa.methods.LoHa, ksa.methods.LoKr, ksa.methods.MiSS
    assert are_written_together([LoHa(rank=2), LoHa(rank=3, alpha=6)])
    assert are_written_together([LoKr(rank=2, factor=4), LoKr(rank=3, factor=4)])
    assert not are_written_together([LoKr(rank=2, factor=4), LoKr(rank=2)])
    assert not are_written_together([MiSS(rank=2), MiSS(rank=3)])
    assert not are_written_together([ksa.LoRA(rank=2)])
    assert not are_written_together([ksa.methods.HRA(rank=3, orthogonal=True)])
