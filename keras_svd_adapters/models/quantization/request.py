"""Checks of what `quantize` is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import keras

from keras_svd_adapters.adapters.storages.registry import STORAGES
from keras_svd_adapters.kernels.error_weights import SOURCES
from keras_svd_adapters.kernels.quantization_error import STARTS
from keras_svd_adapters.kernels.quantized import mode_of
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites


def check_request(
    mode: str | Sequence[str],
    method: LoRA | None,
    start: str,
    iterations: int,
    config: Any,
    calibrate: Any,
    error_weights: str | None,
    bits: float | None,
) -> list[str]:
    """Return the modes to choose from; raise `ValueError` if the arguments do not suit."""
    modes = _check_bits(mode, config, bits)
    for each in modes:
        if each not in STORAGES:
            raise ValueError(f"`mode` is one of {tuple(STORAGES)}. Received: mode={each!r}")
        STORAGES[each].check(config)
    _check_fit(method, start, iterations)
    _check_error_weights(error_weights, calibrate)
    if method is None:
        _check_no_fit(error_weights, bits)
    return modes


def check_float_model(model: keras.layers.Layer) -> None:
    """Raise `ValueError` if a model has adapters or quantized kernels."""
    for site in adapted_sites(model):
        raise ValueError(
            "The model has adapters, and `quantize` adds the first one. Remove them with "
            f"`delete_adapter`, or `merge` them. Received: an adapter on `{site.path}`"
        )
    for site in find_sites(model):
        if mode_of(site.owner) is not None:
            raise ValueError(
                "The model is already quantized, so its quantization error is no longer known: "
                f"pass the float model, or call `enable` on this one. Received: `{site.path}` in "
                f"{mode_of(site.owner)}"
            )


def _check_bits(mode: Any, config: Any, bits: float | None) -> list[str]:
    """Return the modes to choose from; raise an error if the budget does not suit them."""
    modes = [mode] if isinstance(mode, str) or not isinstance(mode, Sequence) else list(mode)
    if bits is None:
        if len(modes) != 1:
            raise ValueError(
                "Several modes need a budget, as in `bits=5.0`; else `mode` is one of them. "
                f"Received: mode={mode!r}, bits=None"
            )
        return modes
    if not modes or isinstance(bits, bool) or not isinstance(bits, Real) or bits <= 0:
        raise ValueError(
            "`bits` is a positive number, such as 4.5, for at least one mode. "
            f"Received: mode={mode!r}, bits={bits!r}"
        )
    if config is not None:
        raise ValueError(
            "With a budget, each kernel gets its own configuration: leave `config` out, or `bits`. "
            f"Received: bits={bits!r}, config={config!r}"
        )
    return modes


def _check_fit(method: LoRA | None, start: str, iterations: int) -> None:
    if method is not None and type(method) is not LoRA:
        raise ValueError(
            "Only LoRA can compensate for the quantization error: use `LoRA(rank=16)`. For "
            "another method, call `quantize(model, mode)`, then `enable`. Received: "
            f"method={method!r}"
        )
    if method is not None and method.start != "kaiming":
        raise ValueError(
            "The factors start at the quantization error: leave `start` of the method out. "
            f"Received: method={method!r}"
        )
    if start not in STARTS:
        raise ValueError(f"`start` is one of {STARTS}. Received: start={start!r}")
    if type(iterations) is not int or iterations < 1:
        raise ValueError(f"`iterations` is a positive integer. Received: iterations={iterations!r}")


def _check_error_weights(error_weights: str | None, calibrate: Any) -> None:
    """Raise `ValueError` if weights and data do not suit each other."""
    received = f"Received: error_weights={error_weights!r}"
    if error_weights is not None and error_weights not in SOURCES:
        raise ValueError(f"`error_weights` is `None` or one of {tuple(SOURCES)}. {received}")
    if error_weights is not None and calibrate is None:
        example = "(x, y)" if error_weights == "fisher" else "x"
        raise ValueError(
            "The weights of the error come from data: pass some hundred samples, as in "
            f"`calibrate={example}`. {received}, calibrate=None"
        )
    if error_weights is None and calibrate is not None:
        raise ValueError(
            "Data has no effect without weights of the error: type `error_weights='inputs'`, or "
            f"leave `calibrate` out. {received}"
        )


def _check_no_fit(error_weights: str | None, bits: float | None) -> None:
    if error_weights is not None or bits is not None:
        raise ValueError(
            "`error_weights` and `bits` belong to the fit of an adapter: pass a method, such as "
            f"`LoRA(rank=16)`. Received: method=None, error_weights={error_weights!r}, "
            f"bits={bits!r}"
        )
