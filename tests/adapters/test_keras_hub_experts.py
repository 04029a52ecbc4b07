"""The experts of KerasHub: all are known, and each is adapted."""

import numpy as np
import pytest
from backbones import BACKBONES
from cases import batch, close, numpy, shake
from experts import EXPERTS, INNER, TOKENS, WIDTH

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites

MOE = sorted(
    name for name in BACKBONES if "Mo" in name or name in ("GptOssBackbone", "MixtralBackbone")
)


@pytest.mark.backend_free("classes of layers and the names of their weights")
def test_the_experts_of_keras_hub_are_known():
    """Every layer class of theirs with `(experts, m, n)` weights."""
    found = {}
    for name in MOE:
        backbone, _ = BACKBONES[name]()
        for site in find_sites(backbone):
            if site.view.count is not None:
                assert site.view.matrix_shape == site.shape
                found.setdefault(site.kind, set()).add(site.name)
    assert found == {
        "MixtralMoeExperts": {
            "expert_feedforward_gate_dense",
            "expert_feedforward_intermediate_dense",
            "expert_feedforward_output_dense",
        },
        **{
            f"{family}Experts": {"expert_feedforward_gate_dense", "expert_feedforward_output_dense"}
            for family in ("QwenMoe", "Qwen3Moe", "Qwen3_5Moe")
        },
        "GptOssExperts": {"gate_up_proj", "down_proj"},
    }


def keras_hub_experts(family):
    """A layer of experts with random weights, and arguments to call it with."""
    from keras_hub.src.models.gemma4.gemma4_moe import Gemma4MoEBlock
    from keras_hub.src.models.gpt_oss.gpt_oss_decoder import GptOssExperts
    from keras_hub.src.models.mixtral.mixtral_decoder import MixtralMoeExperts
    from keras_hub.src.models.qwen3_5_moe.qwen3_5_moe_decoder import Qwen3_5MoeExperts
    from keras_hub.src.models.qwen3_moe.qwen3_moe_decoder import Qwen3MoeExperts
    from keras_hub.src.models.qwen_moe.qwen_moe_decoder import QwenMoeExperts

    known = (
        Gemma4MoEBlock,
        GptOssExperts,
        MixtralMoeExperts,
        QwenMoeExperts,
        Qwen3MoeExperts,
        Qwen3_5MoeExperts,
    )
    layer = next(cls for cls in known if cls.__name__ == family)(EXPERTS, WIDTH, INNER)
    layer.build((TOKENS, WIDTH))
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(0.4 * rng.normal(size=weight.shape))
    inputs = [batch((TOKENS, WIDTH))]
    if family == "Gemma4MoEBlock":
        inputs.append(np.abs(batch((TOKENS, EXPERTS), seed=8)))
    return layer, inputs


@pytest.mark.parametrize(
    "family",
    [
        "Gemma4MoEBlock",
        "GptOssExperts",
        "MixtralMoeExperts",
        "QwenMoeExperts",
        "Qwen3MoeExperts",
        "Qwen3_5MoeExperts",
    ],
)
def test_experts_of_keras_hub_expert_by_expert(family):
    """Each expert's kernel, merged by hand, in a plain layer."""
    (layer, inputs), (plain, _) = keras_hub_experts(family), keras_hub_experts(family)
    before = numpy(layer(*inputs))
    ksa.enable(layer, ksa.LoRA(rank=2, alpha=6))
    np.testing.assert_array_equal(numpy(layer(*inputs)), before)
    shake(layer)
    sites = adapted_sites(layer)
    assert len(sites) == sum(len(weight.shape) == 3 for weight in plain.weights)
    for site in sites:
        v = adapters_of(site.layer)["default"].trained
        A, B = numpy(v["lora_a"]), numpy(v["lora_b"])
        kernel = getattr(plain, site.layer.attribute)
        kernel.assign(numpy(kernel) + np.stack([3.0 * a @ b for a, b in zip(A, B, strict=True)]))
    close(numpy(layer(*inputs)), numpy(plain(*inputs)))
    assert np.abs(numpy(layer(*inputs)) - before).max() > 0.1
