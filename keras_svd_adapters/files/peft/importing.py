"""Import a PEFT directory as an adapter; check everything before the model changes."""

from __future__ import annotations

import os
from functools import partial

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.files.peft.arrays import values_of, without_empty_loras
from keras_svd_adapters.files.peft.directory import read_peft
from keras_svd_adapters.files.peft.heads import values_for
from keras_svd_adapters.files.peft.matching import (
    by_module,
    check_finite,
    check_places,
    method_of,
    names_in,
    shared_of,
    sites_of,
)
from keras_svd_adapters.files.peft.modules import Modules
from keras_svd_adapters.files.peft.prompts import KINDS as PROMPTS
from keras_svd_adapters.files.peft.prompts import load_prompt
from keras_svd_adapters.files.peft.rank_pattern import with_all_ranks
from keras_svd_adapters.files.peft.settings import check_settings
from keras_svd_adapters.files.peft.vectors import imported_vectors
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import check_methods, check_name, with_biases
from keras_svd_adapters.models.attaching import attach_all, detach_on_error, start_adapter
from keras_svd_adapters.models.decompositions import Found
from keras_svd_adapters.models.named_adapters import require_values
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.state.trained_weights import check_weights
from keras_svd_adapters.models.status import Status, status
from keras_svd_adapters.runtime.host_values import restore_values_on_error


@changes_model
def import_peft(
    model: keras.layers.Layer,
    directory: str | os.PathLike[str],
    name: str = "default",
    modules: Modules | None = None,
    prefix: str | None = None,
    strict: bool = True,
) -> Status:
    """Add an adapter that HF PEFT trained on the same base model.

    The function reads LoRA, rsLoRA, DoRA, VeRA, LoHa, LoKr, MiSS, HRA, OFT, BOFT, (IA)3, VB-LoRA,
    RandLoRA, FourierFT and AdaLoRA with their settings by module, LN tuning, trained biases, which
    become BitFit, heads in `modules_to_save`, and prompts, which become prompt tuning. The adapter
    becomes the active one. It can be trained further, saved and, if it is no prompt, merged and
    combined like any other adapter.

    Args:
        model: A KerasHub backbone or task with the same weights, or any model.
        directory: Directory with `adapter_config.json` and
            `adapter_model.safetensors`.
        name: Name of the adapter on this model.
        modules: As in `export_peft`.
        prefix: As in `export_peft`.
        strict: Whether modules without a place in the model raise an error.
            `False` gives a warning and loads the rest.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        FileNotFoundError: If the directory lacks a file.
        ValueError: If the weights are pickled or a setting is not supported.
            Also if a tensor is missing, has another shape, is not finite, or
            has no place in the model. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2), targets="up")
    >>> _ = ksa.export_peft(model, "lora", modules={"up": "mlp.up_proj"})
    >>> print(ksa.import_peft(model, "lora", "again", modules={"up": "mlp.up_proj"}))
    name ...
    """
    check_name(name)
    contents = read_peft(directory)
    if contents.config.get("peft_type") in PROMPTS:
        require_values(model, f"import_peft({os.fspath(directory)!r})")
        return load_prompt(model, contents, name)
    contents = with_all_ranks(contents)
    check_settings(contents.config)
    require_values(model, f"import_peft({os.fspath(directory)!r})")
    check_finite(contents.tensors)
    tensors, others = by_module(contents.tensors)
    names = names_in(model, [*tensors, *others], modules, prefix)
    sites = sites_of(model, names)
    vectors, values, others = imported_vectors(model, names, others)
    if vectors:
        tensors = without_empty_loras(tensors)
    chosen = [
        (sites[module], method_of(contents.config, module, sites[module], arrays))
        for module, arrays in tensors.items()
        if module in sites
    ]
    heads = [
        values_for(module, sites[module], part, tensor)
        for module, parts in others.items()
        if module in sites
        for part, tensor in parts.items()
    ]
    check_places([m for m in (*tensors, *others) if m not in sites], directory, strict)
    chosen += vectors
    if not chosen:
        raise ValueError(
            f"The directory has no adapter of this model. Received: {os.fspath(directory)!r}"
        )
    chosen = with_biases(model, chosen)
    check_methods(chosen, name)
    weights = [weight for weight, _ in heads]
    asked = f"import_peft({os.fspath(directory)!r})"
    check_weights(model, weights, asked, name, [site for site, _ in chosen])
    shared = shared_of(model, chosen, contents.tensors)
    methods = {site.key: method for site, method in chosen}
    values |= {
        site.key: values_of(site, methods[site.key], tensors[module])
        for module, site in sites.items()
        if module in tensors
    }
    start = partial(_started, values=values, name=name)
    with restore_values_on_error(weights), detach_on_error(model, chosen, name):
        attach_all(chosen, name, 0, shared, start, lambda site, method: False)
        train_and_sync(model, name, weights, [value for _, value in heads])
    return status(model)


def _started(
    site: Site,
    method: Method,
    shared: Shared,
    found: Found,
    values: dict[str, dict[str, np.ndarray]],
    name: str,
) -> Adapter:
    """Return an adapter with the values of the directory."""
    adapter = start_adapter(site, method, shared, found, name)
    for array, value in values.get(site.key, {}).items():
        adapter.arrays[array].assign(value)
    return adapter
