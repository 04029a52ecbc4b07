"""Quantize a float model, and add LoRA adapters that compensate for the quantization error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.storages.nf4 import is_storable
from keras_svd_adapters.adapters.storages.registry import STORAGES, quantized_kernel
from keras_svd_adapters.kernels.low_rank_factors import relative_error
from keras_svd_adapters.kernels.quantization_error import STARTS, Compensated, fit_residual
from keras_svd_adapters.kernels.quantized import ADAPTED, holds_integers, mode_of
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.assignment import check_methods, check_name, choose_methods
from keras_svd_adapters.models.attaching import detach_on_error
from keras_svd_adapters.models.quantization_report import CompensatedKernel, Compensation
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model, update_functions
from keras_svd_adapters.models.state.stored_kernels import mark_around
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.progress import KernelProgress


@changes_model
def quantize(
    model: keras.Model,
    mode: str,
    method: LoRA | None = None,
    start: str = "loftq",
    iterations: int = 1,
    config: Any = None,
    targets: Targets = None,
    exclude: Targets = None,
    name: str = "default",
    verbose: int | str = "auto",
) -> Compensation:
    """Quantize a float model, and add LoRA adapters that compensate for the quantization error.

    With a method, training starts near the float model. Without one, this only quantizes
    the model: call `enable` afterwards, with any method. `"nf4"` and `enable` with a LoRA is QLoRA.

    Args:
        model: A built float model without adapters.
        mode: `"int8"` or `"int4"`, which Keras stores, or `"nf4"`, which this
            package stores: 4.13 bits per value, and products in the compute dtype.
            `"nf4"` leaves embeddings as they are.
        method: A `LoRA`; a larger rank compensates for more of the error. `None` for
            no adapter.
        start: `"loftq"` quantizes a kernel and fits the error. `"qpissa"` first
            takes the largest singular triplets out of the kernel: these train,
            and the rest is quantized.
        iterations: How often to quantize and fit. With LoftQ and 1, the quantized
            kernels are those of `model.quantize`. Otherwise they differ and
            belong to this adapter: save the whole model.
        config: As in `model.quantize`, such as a
            `keras.quantizers.Int4QuantizationConfig(block_size=64)`; for `"nf4"`, an
            `NF4Config`.
        targets: Which kernels to adapt, as in `enable`. All kernels of the model
            are quantized.
        exclude: Which of these kernels to leave out.
        name: Name of the adapter.
        verbose: As in `enable`.

    Returns:
        A `Compensation` with the errors; print it.

    Raises:
        ValueError: If the model is adapted or quantized, if a kernel cannot be
            quantized in this mode, or if an argument is invalid. The model is
            left unchanged. (If Keras fails while it quantizes, for example for
            lack of memory, some layers are quantized already: load the model
            again.)

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="inner")])
    >>> report = ksa.quantize(model, "int4", ksa.LoRA(rank=8), targets="inner")
    >>> report.kernels[0].error < report.kernels[0].alone
    True

    QLoRA:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="inner")])
    >>> report = ksa.quantize(model, "nf4")
    >>> plan = ksa.enable(model, ksa.LoRA(rank=8), targets="inner")

    Reference:
        - [Dettmers et al., 2023](https://arxiv.org/abs/2305.14314)
        - [Li et al., 2023](https://arxiv.org/abs/2310.08659)
        - [Meng et al., 2024](https://arxiv.org/abs/2404.02948)
    """
    _check(mode, method, start, iterations, config)
    check_name(name)
    _check_model(model)
    if method is None:
        return _quantize_only(model, mode, config, targets, exclude, verbose)
    chosen = choose_methods(model, method, targets, exclude)
    check_methods(chosen, name)
    for site, _ in chosen:
        if type(site.layer) not in ADAPTED:
            raise ValueError(
                "Keras quantizes Dense and EinsumDense: name such layers in `targets`, or leave "
                f"this one out with `exclude`. Received: `{site.path}`, {site.kind}"
            )
    sites = [site for site, _ in chosen]
    found = {}
    with KernelProgress([site.view.m * site.view.n for site in sites], verbose) as progress:
        for site in sites:
            found[site.key] = _compensate(site, method, mode, config, start, iterations)
            progress.step(site.path)
    replaced = sites if start == "qpissa" or iterations > 1 else []
    with _replaced(replaced, found):
        STORAGES[mode].store(model, config)
    mark_around(model)
    _attach(model, method, name, found)
    kernels = (CompensatedKernel(s.path, found[s.key].alone, found[s.key].error) for s in sites)
    return Compensation(mode, name, tuple(kernels))


def _quantize_only(
    model: keras.Model, mode: str, config: Any, targets: Any, exclude: Any, verbose: int | str
) -> Compensation:
    if targets is not None or exclude is not None:
        raise ValueError(
            "`targets` and `exclude` select the kernels of the adapter, and all kernels are "
            "quantized: leave them out, or quantize a part such as `model.backbone`. Received: "
            f"targets={targets!r}, exclude={exclude!r}"
        )
    sites = [site for site in find_sites(model) if is_storable(site.layer)]
    kernels = []
    with KernelProgress([site.view.m * site.view.n for site in sites], verbose) as progress:
        for site in sites:
            error = relative_error(_round_off(site, mode, config)(site.matrix()), site.matrix())
            kernels.append(CompensatedKernel(site.path, error, error))
            progress.step(site.path)
    STORAGES[mode].store(model, config)
    mark_around(model)
    update_functions(model)
    return Compensation(mode, None, tuple(kernels))


def _check(mode: str, method: LoRA | None, start: str, iterations: int, config: Any) -> None:
    if mode not in STORAGES:
        raise ValueError(f"`mode` is one of {tuple(STORAGES)}. Received: mode={mode!r}")
    STORAGES[mode].check(config)
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


def _compensate(
    site: Site, method: LoRA, mode: str, config: Any, start: str, iterations: int
) -> Compensated:
    round_off = _round_off(site, mode, config)
    return fit_residual(site.matrix(), round_off, method.rank, method.scale, start, iterations)


def _round_off(site: Site, mode: str, config: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that rounds the matrix of a kernel as a mode stores it."""

    def round_off(matrix: np.ndarray) -> np.ndarray:
        kernel = site.view.from_matrix(keras.ops.convert_to_tensor(matrix))
        return site.view.to_matrix(quantized_kernel(site.layer, kernel, mode, config).floats)

    return round_off


@contextmanager
def _replaced(sites: list[Site], found: dict[str, Compensated]) -> Iterator[None]:
    """Context manager: replace kernels by the matrices to quantize; restore them on an error.

    Without an error, quantization removes the float kernels.
    """
    with restore_values_on_error([base_kernel_variable(site.layer) for site in sites]):
        for site in sites:
            kept = keras.ops.convert_to_tensor(found[site.key].kept)
            base_kernel_variable(site.layer).assign(site.view.from_matrix(kept))
        yield


def _attach(model: keras.Model, method: LoRA, name: str, found: dict[str, Compensated]) -> None:
    sites = [site for site in find_sites(model) if site.key in found]
    assert all(holds_integers(site.layer) for site in sites)
    with detach_on_error(model, [(site, method) for site in sites], name):
        for site in sites:
            values = {"lora_a": found[site.key].A, "lora_b": found[site.key].B}
            attach(site.layer, name, site.new_adapter(method, site.form(method), name, values))
        train_and_sync(model, name, [])
