"""The factors A and B of LoRA, PiSSA and DuDe, and A0 and B0 if neither starts at zero.

    K' = K + c (A B - A0 B0) = K + c ((A - A0) B + A0 (B - B0))

The kernel stays unchanged, so that the start is exact in every precision.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from keras_svd_adapters.methods.algebra import concatenate
from keras_svd_adapters.methods.contract import Array


def factor_arrays(
    m: int, n: int, rank: int, zero: str | None, frozen: str | None
) -> dict[str, Array]:
    """Return the declarations of A and B, and of A0 and B0 for factors that leave them."""
    shapes = {"a": ((m, rank), "m."), "b": ((rank, n), ".n")}
    arrays: dict[str, Array] = {}
    for side, (shape, axes) in shapes.items():
        start, trains = 0.0 if zero == side else None, frozen != side
        arrays[f"lora_{side}"] = Array(shape, trains, start, saved=not trains, axes=axes)
    for side, (shape, axes) in shapes.items():
        if zero is None and side != frozen:
            arrays[f"start_{side}"] = Array(shape, saved=True, axes=axes)
    return dict(sorted(arrays.items(), key=lambda item: not item[1].trainable))


def difference(v: SimpleNamespace) -> tuple[Any, Any]:
    """Return L and R with `L R = A B - A0 B0`; a frozen factor has no A0 or B0 of its own."""
    left, right = [], []
    if hasattr(v, "start_a"):
        left, right = [v.lora_a - v.start_a], [v.lora_b]
    if hasattr(v, "start_b"):
        left.append(v.start_a if hasattr(v, "start_a") else v.lora_a)
        right.append(v.lora_b - v.start_b)
    return concatenate(left, axis=1), concatenate(right, axis=0)
