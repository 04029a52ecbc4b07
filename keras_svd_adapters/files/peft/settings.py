"""Read, check and write the configuration of a PEFT adapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from numbers import Real
from sys import float_info
from typing import Any

from keras_svd_adapters.files.peft.twins import (
    KIND,
    TWINS,
    check_fixed,
    module_lists,
    twin_method,
    twin_settings,
)
from keras_svd_adapters.files.peft.vectors import LN_TUNING
from keras_svd_adapters.methods.low_rank.dora import DoRA
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.low_rank.scaled_product import ScaledProduct
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.shared.vera import VeRA

CHANGING = (
    "lora_bias",
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
REFUSED = {
    "PSOFT": "PEFT computes the singular vectors of PSOFT again as it loads, with signs that "
    "depend on the library, and its file has none. Convert it to a LoRA where it trained, by "
    "`peft.save_as_lora(directory, model, rank=...)`",
}
NUMBERS = (
    *("r", "alpha", "lora_alpha", "lora_dropout", "vera_dropout", "d_initial"),
    *("n_frequency", "scaling", "random_loc_seed"),
)
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def check_settings(config: dict[str, Any]) -> None:
    """Raise if a configuration has an unsupported method or unsupported settings.

    Raises:
        ValueError: The message names the setting.
    """
    kind = config.get("peft_type")
    if kind in REFUSED:
        raise ValueError(f"{REFUSED[kind]}. Received: peft_type={kind!r}")
    if kind in TWINS:
        check_fixed(kind, config)
    elif kind not in ("LORA", "VERA", LN_TUNING):
        known = ", ".join(twin.method.__name__ for twin in TWINS.values())
        raise ValueError(
            f"Only LoRA, DoRA, VeRA, LN tuning, {known} can be loaded. Received: peft_type={kind!r}"
        )
    for setting in CHANGING:
        if config.get(setting):
            raise ValueError(
                "The adapter has a setting that changes its outputs and is not supported: merge "
                "it in PEFT (`merge_and_unload`) and load the whole model. Received: "
                f"{setting}={config[setting]!r}"
            )
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise ValueError(
            "Its initialization changed the base model, and the adapter fits only the changed "
            "one. Save it in PEFT with `save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)`, which makes it a LoRA of the "
            f"original base. Received: init_lora_weights={start!r}"
        )
    numbers = {key: config[key] for key in NUMBERS if key in config}
    for pattern in ("rank_pattern", "alpha_pattern", "n_frequency_pattern"):
        if not isinstance(config.get(pattern) or {}, dict):
            raise ValueError(f"`{pattern}` must be a mapping. Received: {config[pattern]!r}")
        numbers |= {f"{pattern}[{k!r}]": v for k, v in (config.get(pattern) or {}).items()}
    for name, number in numbers.items():
        if not _is_number(number):
            raise ValueError(f"A setting must be a number. Received: {name}={number!r}")


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and bool(abs(value) <= float_info.max)


def method_for(config: dict[str, Any], module: str) -> Method:
    """Return the method that the configuration gives to one module."""
    if config["peft_type"] == "VERA":
        rank, dropout = config.get("r", 256), config.get("vera_dropout", 0.0)
        return VeRA(
            rank, config.get("d_initial", 0.1), dropout, config.get("projection_prng_key", 0)
        )
    if config["peft_type"] in TWINS:
        by_module = {
            name: _of(config.get(patterns), module, config[name])
            for name, patterns in TWINS[config["peft_type"]].patterns.items()
            if name in config
        }
        return twin_method(config["peft_type"], config | by_module, module)
    if config["peft_type"] == LN_TUNING:
        raise ValueError(f"LN tuning has no kernels. Received: tensors of `{module}`")
    rank = _of(config.get("rank_pattern"), module, config.get("r", 8))
    alpha = _of(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    method = DoRA if config.get("use_dora") else LoRA
    return method(rank, alpha, bool(config.get("use_rslora")), config.get("lora_dropout", 0.0))


def _of(patterns: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's path, as in PEFT."""
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise ValueError(
                f"A pattern is not a regular expression: {error}. Received: {pattern!r}"
            ) from None
    return otherwise


def settings_of(methods: dict[str, Method]) -> dict[str, Any]:
    """Return the settings for the methods of kernels by module, or of LN tuning for none.

    The most common values by module are the default.
    """
    if not methods:
        return {"peft_type": LN_TUNING}
    first = next(iter(methods.values()))
    if isinstance(first, VeRA):
        return {
            "peft_type": "VERA",
            "bias": "none",
            "r": first.rank,
            "d_initial": first.d_initial,
            "vera_dropout": first.dropout,
            "save_projection": True,
            "projection_prng_key": first.seed,
        }
    if type(first) in KIND:
        each = {module: twin_settings(method) for module, method in methods.items()}
        found = {"peft_type": KIND[type(first)], **next(iter(each.values()))}
        twin = TWINS[found["peft_type"]]
        return found | _by_module(each, twin.patterns, twin.whole_paths) | module_lists(methods)
    loras = {
        module: method for module, method in methods.items() if isinstance(method, ScaledProduct)
    }
    each = {module: {"r": lora.rank, "lora_alpha": _alpha(lora)} for module, lora in loras.items()}
    assert isinstance(first, ScaledProduct)
    return {
        "peft_type": "LORA",
        "bias": "none",
        **_by_module(each, {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}),
        "use_rslora": first.rslora,
        "use_dora": isinstance(first, DoRA),
        "lora_dropout": first.dropout,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _by_module(
    each: dict[str, dict[str, Any]], patterns: Mapping[str, str], whole_paths: bool = False
) -> dict[str, Any]:
    """Return the most common values of settings, and patterns for the modules with others."""
    found = {}
    for name, pattern in patterns.items():
        values = {module: settings[name] for module, settings in each.items()}
        most = Counter(values.values()).most_common(1)[0][0]
        others = {module: value for module, value in values.items() if value != most}
        found[name] = most
        found[pattern] = {k if whole_paths else _exactly(k): v for k, v in others.items()}
    return found


def _alpha(lora: ScaledProduct) -> float:
    return lora.rank if lora.alpha is None else lora.alpha


def _exactly(module: str) -> str:
    """Return a PEFT pattern for this module alone, anchored at the start of the path."""
    return "^" + module.replace(".", r"\.")
