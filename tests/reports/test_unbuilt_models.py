"""Plans of models that are not built: of a configuration, or of the directory of a preset."""

import keras
import models
import pytest

import keras_svd_adapters as ksa

backend_free = pytest.mark.backend_free("plans are made of shapes")


GEMMA_7B = {
    "class_name": "GemmaBackbone",
    "config": {
        "vocabulary_size": 256000,
        "num_layers": 28,
        "num_query_heads": 16,
        "num_key_value_heads": 16,
        "hidden_dim": 3072,
        "intermediate_dim": 49152,
        "head_dim": 256,
    },
}
LLAMA_3 = {
    "vocabulary_size": 128256,
    "num_key_value_heads": 8,
    "rope_max_wavelength": 500000,
}
LLAMA_3_8B = {
    "class_name": "Llama3Backbone",
    "config": LLAMA_3
    | {"num_layers": 32, "num_query_heads": 32, "hidden_dim": 4096, "intermediate_dim": 14336},
}
LLAMA_3_70B = {
    "class_name": "Llama3Backbone",
    "config": LLAMA_3
    | {"num_layers": 80, "num_query_heads": 64, "hidden_dim": 8192, "intermediate_dim": 28672},
}
QKV, UP, DOWN, GATE = ["query", "key", "value"], "ffw_gating_2", "ffw_linear", "ffw_gating"
LLAMA_MLP = ["*feedforward_*_dense"]


@backend_free
@pytest.mark.parametrize(
    ("model", "method", "targets", "count"),
    [
        # The repository's counts have one gate per kernel more.
        (GEMMA_7B, ksa.SVFT(pattern="banded", d=16), None, 19_816_580 - 28 * 7),
        (GEMMA_7B, ksa.SVFT(), [*QKV, UP, DOWN], 430_220 - 28 * 5),
        (GEMMA_7B, ksa.LoRA(rank=8), ["query", "value"], 3_211_264),
        (LLAMA_3_8B, ksa.SVF(), LLAMA_MLP, 393_216),
        (LLAMA_3_8B, ksa.SVF(), ["query", "value"], 163_840),
        (
            LLAMA_3_8B,
            ksa.SVFT(pattern="banded", d=16),
            [*LLAMA_MLP, "attention_output"],
            17_266_816 - 32 * 4,
        ),
        (
            LLAMA_3_8B,
            ksa.SVFT(pattern="banded", d=12),
            [*LLAMA_MLP, "attention_output"],
            13_087_360 - 32 * 4,
        ),
        (LLAMA_3_8B, ksa.LoRAXS(rank=128), None, 3_670_016),
        (LLAMA_3_70B, ksa.LoRAXS(rank=64), None, 80 * 7 * 64**2),
    ],
)
def test_plans_of_models_too_large_to_build(model, method, targets, count):
    plan = ksa.plan(model, method, targets)
    assert plan.trainable_parameters == count
    assert plan.model_parameters > 7e9


@backend_free
def test_a_plan_of_a_preset_directory(tmp_path):
    backbone, _ = models.llama()
    backbone.save_to_preset(tmp_path / "preset")
    planned = ksa.plan(tmp_path / "preset", ksa.SVFT(pattern="banded", d=2))
    assert str(planned) == str(ksa.plan(backbone, ksa.SVFT(pattern="banded", d=2)))


@backend_free
def test_a_plan_of_a_configuration_of_any_model():
    model = models.classifier()[0]
    planned = ksa.plan(keras.saving.serialize_keras_object(model), ksa.LoRA(rank=2))
    assert planned.trainable_parameters == ksa.plan(model, ksa.LoRA(rank=2)).trainable_parameters


def test_planning_leaves_no_variables_to_fill():
    ksa.plan(LLAMA_3_70B, ksa.LoRA(rank=2))
    with keras.StatelessScope():
        pass  # Keras fills what waits for a value when the scope ends: 280 GB


@backend_free
@pytest.mark.parametrize("source", [{"class_name": "NoSuch", "config": {}}, {"a": 1}, 7])
def test_what_is_no_model(source):
    with pytest.raises(ValueError, match=r"Received: "):
        ksa.plan(source, ksa.SVF())
