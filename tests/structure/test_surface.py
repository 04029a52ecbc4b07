"""The names that users, files and other packages rely on: they change only on purpose."""

import dataclasses
import importlib
import inspect
import pkgutil

import keras
import pytest
from cases import EVERY_METHOD, adapted, build_layer, dense

import keras_svd_adapters as ksa

VERBS = """
begin_task combine delete_adapter disabled enable export_nf4 export_peft extract_lora import_nf4
find_learning_rate
from_preset generate import_peft keep_layers observe rank_by_depth rules
load_adapter merge plan predict prune quantize register_kernels save_adapter search_blend
set_adapter similarity spectrum status targets to_lora to_sparse transfer unmerge coefficients
"""
CORE = ["DoRA", "LoRA", "LoRAXS", "MiLoRA", "PiSSA", "SVF", "SVFT", "TokenRows", "VeRA"]
METHOD_NAMES = {
    "aflora": "AFLoRA",
    "adaption_prompt": "AdaptionPrompt",
    "bitfit": "BitFit",
    "boft": "BOFT",
    "dora": "DoRA",
    "hra": "HRA",
    "ia3": "IA3",
    "ln_tuning": "LNTuning",
    "lora": "LoRA",
    "lora_xs": "LoRAXS",
    "milora": "MiLoRA",
    "oft": "OFT",
    "pissa": "PiSSA",
    "svf": "SVF",
    "svft": "SVFT",
    "intrinsic_dimension": "IntrinsicDimension",
    "vblora": "VBLoRA",
    "lotr": "LoTR",
    "nola": "NOLA",
    "randlora": "RandLoRA",
    "online_lora": "OnlineLoRA",
    "task_lora": "TaskLoRA",
    "tied_lora": "TiedLoRA",
    "tiny_lora": "TinyLoRA",
    "token_rows": "TokenRows",
    "vera": "VeRA",
    "lora_prune": "LoRAPrune",
    "prefix_tuning": "PrefixTuning",
    "prilora": "PRILoRA",
    "roselora": "RoseLoRA",
    "sparse_adapter": "SparseAdapter",
    "abba": "ABBA",
    "dude": "DuDe",
    "adalora": "AdaLoRA",
    "allocating_lora": "AllocatingLoRA",
    "autolora": "AutoLoRA",
    "bilora": "BiLoRA",
    "diff_pruning": "DiffPruning",
    "sparse_delta": "SparseDelta",
    "dylora": "DyLoRA",
    "dynamic_dora": "DynamicDoRA",
    "edora": "EDoRA",
    "flora": "FLoRA",
    "hydra_lora": "HydraLoRA",
    "fourier_ft": "FourierFT",
    "loha": "LoHa",
    "lokr": "LoKr",
    "lora_x": "LoRAX",
    "loretta": "LoRETTA",
    "melora": "MELoRA",
    "miss": "MiSS",
    "lora_pool": "LoRAPool",
    "mola": "MoLA",
    "molora": "MoLoRA",
    "mov": "MoV",
    "nested_lora_xs": "NestedLoRAXS",
    "pmss": "PMSS",
    "psoft": "PSOFT",
    "shifted_attention": "ShiftedAttention",
    "qa_lora": "QALoRA",
    "sora": "SoRA",
    "spectral_adapter_a": "SpectralAdapterA",
    "spectral_adapter_r": "SpectralAdapterR",
    "svdiff": "SVDiff",
    "tri_lora": "TriLoRA",
}
OF_ATTENTION = {
    "AdaptionPrompt",
    "PrefixTuning",
    "ShiftedAttention",
}  # they have no layer of their own
WITHOUT_LAYER = {"cpt": "CPT", "p_tuning": "PTuning", "prompt_tuning": "PromptTuning"}
REPORTS = """
AdapterFileError AdapterHealth Approximation BlendSearch Choice Coefficients Compensation
MergeReport Method LearningRates Observation Plan Similarity Site Spectrum Status
__version__ svd_cache
"""
pytestmark = pytest.mark.backend_free("names")


def test_no_public_name_is_gone():
    layers = [f"{name}Dense" for name in METHOD_NAMES.values() if name not in OF_ATTENTION]
    core = [*CORE, *(f"{name}Dense" for name in CORE)]
    assert {*VERBS.split(), *REPORTS.split(), *core} <= set(ksa.__all__)
    assert {*METHOD_NAMES.values(), *WITHOUT_LAYER.values()} <= set(ksa.methods.__all__)
    assert set(layers) <= set(ksa.layers.__all__)
    assert all(inspect.isfunction(getattr(ksa, verb)) for verb in VERBS.split())


