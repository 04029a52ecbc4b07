"""Errors for calls that a layer or a model with adapters does not support."""

from __future__ import annotations

from typing import Any


def refuse_to_quantize(*args: Any, **kwargs: Any) -> None:
    """Raise an error for `quantize` on a model with adapters."""
    raise ValueError(
        "An adapted model cannot be quantized: quantize first and adapt then. `save_adapter`, "
        "`delete_adapter`, `model.quantize`, `load_adapter` keep what was trained; float kernels "
        f"can `merge` instead. Received: quantize{args}"
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
        "One adapter per sample needs layers that are called with the batch in front: this one "
        "reads its kernel, or computes without the batch. Adapt without it, or run the samples of "
        f"each adapter alone. Received: {where}"
    )
