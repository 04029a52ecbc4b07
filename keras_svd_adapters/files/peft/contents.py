"""Put together what a PEFT directory holds."""

from __future__ import annotations

import keras

from keras_svd_adapters.files.peft.arrays import COMMON, PREFIX, PeftKernel
from keras_svd_adapters.files.peft.directory import PeftContents
from keras_svd_adapters.files.peft.heads import SavedModules
from keras_svd_adapters.files.peft.modules import Names
from keras_svd_adapters.files.peft.settings import settings_of
from keras_svd_adapters.files.peft.vectors import Vectors, vector_tensors
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site


def contents_of(
    found: dict[str, PeftKernel], saved: SavedModules, vectors: Vectors, names: Names
) -> PeftContents:
    """Return the configuration and the tensors of adapted kernels, whole modules and vectors."""
    whole = [*saved.modules, *(vectors.norms if found else ())]
    config = {
        "task_type": names.task_with(saved.modules),
        "target_modules": list(found or vectors.norms),
        "modules_to_save": whole or None,
        "inference_mode": True,
        **settings_of({module: piece.method for module, piece in found.items()}),
    }
    if vectors.biases and "bias" not in config:
        raise ValueError(
            "With this method, PEFT has no biases: `merge` the adapter, or give `rank=` or "
            "`energy=` for the nearest LoRA, which can have them. "
            f"Received: {next(iter(found.values())).method}, biases of "
            f"{', '.join(list(vectors.biases)[:3])}"
        )
    if vectors.biases:
        config["bias"] = "all"
    tensors = {
        f"{module}.{array}": value
        for module, piece in found.items()
        for array, value in piece.tensors.items()
        if array not in COMMON.values()
    }
    tensors |= saved.tensors | vector_tensors(vectors, found)
    common = {
        key: piece.tensors[array]
        for key, array in COMMON.items()
        for piece in found.values()
        if array in piece.tensors
    }
    return PeftContents(config, common | {f"{PREFIX}{k}": v for k, v in tensors.items()})


def smallest_kernel(model: keras.layers.Layer, names: Names) -> Site:
    """Return the smallest kernel of a model that has a name."""
    sites = [
        site
        for site in find_sites(model)
        if site.key in names.modules
        and names.modules[site.key] not in names.heads
        and site.is_default_target
        and not site.host.is_lookup
    ]
    if not sites:
        raise ValueError(
            "PEFT has biases only with a LoRA, for which no kernel of the model has a known "
            "name: name one in `modules=`. Received: names of "
            f"{', '.join(list(names.vectors.values())[:3])}"
        )
    return min(sites, key=lambda site: site.view.m + site.view.n)
