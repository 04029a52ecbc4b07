"""Methods of PEFT, beside LoRA and VeRA, that this package has in the same form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_svd_adapters.methods import HRA, OFT, LoHa, LoKr, MiSS
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True)
class Twin:
    """A method that PEFT and this package have in the same form.

    Args:
        method: The class here.
        arrays: The array here of each array in PEFT.
        settings: The hyperparameter here of each setting in PEFT.
        fixed: Further settings, with the only value that has the same form here.
        transposed: Whether PEFT stores the transposes.
        has_patterns: Whether PEFT can set rank and alpha by module.
    """

    method: type[Method]
    arrays: Mapping[str, str]
    settings: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    transposed: bool = True
    has_patterns: bool = False


UNDROPPED = {"rank_dropout": 0.0, "module_dropout": 0.0}
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
        has_patterns=True,
    ),
    "LOKR": Twin(
        LoKr,
        {"lokr_w1": "w1", "lokr_w2": "w2", "lokr_w2_a": "w2_b", "lokr_w2_b": "w2_a"},
        {"r": "rank", "alpha": "alpha", "decompose_factor": "factor"},
        UNDROPPED | {"decompose_both": False},
        has_patterns=True,
    ),
    "MISS": Twin(
        MiSS,
        {"miss_block": "shards"},
        {"r": "rank"},
        {"bias": "none", "miss_dropout": 0.0, "mini_r": 1, "init_weights": True},
        transposed=False,
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
        transposed=False,
    ),
    "HRA": Twin(
        HRA,
        {"hra_u": "u"},
        {"r": "rank", "apply_GS": "orthogonal"},
        {"apply_GS": False, "bias": "none"},
        transposed=False,
    ),
}
KIND = {twin.method: kind for kind, twin in TWINS.items()}
NO_FACTOR = -1  # PEFT's value where this package has None


def is_twin(method: Method) -> bool:
    """Return whether PEFT has a method in the same form."""
    twin = TWINS.get(KIND.get(type(method), ""))
    return twin is not None and all(
        getattr(method, ours) == twin.fixed.get(theirs, getattr(method, ours))
        for theirs, ours in twin.settings.items()
    )


def are_written_together(methods: Sequence[Method]) -> bool:
    """Return whether one directory of PEFT can hold these methods of different kernels."""
    if not all(is_twin(method) for method in methods):
        return False
    by_module = ("r", "alpha") if TWINS[KIND[type(methods[0])]].has_patterns else ()
    settings = [twin_settings(method).items() for method in methods]
    rest = [{name: value for name, value in each if name not in by_module} for each in settings]
    return all(each == rest[0] for each in rest)


def check_fixed(kind: str, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a setting gives the method another form than here."""
    for name, value in TWINS[kind].fixed.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"This form of {TWINS[kind].method.__name__} is not supported: merge the adapter "
                "in PEFT (`merge_and_unload`) and load the whole model. "
                f"Received: {name}={config[name]!r}"
            )


def twin_method(kind: str, values: Mapping[str, Any]) -> Method:
    """Return the method with the settings of PEFT."""
    twin = TWINS[kind]
    chosen = {ours: values[theirs] for theirs, ours in twin.settings.items() if theirs in values}
    if chosen.get("factor") == NO_FACTOR:
        chosen["factor"] = None
    return twin.method(**chosen)


def twin_settings(method: Method) -> dict[str, Any]:
    """Return the settings of PEFT for a method."""
    twin = TWINS[KIND[type(method)]]
    values = {theirs: getattr(method, ours) for theirs, ours in twin.settings.items()}
    if "alpha" in values and values["alpha"] is None:
        values["alpha"] = values["r"]
    if values.get("decompose_factor", 0) is None:
        values["decompose_factor"] = NO_FACTOR
    return values | dict(twin.fixed)
