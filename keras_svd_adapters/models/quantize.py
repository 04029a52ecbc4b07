"""Quantize a float model, and add LoRA adapters that compensate for the quantization error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_svd_adapters.adapters.attachment import attach
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.adapters.storages.nf4 import is_storable
from keras_svd_adapters.kernels.error_weights import PLAIN
from keras_svd_adapters.kernels.low_rank_factors import relative_error
from keras_svd_adapters.kernels.quantized import ADAPTED, holds_integers
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.assignment import check_methods, check_name, choose_methods
from keras_svd_adapters.models.attaching import detach_on_error
from keras_svd_adapters.models.quantization.request import check_float_model, check_request
from keras_svd_adapters.models.quantization.residual_fit import (
    Fitted,
    fit_factors,
    weights_of,
)
from keras_svd_adapters.models.quantization.storage_choice import (
    StoredAs,
    all_storages,
    choose_storages,
)
from keras_svd_adapters.models.quantization_report import CompensatedKernel, Compensation
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model, update_functions
from keras_svd_adapters.models.state.stored_kernels import mark_around
from keras_svd_adapters.runtime.host_values import restore_values_on_error
from keras_svd_adapters.runtime.progress import KernelProgress


@changes_model
def quantize(
    model: keras.Model,
    mode: str | Sequence[str],
    method: LoRA | None = None,
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
    """Quantize a float model, and add LoRA adapters that compensate for the quantization error.

    With a method, training starts near the float model. Without one, this only quantizes
    the model: call `enable` afterwards, with any method. `"nf4"` and `enable` with a LoRA is QLoRA.

    Args:
        model: A built float model without adapters.
        mode: `"int8"` or `"int4"`, which Keras stores, or `"nf4"`, which this
            package stores: 4.13 bits per value, and products in the compute dtype.
            `"nf4"` leaves embeddings as they are. With `bits`, a list of these.
        method: A `LoRA`; a larger rank compensates for more of the error. `None` for
            no adapter.
        start: `"loftq"` quantizes a kernel and fits the error. `"qpissa"` first
            takes the largest singular triplets out of the kernel: these train,
            and the rest is quantized.
        iterations: How often to quantize and fit, at most: each kernel stops when
            its error no longer falls, and keeps the best. With LoftQ and 1, the
            quantized kernels are those of `model.quantize`. Otherwise they
            differ and belong to this adapter: save the whole model.
        config: As in `model.quantize`, such as a
            `keras.quantizers.Int4QuantizationConfig(block_size=64)`; for `"nf4"`, an
            `NF4Config`.
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

    QLoRA:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="inner")])
    >>> report = ksa.quantize(model, "nf4")
    >>> plan = ksa.enable(model, ksa.LoRA(rank=8), targets="inner")

    Reference:
        - [Dettmers et al., 2023](https://arxiv.org/abs/2305.14314)
        - [Li et al., 2023](https://arxiv.org/abs/2310.08659)
        - [Meng et al., 2024](https://arxiv.org/abs/2404.02948)
        - [Zhang et al., 2024 (LQER)](https://arxiv.org/abs/2402.02446)
        - [Guo et al., 2023 (LQ-LoRA)](https://arxiv.org/abs/2311.12023)
    """
    fit_as = (start, iterations, config, calibrate, error_weights, bits)
    modes = check_request(mode, method, *fit_as)
    check_name(name)
    check_float_model(model)
    if method is None:
        return _quantize_only(model, StoredAs(modes[0], config), targets, exclude, verbose)
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
    storages = [StoredAs(modes[0], config)] if bits is None else all_storages(modes)
    work = [site.view.m * site.view.n for site in sites]
    with KernelProgress(work if bits is None else work * (len(storages) + 1), verbose) as progress:

        def fit(site: Site, storage: StoredAs) -> Fitted:
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
    with _replaced(sites if start == "qpissa" or iterations > 1 else [], found):
        targeted = [(model, storages[0])]
        if bits is not None:
            targeted = [(site.layer, found[site.key].stored_as) for site in sites]
        for target, storage in targeted:
            storage.store(target)
    mark_around(model)
    _attach(model, method, name, found)
    return _report(name, [found[site.key].as_row(site) for site in sites], work)


def _report(name: str | None, kernels: list[CompensatedKernel], sizes: list[int]) -> Compensation:
    modes = ", ".join(dict.fromkeys(kernel.storage.split("/")[0] for kernel in kernels))
    total = sum(kernel.bits * size for kernel, size in zip(kernels, sizes, strict=True))
    return Compensation(modes, name, tuple(kernels), total / (sum(sizes) or 1))


def _quantize_only(
    model: keras.Model, storage: StoredAs, targets: Any, exclude: Any, verbose: int | str
) -> Compensation:
    if targets is not None or exclude is not None:
        raise ValueError(
            "`targets` and `exclude` select the kernels of the adapter, and all kernels are "
            "quantized: leave them out, or quantize a part such as `model.backbone`. Received: "
            f"targets={targets!r}, exclude={exclude!r}"
        )
    sites = [site for site in find_sites(model) if is_storable(site.layer)]
    kernels, work = [], [site.view.m * site.view.n for site in sites]
    with KernelProgress(work, verbose) as progress:
        for site, size in zip(sites, work, strict=True):
            rounded = storage.round(site, site.matrix())
            error = relative_error(site.view.to_matrix(rounded.floats), site.matrix())
            bits, name = 8 * rounded.bytes / size, storage.name_of(rounded)
            kernels.append(CompensatedKernel(site.path, error, error, name, bits))
            progress.step(site.path)
    storage.store(model)
    mark_around(model)
    update_functions(model)
    return _report(None, kernels, work)


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
