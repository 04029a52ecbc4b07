"""Heads of classifiers on their way to HF PEFT and back."""

import copy

import keras
import keras_hub
import numpy as np
import peft
import pytest
import torch
import transformers
from cases import shake
from peft_exchange import close
from safetensors.numpy import load_file, save_file
from transformers_pairs import ENCODER, PAIRS, VOCABULARY, Pair, in_peft, settle

import keras_svd_adapters as ksa
from keras_svd_adapters.files.peft.families import BERT, DISTILBERT, ROBERTA, VIT


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


METHODS = [ksa.LoRA(rank=2), ksa.methods.LNTuning(), ksa.methods.BitFit()]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_that_trained_goes_along(family, method, tmp_path):
    pair = classifier(family, tmp_path / "base")
    base = pair.keras_outputs()
    close(base, pair.transformers_outputs())
    ksa.enable(pair.keras, method, train="logits")
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


@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_peft_trained_with_its_head_comes_in(family, bias, tmp_path):
    pair = classifier(family, tmp_path / "base")
    config = peft.LoraConfig(
        r=2, target_modules=["query"], layers_to_transform=[0], task_type="SEQ_CLS", bias=bias
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
    ksa.import_peft(pair.keras, tmp_path / "peft", "two")  # with a head of its own
    shake(pair.keras)
    ksa.set_adapter(pair.keras, "one")
    close(pair.keras_outputs(), expected)
    ksa.set_adapter(pair.keras, "two")
    ksa.export_peft(pair.keras, tmp_path / "again", "one")
    close(in_peft(pair, tmp_path / "again"), expected)

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
