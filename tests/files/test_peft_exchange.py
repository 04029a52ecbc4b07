"""Adapters that leave for HF PEFT and come from there, by models of both libraries."""

import copy
import json
import warnings

import keras
import keras_hub
import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from cases import shake
from safetensors.numpy import load_file, save_file
from transformers_pairs import DECODER, ENCODER, PAIRS, VOCABULARY, Pair, settle, text

import keras_svd_adapters as ksa
from keras_svd_adapters.files.peft.families import BERT, DISTILBERT, FAMILIES, ROBERTA, VIT

MODULES = {"up": "mlp.up_proj", "down": "mlp.down_proj"}
METHODS = {
    "lora": (ksa.LoRA(rank=3, alpha=6), {}),
    "rslora": (ksa.LoRA(rank=3, alpha=6, rslora=True), {}),
    "dora": (ksa.DoRA(rank=3, alpha=6), {}),
    "vera": (ksa.VeRA(rank=16), {}),
    "pissa": (ksa.PiSSA(rank=2, alpha=4), {}),
    "milora": (ksa.MiLoRA(rank=2), {}),
    "lora_xs": (ksa.LoRAXS(rank=4, alpha=8), {}),
    "svf": (ksa.SVF(), {"energy": 1.0}),
    "svft": (ksa.SVFT(pattern="banded", d=2), {"rank": 12}),
}
MIXED = {"attention": ksa.LoRA(rank=3, alpha=6), "mlp": ksa.PiSSA(rank=2)}
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


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}

    def pair(family):
        if family not in made:
            made[family] = PAIRS[family](tmp_path_factory.mktemp(family))
        return made[family]

    return pair


@pytest.fixture
def pair(request, pairs):
    yield pairs(request.param)
    take_off(pairs(request.param).keras)


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(6, name="up"), keras.layers.Dense(8, name="down")]
    )


@pytest.fixture
def written(model, tmp_path):
    ksa.enable(model, ksa.LoRA(rank=2), targets=list(MODULES))
    shake(model)
    ksa.export_peft(model, tmp_path / "lora", modules=MODULES)
    ksa.delete_adapter(model, "default")
    return tmp_path / "lora"


def take_off(model):
    while "default" in dict.fromkeys(row[0] for row in ksa.status(model).adapters):
        ksa.delete_adapter(model, "default")


