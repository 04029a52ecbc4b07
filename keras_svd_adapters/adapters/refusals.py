"""Errors for calls that a layer or a model with adapters does not support."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import keras

from keras_svd_adapters.runtime.supported_keras import version_numbers


def refuse_to_quantize(*args: Any, **kwargs: Any) -> None:
    """Raise an error for `quantize` on a model with adapters."""
    raise ValueError(
        "An adapted model cannot be quantized: quantize first, then adapt. `save_adapter`, "
        "`delete_adapter`, `model.quantize`, `load_adapter` in this order keep the trained "
        f"values; float kernels can `merge` instead. Received: quantize{args}"
    )


def refuse_keras_lora(where: str) -> None:
    """Raise an error for Keras's own LoRA on a layer or model with an adapter of this package."""
    raise ValueError(
        "Keras's own LoRA cannot be added to an adapter of keras_svd_adapters. "
        "Use `keras_svd_adapters.enable(model, LoRA(...))`, or `merge` first. "
        f"Received: enable_lora on {where}"
    )


class PerSampleError(ValueError):
    """Error for a layer that cannot have one adapter per sample."""


def refuse_per_sample(where: str) -> None:
    """Raise an error for a layer that cannot have one adapter per sample."""
    raise PerSampleError(
        "One adapter per sample needs layers whose input has the batch as its first axis: this "
        "layer reads its kernel, or computes without the batch. Leave it out with `exclude`, or "
        f"run the samples of each adapter separately. Received: {where}"
    )


def refuse_to_clone(where: Any) -> NoReturn:
    """Raise an error instead of a copy of an adapted layer that lacks its adapters."""
    raise ValueError(
        "A layer that is made from the configuration of an adapted one would lose the adapters: "
        "copy the model with `copy.deepcopy(model)`, or call `clone_model` before `enable`. "
        f"Received: the configuration of {where!r}"
    )


def refuse_newer_keras(saved_under: str, error: Exception) -> None:
    """Raise an error for a model that a newer version of Keras saved, if it is one."""
    if version_numbers(saved_under) > version_numbers(keras.__version__):
        raise ValueError(
            "A newer version of Keras saved this model, and this version cannot build it: "
            f"`pip install 'keras>={saved_under}'`, or save its adapters with `save_adapter` there "
            f"and load them here. Received: a model of Keras {saved_under}, with Keras "
            f"{keras.__version__}"
        ) from error


def refuse_without_delta(method: Any) -> NoReturn:
    """Raise an error for code that needs the change of a kernel, if there is no such change."""
    raise ValueError(
        "This needs the change of a kernel, and this adapter makes none: "
        f"{method.depends_on_input}. Keep it as an adapter: `save_adapter` stores it, and "
        "`set_adapter` weighs it. To merge, convert or compare it, train another method, such as "
        f"LoRA. Received: {method}"
    )


def refuse_to_save_pool(name: str) -> NoReturn:
    """Raise an error for a whole model with a pool that is saved or copied."""
    raise ValueError(
        "A whole model is saved or copied without its pool of adapters: `pool.close()` first. "
        f"`save_adapter` makes a file of each adapter. Received: a model with the pool {name!r}"
    )


def refuse_empty(method: Any) -> NoReturn:
    """Raise an error for an adapter without values."""
    raise RuntimeError(
        "This adapter was rebuilt from a configuration and holds no values yet. Load the model's "
        "weights, or call `keras_svd_adapters.enable` on a model that is not adapted. "
        f"Received: an empty adapter of {method}"
    )


def refuse_other_shared_arrays(method: Any, where: str) -> NoReturn:
    """Raise an error for loaded weights without the random arrays that adapters share."""
    raise RuntimeError(
        "The loaded weights hold this adapter, but not the random arrays that it shares "
        "with others: the file stores those with an adapter that this model lacks or has "
        "in another order. Use `load_adapter`, or give the model the same adapters in "
        f"the same order before `load_weights`. Received: {method} at {where}"
    )


def refuse_other_arrays(
    method: Any, where: str, found: Iterable[str], expected: Iterable[str]
) -> NoReturn:
    """Raise an error for loaded weights with other arrays than an adapter has."""
    raise ValueError(
        f"The saved adapter does not hold the arrays of {method}: it has {sorted(found)}, "
        f"expected {sorted(expected)}. Received: weights for {where}"
    )


def refuse_without_layer() -> NoReturn:
    """Raise an error for the kernel of an adapter that is attached to no layer."""
    raise RuntimeError("The adapter is not attached to a layer. Received: an adapter alone")