def test_the_names_of_methods_in_files():
    found = {name: cls.__name__ for name, cls in ksa.Method.registry.items()}
    known = METHOD_NAMES | WITHOUT_LAYER
    assert {name: found.get(name) for name in known} == known


def test_the_names_that_keras_saves():
    registered = {
        name for name in keras.saving.get_custom_objects() if name.startswith("keras_svd_adapters>")
    }
    named = {"AdaptedModel", "AdapterFile", "AdapterHealth", "RuledOptimizer", "Rates", "Schedule"}
    layers = {f"{name}Dense" for name in METHOD_NAMES.values() if name not in OF_ATTENTION}
    assert registered >= {f"keras_svd_adapters>{name}" for name in named | layers}


PATHS = {
    "aflora": ["d", "lora_a", "lora_b", "v"],
    "lora_prune": ["lora_a", "lora_b"],
    "roselora": ["lora_a", "lora_b"],
    "sparse_adapter": ["lora_a", "lora_b"],
    "lora": ["lora_a", "lora_b"],
    "dora": ["lora_a", "lora_b", "magnitude"],
    "pissa": ["lora_a", "lora_b"],
    "milora": ["lora_a", "lora_b"],
    "lora_xs": ["latent"],
    "vera": ["lambda_b", "lambda_d"],
    "token_rows": ["shift"],
    "svf": ["z"],
    "svft_plain": ["m"],
    "ia3": ["scaling"],
    "tri_lora": ["gate", "lora_a", "lora_b"],
    "adalora": ["gate", "lora_a", "lora_b"],
    "bilora": ["gate", "lora_a", "lora_b"],
    "sora": ["gate", "lora_a", "lora_b"],
    "dynamic_dora": ["gate", "lora_a", "lora_b"],
    "dylora": ["lora_a", "lora_b"],
    "autolora": ["gate", "lora_a", "lora_b"],
    "allocating_lora": ["gate", "lora_a", "lora_b"],
    "diff_pruning": ["diff", "group", "log_alpha"],
    "sparse_delta": ["values"],
    "flora": ["core", "lora_a", "lora_b"],
    "melora": ["lora_a", "lora_b"],
    "qa_lora": ["lora_a", "lora_b"],
    "loha": ["loha_a1", "loha_a2", "loha_b1", "loha_b2"],
    "abba": ["abba_a1", "abba_a2", "abba_b1", "abba_b2"],
    "miss": ["shards"],
    "lokr": ["w1", "w2_a", "w2_b"],
    "lokr_whole": ["w1", "w2"],
    "fourier_ft": ["coefficients"],
    "loretta": ["tt_a_0", "tt_a_1", "tt_b_0", "tt_b_1"],
    "dude": ["lora_a", "lora_b", "magnitude"],
    "svdiff": ["shift"],
    "spectral_adapter_a": ["x", "y"],
    "spectral_adapter_r": ["scaling", "skew_x", "skew_y"],
    "psoft": ["skew", "vec_a", "vec_b"],
    "edora": ["latent", "magnitude"],
    "lora_x": ["latent"],
    "nested_lora_xs": ["latent_a", "latent_b"],
    "pmss": ["latent"],
    "hra": ["u"],
    "oft": ["skew"],
    "boft": ["scale", "skew"],
    "hydra_lora": ["gate", "lora_a", "lora_b"],
    "molora": ["gate", "gate_bias", "lora_a", "lora_b"],
    "lora_pool": ["gate", "lora_a", "lora_b"],
    "mola": ["gate", "lora_a", "lora_b"],
    "mov": ["gate", "gate_bias", "scaling"],
}


@pytest.mark.parametrize("name", PATHS)
def test_the_paths_of_variables(name):
    layer = adapted(EVERY_METHOD[name], build_layer(dense(12, 40)[0]))
    found = [w.path.split("/")[-2:] for w in layer.trainable_weights]
    assert sorted(found) == [["adapter_default", array] for array in PATHS[name]]


def test_reports_cannot_be_changed_by_accident():
    """Every dataclass of the package is frozen, except a cache of compiled functions."""
    found = set()
    for info in pkgutil.walk_packages(ksa.__path__, "keras_svd_adapters."):
        if not info.name.endswith("fused_products_torch"):
            found |= {
                cls
                for cls in vars(importlib.import_module(info.name)).values()
                if dataclasses.is_dataclass(cls) and isinstance(cls, type)
            }
    assert len(found) > 30
    assert {cls.__name__ for cls in found if not cls.__dataclass_params__.frozen} == {
        "FunctionStore"
    }
