"""Methods of PEFT, other than LoRA and VeRA, that this package has in the same form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_svd_adapters.files.peft.turns import COLUMN, ROW_OR_COLUMN, SAME, WHOLE_BLOCKS
from keras_svd_adapters.files.peft.twin import Twin
from keras_svd_adapters.methods import (
    BOFT,
    HRA,
    IA3,
    OFT,
    AdaLoRA,
    FourierFT,
    LoHa,
    LoKr,
    MiSS,
    RandLoRA,
    VBLoRA,
)
from keras_svd_adapters.methods.method import Method


def _one_bank(v: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of VB-LoRA with one bank, of whose vectors each side chooses its own."""
    if "bank_b" not in v:
        return v
    a, b = v["logits_a"], v["logits_b"]
    return v | {
        "bank": np.concatenate([v["bank"], v["bank_b"]]),
        "logits_a": np.concatenate([a, np.full_like(a, NEVER)], axis=-1),
        "logits_b": np.concatenate([np.full_like(b, NEVER), b], axis=-1),
    }


NEVER = -1e4  # a logit that is never among the largest
UNDROPPED = {"rank_dropout": 0.0, "module_dropout": 0.0}
RANK_AND_ALPHA = {"r": "rank_pattern", "alpha": "alpha_pattern"}
TWINS: dict[str, Twin] = {
    "LOHA": Twin(
        LoHa,
        {
            "hada_w1_a": "loha_b1",
            "hada_w1_b": "loha_a1",
            "hada_w2_a": "loha_b2",
            "hada_w2_b": "loha_a2",
        },
        {"r": "rank", "alpha": "alpha"},
        UNDROPPED,
        patterns=RANK_AND_ALPHA,
    ),
    "LOKR": Twin(
        LoKr,
        {"lokr_w1": "w1", "lokr_w2": "w2", "lokr_w2_a": "w2_b", "lokr_w2_b": "w2_a"},
        {"r": "rank", "alpha": "alpha", "decompose_factor": "factor"},
        UNDROPPED | {"decompose_both": False},
        patterns=RANK_AND_ALPHA,
    ),
    "MISS": Twin(
        MiSS,
        {"miss_block": "shards"},
        {"r": "rank"},
        {"bias": "none", "miss_dropout": 0.0, "mini_r": 1, "init_weights": True},
        turn=SAME,
    ),
    "OFT": Twin(
        OFT,
        {"oft_R.weight": "skew"},
        {"oft_block_size": "block_size", "block_share": "shared_blocks"},
        {
            "bias": "none",
            "coft": False,
            "module_dropout": 0.0,
            "r": 0,
            "use_cayley_neumann": False,  # a truncated series, and PEFT's default
        },
        turn=SAME,
    ),
    "HRA": Twin(
        HRA,
        {"hra_u": "u"},
        {"r": "rank", "apply_GS": "orthogonal"},
        {"apply_GS": False, "bias": "none"},
        turn=SAME,
    ),
    "BOFT": Twin(
        BOFT,
        {"boft_R": "skew", "boft_s": "scale"},
        {"boft_block_size": "block_size", "boft_n_butterfly_factor": "factors"},
        {"bias": "none", "boft_dropout": 0.0, "boft_block_num": 0},
        {"skew": WHOLE_BLOCKS, "scale": COLUMN},
    ),
    "ADALORA": Twin(
        AdaLoRA,
        {"lora_A": "lora_a", "lora_B": "lora_b", "lora_E": "gate"},
        {"init_r": "rank", "lora_alpha": "alpha", "orth_reg_weight": "orthogonality"},
        {"bias": "none", "fan_in_fan_out": False},
        {"gate": COLUMN},
        needed={"total_step": 1},
        equal_arrays=lambda v: (
            v | {"gate": v["gate"] * v["mask"], "lora_b": v["lora_b"] * v["mask"][:, None]}
        ),
    ),
    "IA3": Twin(
        IA3,
        {"ia3_l": "scaling"},
        {},
        turn=ROW_OR_COLUMN,
        module_lists={"feedforward_modules": ("side", "input", "output")},
        resolve=lambda method, m, n: replace(
            method, side="input" if method.scales_inputs(m, n) else "output"
        ),
        with_bias=lambda method, m, n: replace(method, bias=not method.scales_inputs(m, n)),
    ),
    "VBLORA": Twin(
        VBLoRA,
        {
            "vblora_vector_bank": "bank",
            "vblora_logits_A": "logits_a",
            "vblora_logits_B": "logits_b",
        },
        {"r": "rank", "num_vectors": "vectors", "vector_length": "vector_length", "topk": "top_k"},
        {"bias": "none", "vblora_dropout": 0.0, "save_only_topk_weights": False},
        turn=SAME,
        resolve=lambda method, m, n: (
            method
            if method.one_bank
            else replace(method, one_bank=True, vectors=2 * method.vectors)
        ),
        equal_arrays=_one_bank,
        common=("vblora_vector_bank",),
        form={"one_bank": True},
    ),
    "RANDLORA": Twin(
        RandLoRA,
        {"randlora_lambda": "lambdas", "randlora_gamma": "gammas"},
        {
            "r": "rank",
            "randlora_alpha": "alpha",
            "sparse": "sparse",
            "projection_prng_key": "seed",
        },
        {"bias": "none", "randlora_dropout": 0.0, "very_sparse": False},
        {"gammas": SAME},
        needed={"save_projection": True},
    ),
    "FOURIERFT": Twin(
        FourierFT,
        {"fourierft_spectrum": "coefficients"},
        {"n_frequency": "count", "scaling": "scale", "random_loc_seed": "seed"},
        {"bias": "none"},
        turn=SAME,
        patterns={"n_frequency": "n_frequency_pattern"},
        whole_paths=True,
    ),
}
KIND = {twin.method: kind for kind, twin in TWINS.items()}
BIAS = "bias"  # trained biases are tensors of their own, whatever the method
NO_FACTOR = -1  # PEFT's value where this package has None