def in_peft(pair, directory):
    """The outputs of the transformers model with the adapter that PEFT finds there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's way to tell of missing tensors
        model = peft.PeftModel.from_pretrained(copy.deepcopy(pair.transformers), str(directory))
    return pair.transformers_outputs(model.eval())


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pair", ["llama"], indirect=True)
@pytest.mark.parametrize(("method", "size"), METHODS.values(), ids=METHODS)
def test_every_method_leaves_and_comes_back(pair, method, size, tmp_path):
    base = pair.keras_outputs()
    ksa.enable(pair.keras, method)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    told = ksa.export_peft(pair.keras, tmp_path, **size)
    if "rank" in size:
        assert 0.01 < told.error < 1
        ksa.to_lora(pair.keras, "default", "near", **size)
        adapted = pair.keras_outputs()
        ksa.delete_adapter(pair.keras, "near")
    else:
        assert told.error < 1e-6
    close(in_peft(pair, tmp_path), adapted)
    take_off(pair.keras)
    close(pair.keras_outputs(), base)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), adapted)


@pytest.mark.parametrize("pair", [f for f in PAIRS if f != "llama"], indirect=True)
def test_every_family_leaves_and_comes_back(pair, tmp_path):
    base = pair.keras_outputs()
    ksa.enable(pair.keras, targets=MIXED)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    assert np.abs(adapted - base).max() > 0.05
    ksa.export_peft(pair.keras, tmp_path, base_model="a/base")
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "a/base"
    )
    close(in_peft(pair, tmp_path), adapted)
    take_off(pair.keras)
    ksa.import_peft(pair.keras, tmp_path)
    close(pair.keras_outputs(), adapted)


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


def classifier(family, tmp_path):
    """A classifier of each library with the same weights, without a preprocessor."""
    hf, task = {
        "bert": (
            transformers.BertForSequenceClassification(
                transformers.BertConfig(
                    **ENCODER, num_labels=3, max_position_embeddings=16, hidden_act="gelu_new"
                )
            ),
            keras_hub.models.BertTextClassifier,
        ),
        "roberta": (
            transformers.RobertaForSequenceClassification(
                transformers.RobertaConfig(
                    **ENCODER,
                    num_labels=3,
                    max_position_embeddings=18,
                    layer_norm_eps=1e-5,
                    type_vocab_size=1,
                )
            ),
            keras_hub.models.RobertaTextClassifier,
        ),
    }[family]
    settle(hf)
    if family == "roberta":
        hf.roberta.embeddings.token_type_embeddings.weight.data.zero_()  # KerasHub has none
    hf.save_pretrained(tmp_path)
    backbone = task.backbone_cls.from_preset(str(tmp_path), dtype="float32")
    ours = task(backbone=backbone, num_classes=3, preprocessor=None)
    heads = {
        "bert": {"logits": hf.classifier},
        "roberta": {"pooled_dense": getattr(hf.classifier, "dense", None)}
        | {"logits": getattr(hf.classifier, "out_proj", None)},
    }[family]
    for name, module in heads.items():
        ours.get_layer(name).kernel.assign(module.weight.detach().numpy().T)
        ours.get_layer(name).bias.assign(module.bias.detach().numpy())
    ids = np.random.default_rng(5).integers(4, VOCABULARY, (2, 9)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    if family == "bert":
        inputs["segment_ids"] = np.zeros_like(ids)
    return Pair(ours, hf, inputs, {"input_ids": torch.tensor(ids.astype("int64"))})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_that_trained_goes_along(family, tmp_path):
    pair = classifier(family, tmp_path / "base")
    base = pair.keras_outputs()
    close(base, pair.transformers_outputs())
    ksa.enable(pair.keras, ksa.LoRA(rank=2), train="logits")
    for weight in pair.keras.trainable_weights:
        weight.assign_add(0.1 * np.random.default_rng(3).normal(size=weight.shape))
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path / "peft")
    close(in_peft(pair, tmp_path / "peft"), adapted)

    fresh = classifier(family, tmp_path / "again")
    ksa.import_peft(fresh.keras, tmp_path / "peft", "came")
    close(fresh.keras_outputs(), adapted)
    logits = fresh.keras.get_layer("logits")
    assert {id(w) for w in logits.weights} <= {id(w) for w in fresh.keras.trainable_weights}
    assert np.abs(adapted - base).max() > 0.05


@pytest.mark.parametrize("targets", ["query", ["query", "logits"]], ids=str)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_that_did_not_train_stays(family, targets, tmp_path):
    pair = classifier(family, tmp_path / "base")
    ksa.enable(pair.keras, ksa.LoRA(rank=2), targets=targets)
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path / "peft")
    close(in_peft(pair, tmp_path / "peft"), adapted)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_peft_trained_with_its_head_comes_in(family, tmp_path):
    pair = classifier(family, tmp_path / "base")
    config = peft.LoraConfig(
        r=2, target_modules=["query"], layers_to_transform=[0], task_type="SEQ_CLS"
    )
    trained = peft.get_peft_model(copy.deepcopy(pair.transformers), config)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    expected = pair.transformers_outputs(trained.eval())
    trained.save_pretrained(tmp_path / "peft")
    ksa.import_peft(pair.keras, tmp_path / "peft", "one")
    close(pair.keras_outputs(), expected)
    with pytest.raises(ValueError, match=r"`delete_adapter\(model, 'one'\)` first.*Received: "):
        ksa.import_peft(pair.keras, tmp_path / "peft", "two")

    head = {"bert": "classifier", "roberta": "classifier.out_proj"}[family]
    values = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    values[f"base_model.model.{head}.bias"] = np.ones(5, "float32")
    save_file(values, tmp_path / "peft" / "adapter_model.safetensors")
    fresh = classifier(family, tmp_path / "again").keras
    with pytest.raises(ValueError, match=r"`num_classes=`.*Received: `classifier.*\(5,\)"):
        ksa.import_peft(fresh, tmp_path / "peft")
    assert not ksa.status(fresh).adapters


def test_a_head_of_ones_own_is_none_of_transformers(tmp_path):
    backbone = PAIRS["bert"](tmp_path / "bert").keras
    pooled = keras.layers.GlobalAveragePooling1D()(backbone(backbone.input)["sequence_output"])
    model = keras.Model(backbone.input, keras.layers.Dense(2, name="logits")(pooled))
    ksa.enable(model, ksa.LoRA(rank=2), train="logits")
    with pytest.raises(ValueError, match="other weights also trained.*logits/kernel"):
        ksa.export_peft(model, tmp_path / "peft")


def test_vera_on_some_kernels_of_a_pair_for_more(pairs, tmp_path):
    pair = pairs("llama")
    ksa.enable(pair.keras, ksa.VeRA(rank=8))
    ksa.enable(pair.keras, ksa.VeRA(rank=8), targets="attention", name="some")
    ksa.set_adapter(pair.keras, "some")
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path, "some")
    close(in_peft(pair, tmp_path), adapted)
    ksa.delete_adapter(pair.keras, "some")
    take_off(pair.keras)


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


def test_an_embedding_goes_along(tmp_path):
    config = transformers.LlamaConfig(
        **DECODER,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    hf = transformers.LlamaForCausalLM(config)
    pair = text(keras_hub.models.Llama3CausalLM, settle(hf), tmp_path / "base")
    ksa.enable(pair.keras, ksa.LoRA(rank=2), targets=["token_embedding", "query"])
    shake(pair.keras)
    adapted = pair.keras_outputs()
    ksa.export_peft(pair.keras, tmp_path / "peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(copy.deepcopy(hf), str(tmp_path / "peft"))
    close(pair.transformers_outputs(model.eval()), adapted)
    model.save_pretrained(tmp_path / "again")  # which has the frozen table as well
    for directory in ("peft", "again"):
        ksa.delete_adapter(pair.keras, "default")
        ksa.import_peft(pair.keras, tmp_path / directory)
        close(pair.keras_outputs(), adapted)


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
    ksa.enable(model, ksa.LoRA(rank=2), targets=list(MODULES), bias="adapted")

    def act(**arguments):
        ksa.export_peft(model, tmp_path / "lora", modules=MODULES, **arguments)

    unchanged(model, act, ValueError, "`strict=False` leaves them out")
    assert not (tmp_path / "lora").exists()
    with pytest.warns(UserWarning, match="up/bias, down/bias"):
        act(strict=False)
    ksa.import_peft(model, tmp_path / "lora", "back", modules=MODULES)


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


def changed(directory, key=None, tensors=None, **settings):
    """The directory with other settings, or another tensor; `None` takes it out."""
    config = json.loads((directory / "adapter_config.json").read_text()) | settings
    (directory / "adapter_config.json").write_text(json.dumps(config))
    values = load_file(directory / "adapter_model.safetensors")
    if key is not None:
        values |= {f"base_model.model.mlp.{key}": tensors}
    values = {name: value for name, value in values.items() if value is not None}
    save_file(values, directory / "adapter_model.safetensors")


A = "up_proj.lora_A.weight"
CHANGES = {
    "another method": ({"peft_type": "IA3"}, "Only LoRA, DoRA and VeRA"),
    "biases": ({"bias": "all"}, "trained biases"),
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
    with pytest.raises(ValueError, match="another random pair"):
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


def test_the_families_are_classes_of_keras_hub():
    for name in FAMILIES:
        assert issubclass(getattr(keras_hub.models, name), keras_hub.models.Backbone)


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WITH_HEADS = {
    "bert": (
        BERT,
        lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    ),
    "roberta": (
        ROBERTA,
        lambda: transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SMALL)),
    ),
    "distilbert": (
        DISTILBERT,
        lambda: transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(dim=8, n_layers=1, n_heads=2, hidden_dim=8)
        ),
    ),
    "vit": (
        VIT,
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(**SMALL, image_size=8, patch_size=4)
        ),
    ),
}


@pytest.mark.backend_free("names of modules")
@pytest.mark.parametrize("name", WITH_HEADS)
def test_heads_are_modules_of_transformers(name):
    family, build = WITH_HEADS[name]
    modules = dict(build().named_modules())
    assert family.heads
    assert set(family.heads.values()) <= modules.keys()
    assert family.prefix in modules
