"""AdaLoRA in PEFT once its ranks are pruned: the file has the ranks that are left."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_svd_adapters.files.peft.arrays import PREFIX
from keras_svd_adapters.files.peft.directory import PeftContents

AXES = {"lora_A": 0, "lora_B": 1, "lora_E": 0}  # of the ranks


def with_all_ranks(contents: PeftContents) -> PeftContents:
    """Return contents with the ranks of the start, for the scale; the pruned ones are 0.

    A rank whose gate and factors are 0 has no gradient, so it stays off.
    """
    config, tensors = contents.config, dict(contents.tensors)
    pattern = config.get("rank_pattern")
    if config.get("peft_type") != "ADALORA" or not pattern:
        return contents
    for key, kept in pattern.items():
        module = key.rpartition(".")[0]
        for array, axis in AXES.items():
            name = f"{PREFIX}{module}.{array}"
            tensors[name] = _spread(key, tensors.get(name), kept, axis)
    return PeftContents(config | {"rank_pattern": None}, tensors)


def _spread(key: str, tensor: np.ndarray | None, kept: Any, axis: int) -> np.ndarray:
    """Return a tensor with zeros for the ranks that are not kept."""
    places = np.flatnonzero(kept)
    if tensor is None or tensor.ndim != 2 or tensor.shape[axis] != len(places):
        shape = None if tensor is None else tensor.shape
        raise ValueError(
            f"The ranks of a tensor are not those that `rank_pattern` keeps. Received: {key!r} "
            f"with {len(places)} ranks, and a tensor of shape {shape}"
        )
    shape = [*tensor.shape]
    shape[axis] = len(kept)
    whole = np.zeros(shape, tensor.dtype)
    whole[(slice(None),) * axis + (places,)] = tensor
    return whole
