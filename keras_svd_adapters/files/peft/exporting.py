"""Export an adapter to a PEFT directory, which transformers and serving engines read."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layers.vectors import KERNELS
from keras_svd_adapters.files.peft.arrays import (
    OURS,
    empty_entry,
    lora_entry,
    native_entry,
)
from keras_svd_adapters.files.peft.contents import contents_of, smallest_kernel
from keras_svd_adapters.files.peft.directory import check_directory, write_peft
from keras_svd_adapters.files.peft.heads import check_others, modules_to_save
from keras_svd_adapters.files.peft.modules import Modules, Names, name_modules
from keras_svd_adapters.files.peft.prompts import prompt_contents
from keras_svd_adapters.files.peft.shared_bases import SHARED
from keras_svd_adapters.files.peft.twins import are_written_together
from keras_svd_adapters.files.peft.vectors import changed_vectors, is_named
from keras_svd_adapters.kernels.low_rank_factors import check_size
from keras_svd_adapters.merging.approximation import ApproximateKernel, Approximation
from keras_svd_adapters.methods.low_rank.dora import DoRA
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.shared.vera import VeRA
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import single_shared_arrays
from keras_svd_adapters.models.state.trained_weights import weights_with
from keras_svd_adapters.runtime.host_values import to_float_array

OWN = (LoRA, DoRA, VeRA)  # methods that PEFT has as well, besides those of `twins`


def export_peft(
    model: keras.layers.Layer,
    directory: str | os.PathLike[str],
    name: str | None = None,
    rank: int | None = None,
    energy: float | None = None,
    base_model: str | None = None,
    modules: Modules | None = None,
    prefix: str | None = None,
    strict: bool = True,
) -> Approximation:
    """Write an adapter as a directory that HF PEFT and serving engines read.

    LoRA, rsLoRA, DoRA, VeRA, LoHa, LoKr, MiSS, HRA, OFT, BOFT, (IA)3, VB-LoRA, RandLoRA,
    FourierFT and AdaLoRA are written unchanged. Other methods of low rank, such as PiSSA,
    are written as the LoRA that computes the same. If `rank` or `energy` is given, any method is
    written as the nearest LoRA, except for a prompt. LN tuning becomes PEFT's, BitFit a LoRA of
    zeros with `bias="all"`, and a prompt its rows. The names of the modules are known for
    KerasHub's Llama, Mistral, Qwen, Gemma, BERT, RoBERTa, DistilBERT and ViT. A trained head of a
    KerasHub classifier is saved in `modules_to_save`.

    Args:
        model: An adapted KerasHub backbone or task, or any adapted model.
        directory: Path of the directory; it is created if it does not exist.
        name: Name of the adapter, if there are several.
        rank: Rank of the nearest LoRA, if the LoRA need not be exact.
        energy: Share of the sum of squares of each kernel's update that the
            LoRA must hold, such as 0.99; instead of `rank`.
        base_model: Name of the base model in the configuration, such as
            `"google/gemma-3-270m"`.
        modules: The transformers module of layers whose names are not known, from
            a path with `{}` for numbers, such as
            `{"block_{}/query": "encoder.layer.{}.attention.self.query"}`.
        prefix: Name of the bare model within the transformers model that will
            carry the adapter. The default is `"model"` for language models, the
            classifier's prefix for classifiers, and none for other models.
        strict: Whether trained weights that the directory cannot hold, such as
            kernels of convolutions, raise an error. `False` gives a warning.

    Returns:
        An `Approximation` with the error for each kernel; print it.

    Raises:
        ValueError: If a kernel has no known module, or if the adapter has no
            exact LoRA and neither `rank` nor `energy` is given. Nothing is
            written.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> model.layers[0].name = "up"
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2), targets="up")
    >>> ksa.export_peft(model, "lora", modules={"up": "mlp.up_proj"}).error < 1e-6
    True
    """
    check_size(rank, energy)
    check_directory(directory)
    name = name or only_adapter(model)
    sites = [site for site in require_adapter(model, name) if not _goes_along(site, name)]
    require_values(model, f"export_peft of {name!r}")
    if any(_is_prompt(site, name) for site in sites):
        if rank is not None or energy is not None:
            raise ValueError(
                "PEFT stores a prompt as its rows, and no LoRA is near it: leave out `rank` and "
                f"`energy`. Received: rank={rank!r}, energy={energy!r}"
            )
        return _export_prompt(model, directory, sites, name, base_model)
    names = name_modules(model, modules, prefix)
    for site in sites:
        _check(site, name, names)
    trained = {id(weight): path for _, path, weight in weights_with(model, name)}
    saved = modules_to_save(model, name, names, trained)
    vectors = changed_vectors(model, name, names, trained)
    check_others(list(trained.values()), strict)
    kernels = [site for site in sites if not site.is_vector]
    if rank is None and energy is None and _as_they_are(kernels, name):
        pieces = [native_entry(site, name) for site in kernels]
    else:
        pieces = [lora_entry(site, name, rank, energy) for site in kernels]
    found = {names.modules[site.key]: piece for site, piece in zip(kernels, pieces, strict=True)}
    if not found and vectors.biases:
        site = smallest_kernel(model, names)
        found = {names.modules[site.key]: empty_entry(site)}
    contents = contents_of(found, saved, vectors, names)
    if kernels:
        contents.tensors.update(_bases(kernels, name, pieces[0].method))
    contents.config["base_model_name_or_path"] = base_model
    write_peft(directory, contents)
    rows = [
        ApproximateKernel(site.path, str(piece.method), piece.error)
        for site, piece in zip(kernels, pieces, strict=True)
    ]
    for site in sites[len(kernels) :]:
        rows.append(ApproximateKernel(site.path, str(adapters_of(site.layer)[name].method), 0.0))
    return Approximation(name, tuple(rows), repr(name), f"{os.fspath(directory)!r} is written")


def _is_prompt(site: Site, name: str) -> bool:
    return adapters_of(site.layer)[name].method.prompt is not None


def _export_prompt(
    model: keras.layers.Layer,
    directory: str | os.PathLike[str],
    sites: list[Site],
    name: str,
    base_model: str | None,
) -> Approximation:
    trained = [path for _, path, _ in weights_with(model, name)]
    if len(sites) > 1 or trained:
        raise ValueError(
            "PEFT has a prompt only alone, without adapters of kernels and trained weights of the "
            f"model: `save_adapter` stores all. Received: {[site.path for site in sites] + trained}"
        )
    contents = prompt_contents(model, sites[0], name)
    contents.config["base_model_name_or_path"] = base_model
    write_peft(directory, contents)
    row = ApproximateKernel(sites[0].path, str(adapters_of(sites[0].layer)[name].method), 0.0)
    return Approximation(name, (row,), repr(name), f"{os.fspath(directory)!r} is written")


def _goes_along(site: Site, name: str) -> bool:
    """Return whether a site is the bias of a layer whose kernel has the same adapter."""
    return site.is_vector and adapters_of(site.layer)[name].method.adapts == KERNELS


def _check(site: Site, name: str, names: Names) -> None:
    method = adapters_of(site.layer)[name].method
    received = f"Received: {method} on `{site.path}`"
    if site.is_vector:
        if not is_named(site, names.modules | names.vectors):
            raise ValueError(
                "The transformers module of an adapted bias or normalization is not known. Name "
                f"its layer by `modules=`, or adapt without it by `exclude`. {received}"
            )
        return
    if site.key not in names.modules:
        raise ValueError(
            "The transformers module of an adapted kernel is not known. Name it by `modules=`, "
            f"or adapt without it by `exclude`. {received}"
        )
    if site.view.count is not None or not site.host.has_row_inputs or not site.host.is_called:
        raise ValueError(
            "PEFT directories are written for kernels of Dense, EinsumDense and Embedding "
            "layers; PEFT stores those of experts and convolutions in another way. `merge` "
            f"covers all of them. {received}"
        )
    if tie := site.host.tied_reason(site.layer):
        raise ValueError(
            f"PEFT would change only the look-up: {tie}. `merge` covers both. {received}"
        )
    if site.host.is_lookup and isinstance(method, DoRA):
        raise ValueError(
            "PEFT computes the magnitude of an embedding's DoRA in another way. Give `rank=` or "
            f"`energy=`, or `merge`. {received}"
        )


def _as_they_are(sites: Sequence[Site], name: str) -> bool:
    """Return whether PEFT has the method of all kernels.

    For LoRA, all kernels must have one scale, because serving engines read one scale.
    """
    methods = [adapters_of(site.layer)[name].method for site in sites]
    if not methods:
        return False
    once = {(type(m), getattr(m, "rslora", None)) for m in methods}
    scales = {m.scale for m in methods if type(m) is LoRA}
    if len(once) > 1 or len(scales) > 1:
        return False
    if type(methods[0]) not in OWN:
        bases = SHARED.get(type(methods[0]))
        common = bases is None or bases.are_common(methods[0], _shapes(sites))
        return common and are_written_together(methods)
    stored = (adapters_of(site.layer)[name].declared.items() for site in sites)
    return all(
        array in OURS.values()
        for found in stored
        for array, x in found
        if x.in_file and not x.shared
    )


def _bases(sites: list[Site], name: str, method: Method) -> dict[str, np.ndarray]:
    """Return the tensors of the frozen arrays that all kernels share, if there are any."""
    if (bases := SHARED.get(type(method))) is None:
        return {}
    shared = single_shared_arrays(sites, name)[method.name]
    arrays = {array: to_float_array(variable) for array, variable in shared.arrays.items()}
    return bases.to_peft(method, arrays, _shapes(sites))


def _shapes(sites: Sequence[Site]) -> list[tuple[int, int]]:
    return [(site.view.m, site.view.n) for site in sites]
