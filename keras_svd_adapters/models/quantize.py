"""Quantize a float model and add LoRA adapters that compensate for the quantization error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.requantization import quantize_in_keras
from keras_svd_adapters.kernels.error_weights import PLAIN
from keras_svd_adapters.kernels.quantization_error import STARTS
from keras_svd_adapters.kernels.quantized import ADAPTED, MODES, holds_integers, mode_of
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.assignment import check_methods, check_name, choose_methods
from keras_svd_adapters.models.attaching import detach_on_error
from keras_svd_adapters.models.quantization.report import Compensation
from keras_svd_adapters.models.quantization.residual_fit import (
    Fitted,
    check_error_weights,
    fit_factors,
    weights_of,
)
from keras_svd_adapters.models.quantization.storage_choice import (
    Storage,
    check_bits,
    choose_storages,
    storages_of,
)
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.progress import KernelProgress


@changes_model
def quantize(
    model: keras.Model,
    mode: str | Sequence[str],
    method: LoRA,
    start: str = "loftq",
    iterations: int = 1,
    config: Any = None,
    targets: Targets = None,
    exclude: Targets = None,
    name: str = "default",
    verbose: int | str = "auto",
    calibrate: Any = None,
    error_weights: str | None = None,
    bits: float | None = None,
) -> Compensation:
    """Quantize a float model and add LoRA adapters that compensate for the quantization error.

    Training then starts near the float model. To quantize and adapt a model without
    this compensation, call `model.quantize(mode)` and `enable`, with any method.

    Args:
        model: A built float model without adapters.
        mode: `"int8"` or `"int4"`; with `bits`, also a list of these.
        method: A `LoRA`; a larger rank compensates for more of the error.
        start: `"loftq"` quantizes a kernel and fits the error. `"qpissa"` first
            takes the largest singular triplets out of the kernel: these train,
            and the rest is quantized.
        iterations: How often to quantize and fit, at most: each kernel stops when
            its error no longer falls, and keeps the best. With LoftQ and 1, the
            quantized kernels are those of `model.quantize`. Otherwise they
            differ and belong to this adapter: save the whole model.
        config: As in `model.quantize`, such as a
            `keras.quantizers.Int4QuantizationConfig(block_size=64)`.
        targets: Which kernels to adapt, as in `enable`. All kernels of the model
            are quantized; with `bits`, only these.
        exclude: Which of these kernels to leave out.
        name: Name of the adapter.
        verbose: As in `enable`.
        calibrate: Data for `error_weights`, as in `enable`, which passes the float
            model once.
        error_weights: Which entries of the error count more. `"inputs"` weighs
            each row by the mean size of its input (L2QER). `"fisher"` weighs each
            entry by the mean of its squared gradients (LQ-LoRA); it needs targets
            and a compiled model, and `16 m n` bytes of host memory per kernel.
            `None` weighs all alike.
        bits: Budget of the quantized kernels, in bits for each value on average,
            scales and zero points included, such as 4.5. Each kernel then gets
            the mode and the size of its groups, so that the sum of squared
            errors, as weighted, is smallest (LQ-LoRA). Each possibility is fitted
            first, which takes several times as long.

    Returns:
        A `Compensation` with the errors; print it.

    Raises:
        ValueError: If the model is adapted or quantized, if a kernel cannot be
            quantized in this mode, if data is missing or does not suit, if the
            budget is too small, or if an argument is invalid. The model is
            left unchanged. (If Keras fails while it quantizes, for example for
            lack of memory, some layers are quantized already: load the model
            again.)

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="inner")])
    >>> report = ksa.quantize(model, "int4", ksa.LoRA(rank=8), targets="inner")
    >>> report.kernels[0].error < report.kernels[0].alone
    True

    Reference:
        - [Li et al., 2023](https://arxiv.org/abs/2310.08659)
        - [Meng et al., 2024](https://arxiv.org/abs/2404.02948)
        - [Zhang et al., 2024 (LQER)](https://arxiv.org/abs/2402.02446)
        - [Guo et al., 2023 (LQ-LoRA)](https://arxiv.org/abs/2311.12023)
    """
    modes = check_bits(mode, config, bits)
    _check(modes, method, start, iterations)
    check_error_weights(error_weights, calibrate)
    check_name(name)
    _check_model(model)
    chosen = choose_methods(model, method, targets, exclude)
    check_methods(chosen, name)
    for site, _ in chosen:
        if type(site.layer) not in ADAPTED:
            raise ValueError(
                "Keras quantizes Dense and EinsumDense: name such layers in `targets`, or leave "
                f"this one out with `exclude`. Received: `{site.path}`, {site.kind}"
            )
    sites = [site for site, _ in chosen]
    weights = weights_of(model, sites, error_weights, calibrate, verbose)
    storages = [Storage(modes[0], config)] if bits is None else storages_of(modes)
    work = [site.view.m * site.view.n for site in sites]
    with KernelProgress(work if bits is None else work * (len(storages) + 1), verbose) as progress:

        def fit(site: Site, storage: Storage) -> Fitted:
            weighted = weights.get(site.key, PLAIN)
            fitted = fit_factors(site, storage, method, start, iterations, weighted)
            progress.step(site.path)
            return fitted

        stored = storages * len(sites)
        if bits is not None:
            stored = choose_storages(
                sites, storages, bits, lambda *which: fit(*which).factors.error
            )
        found = {s.key: fit(s, storage) for s, storage in zip(sites, stored, strict=True)}
    replaced = sites if start == "qpissa" or iterations > 1 else []
    with _replaced(replaced, found):
        if bits is None:
            quantize_in_keras(model, modes[0], config)
        for site in sites if bits is not None else ():
            quantize_in_keras(site.layer, *found[site.key].storage)
    _attach(model, method, name, found)
    kernels = tuple(found[site.key].as_row(site) for site in sites)
    used = ", ".join(dict.fromkeys(fitted.storage.mode for fitted in found.values()))
    size = sum(fitted.bytes for fitted in found.values())
    return Compensation(used, name, kernels, 8 * size / sum(work))


def _check(modes: Sequence[str], method: LoRA, start: str, iterations: int) -> None:
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"`mode` is one of {MODES}. Received: mode={mode!r}")
        try:
            keras.dtype_policies.get(f"{mode}_from_float32")
        except ValueError:
            raise ValueError(
                f"This version of Keras does not quantize to {mode}: `pip install 'keras>=3.11'`. "
                f"Received: mode={mode!r}, with Keras {keras.__version__}"
            ) from None
    if type(method) is not LoRA:
        raise ValueError(
            "Only LoRA can compensate for the quantization error: use `LoRA(rank=16)`. For "
            "another method, call `model.quantize(mode)`, then `enable`. Received: "
            f"method={method!r}"
        )
    if method.start != "kaiming":
        raise ValueError(
            "The factors start at the quantization error: leave `start` of the method out. "
            f"Received: method={method!r}"
        )
    if start not in STARTS:
        raise ValueError(f"`start` is one of {STARTS}. Received: start={start!r}")
    if type(iterations) is not int or iterations < 1:
        raise ValueError(f"`iterations` is a positive integer. Received: iterations={iterations!r}")


def _check_model(model: keras.layers.Layer) -> None:
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


@contextmanager
def _replaced(sites: list[Site], found: dict[str, Fitted]) -> Iterator[None]:
    """Context manager: replace kernels by the matrices to quantize; restore them on an error.

    Without an error, quantization removes the float kernels.
    """
    with restore_values_on_error([base_kernel_variable(site.layer) for site in sites]):
        for site in sites:
            kept = keras.ops.convert_to_tensor(found[site.key].factors.kept)
            base_kernel_variable(site.layer).assign(site.view.from_matrix(kept))
        yield


def _attach(model: keras.Model, method: LoRA, name: str, found: dict[str, Fitted]) -> None:
    sites = [site for site in find_sites(model) if site.key in found]
    assert all(holds_integers(site.layer) for site in sites)
    with detach_on_error(model, [(site, method) for site in sites], name):
        for site in sites:
            factors = found[site.key].factors
            values = {"lora_a": factors.A, "lora_b": factors.B}
            attach(site.layer, name, site.new_adapter(method, site.form(method), name, values))
        train_and_sync(model, name, [])