def twin_of(method: Method) -> Twin | None:
    """Return what PEFT has of the class of a method."""
    return TWINS.get(KIND.get(type(method), ""))


def is_twin(method: Method) -> bool:
    """Return whether PEFT has a method in the same form."""
    twin = twin_of(method)
    return twin is not None and all(
        getattr(method, ours) == twin.fixed.get(theirs, getattr(method, ours))
        for theirs, ours in twin.settings.items()
    )


def are_written_together(methods: Sequence[Method]) -> bool:
    """Return whether one directory of PEFT can hold these methods of different kernels."""
    if not all(is_twin(method) for method in methods):
        return False
    by_module = TWINS[KIND[type(methods[0])]].patterns
    settings = [twin_settings(method).items() for method in methods]
    rest = [{name: value for name, value in each if name not in by_module} for each in settings]
    return all(each == rest[0] for each in rest)


def check_fixed(kind: str, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a setting gives the method another form than here."""
    for name, value in TWINS[kind].fixed.items():
        if name != BIAS and config.get(name, value) != value:
            raise ValueError(
                f"This form of {TWINS[kind].method.__name__} is not supported: merge the adapter "
                "in PEFT (`merge_and_unload`) and load the whole model. "
                f"Received: {name}={config[name]!r}"
            )


def with_bias(method: Method, m: int, n: int, layer: Any) -> Method:
    """Return a method as PEFT has it for a layer, whose bias it may also change."""
    twin = twin_of(method)
    if twin is None or getattr(layer, "bias", None) is None:
        return method
    return twin.with_bias(method, m, n)


def twin_method(kind: str, values: Mapping[str, Any], module: str) -> Method:
    """Return the method with the settings of PEFT for a module."""
    twin = TWINS[kind]
    chosen = {ours: values[theirs] for theirs, ours in twin.settings.items() if theirs in values}
    if chosen.get("factor") == NO_FACTOR:
        chosen["factor"] = None
    for name, (ours, listed, unlisted) in twin.module_lists.items():
        chosen[ours] = listed if _is_listed(module, values.get(name)) else unlisted
    return twin.method(**chosen, **twin.form)


def _is_listed(module: str, listed: Any) -> bool:
    """Whether a module is in a list of PEFT: the ends of paths, or one regular expression."""
    if isinstance(listed, str):
        return re.fullmatch(listed, module) is not None
    return any(module == each or module.endswith(f".{each}") for each in listed or ())


def module_lists(methods: Mapping[str, Method]) -> dict[str, list[str]]:
    """Return the lists of modules in PEFT for the methods by module."""
    twin = twin_of(next(iter(methods.values())))
    found = twin.module_lists.items() if twin else ()
    return {
        name: [module for module, method in methods.items() if getattr(method, ours) == listed]
        for name, (ours, listed, _) in found
    }


def twin_settings(method: Method) -> dict[str, Any]:
    """Return the settings of PEFT for a method."""
    twin = TWINS[KIND[type(method)]]
    values = {theirs: getattr(method, ours) for theirs, ours in twin.settings.items()}
    for theirs, ours in twin.settings.items():
        if ours == "alpha" and values[theirs] is None:
            values[theirs] = method.rank  # type: ignore[attr-defined]
    if values.get("decompose_factor", 0) is None:
        values["decompose_factor"] = NO_FACTOR
    return values | dict(twin.fixed) | dict(twin.needed)
