"""Frozen arrays that PEFT's modules share: VeRA's pair, and RandLoRA's bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_svd_adapters.methods import RandLoRA, VeRA
from keras_svd_adapters.methods.method import Method

Arrays = dict[str, np.ndarray]
Kernels = Sequence[tuple[int, int]]


# From a method, arrays and the shapes of kernels to the arrays on the other side.
Conversion = Callable[[Any, Arrays, Kernels], Arrays]


class SharedBases(NamedTuple):
    """The shared arrays of a method.

    Args:
        keys: Names of the tensors in a directory.
        to_peft: Conversion to these tensors.
        from_peft: The inverse conversion.
        are_common: Whether kernels of these shapes can share them in PEFT.
    """

    keys: tuple[str, ...]
    to_peft: Conversion
    from_peft: Conversion
    are_common: Callable[[Any, Kernels], bool] = lambda method, kernels: True


VERA_A, VERA_B = "base_model.vera_A", "base_model.vera_B"
RANDLORA_A, RANDLORA_B = "base_model.randlora_A", "base_model.randlora_B"


def _vera_to_peft(method: VeRA, arrays: Arrays, kernels: Kernels) -> Arrays:
    m, n = (max(sizes) for sizes in zip(*kernels, strict=True))
    return {VERA_A: arrays["vera_a"][:m].T, VERA_B: arrays["vera_b"][:, :n].T}


def _vera_from_peft(method: VeRA, tensors: Arrays, kernels: Kernels) -> Arrays:
    return {"vera_a": tensors[VERA_A].T, "vera_b": tensors[VERA_B].T}


def terms_of(method: RandLoRA, kernels: Kernels) -> set[int]:
    """Return the numbers of terms of RandLoRA for these kernels."""
    return {-(-min(kernel) // method.rank) for kernel in kernels}


def _randlora_to_peft(method: RandLoRA, arrays: Arrays, kernels: Kernels) -> Arrays:
    """Put column `j r + i` of the bases to `i N + j`, where PEFT pairs it with entry (i, j)."""
    (terms,), r = terms_of(method, kernels), method.rank
    largest = [max(sizes) for sizes in zip(*kernels, strict=True)]
    k = min(largest)  # as PEFT has it, which may be more than any kernel needs
    small, large = np.zeros((r, k), "float32"), np.zeros((max(largest), -(-k // r), r), "float32")
    for part in (arrays[n].T if n == "basis_in" else arrays[n] for n in arrays if n != "basis"):
        small[:, : part.shape[1]] = part[:, :k]
    ours = arrays["basis"][: max(largest), : terms * r].reshape(-1, terms, r)
    large[:, :terms] = ours.transpose(0, 2, 1).reshape(-1, terms, r)
    return {RANDLORA_A: small[:, None], RANDLORA_B: large}


def _randlora_from_peft(method: RandLoRA, tensors: Arrays, kernels: Kernels) -> Arrays:
    if len(counts := terms_of(method, kernels)) > 1:
        raise ValueError(
            "PEFT pairs the bases of RandLoRA in an order that depends on the smaller side of a "
            "kernel, so kernels of several sizes have no bases in common here: merge the adapter "
            f"in PEFT (`merge_and_unload`). Received: {sorted(counts)} terms of rank {method.rank}"
        )
    (terms,), r = counts, method.rank
    small, large = tensors[RANDLORA_A][:, 0], tensors[RANDLORA_B]
    flat = large[:, :terms].reshape(-1, r, terms).transpose(0, 2, 1).reshape(len(large), -1)
    found = {"basis": flat}
    if any(m <= n for m, n in kernels):
        found["basis_in"] = small.T
    if any(m > n for m, n in kernels):
        found["basis_out"] = small
    return found


SHARED: dict[type[Method], SharedBases] = {
    VeRA: SharedBases((VERA_A, VERA_B), _vera_to_peft, _vera_from_peft),
    RandLoRA: SharedBases(
        (RANDLORA_A, RANDLORA_B),
        _randlora_to_peft,
        _randlora_from_peft,
        lambda method, kernels: len(terms_of(method, kernels)) == 1,
    ),
}
SHARED_KEYS = frozenset(key for bases in SHARED.values() for key in bases.keys)
