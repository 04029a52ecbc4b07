"""NF4 kernels in files of bitsandbytes, as transformers stores 4-bit models."""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from keras_svd_adapters.adapters.storages.nf4 import NF4Config, is_storable, store_values
from keras_svd_adapters.files.peft.modules import Modules, name_modules
from keras_svd_adapters.kernels import nf4
from keras_svd_adapters.kernels.quantized import kernel_storage_of, stored_weights
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model, update_functions
from keras_svd_adapters.models.state.stored_kernels import mark_around
from keras_svd_adapters.runtime.host_values import to_host_exact

STATE = "quant_state.bitsandbytes__nf4"


def export_nf4(
    model: keras.layers.Layer, path: str | os.PathLike[str], modules: Modules | None = None
) -> None:
    """Write the NF4 kernels of a model, bit for bit, as bitsandbytes names them.

    Args:
        model: A model after `quantize(model, "nf4")`, with or without adapters.
        path: Path of the file, such as `"kernels.safetensors"`. Other weights are not in it.
        modules: As in `export_peft`.

    Raises:
        ValueError: If the names of the modules are not known, or no named kernel is NF4.
    """
    tensors = {
        f"{name}.weight{key}": value
        for name, site in _named(model, modules).items()
        if kernel_storage_of(site.layer) is not None
        for key, value in _to_theirs(site).items()
    }
    if not tensors:
        raise ValueError(
            "No kernel with a module in transformers is NF4: call `quantize(model, 'nf4')` first. "
            f"Received: {model!r}"
        )
    save_file(tensors, path)


@changes_model
def import_nf4(
    model: keras.layers.Layer, path: str | os.PathLike[str], modules: Modules | None = None
) -> None:
    """Replace float kernels of a model by the NF4 kernels of a file, bit for bit.

    Args:
        model: A float model without adapters on these kernels.
        path: A safetensors file of a 4-bit model; call the function for each of several files.
            Tensors other than NF4 kernels are ignored.
        modules: As in `import_peft`.

    Raises:
        ValueError: If no kernel of the model is in the file, or one does not fit. The model
            stays unchanged.
    """
    found = {}
    with safe_open(path, framework="numpy") as file:
        keys = set(file.keys())
        for name, site in _named(model, modules).items():
            if f"{name}.weight.{STATE}" in keys:
                start = f"{name}.weight"
                theirs = {k[len(start) :]: file.get_tensor(k) for k in keys if k.startswith(start)}
                found[name] = site, *_from_theirs(theirs, site, name)
    if not found:
        raise ValueError(
            "The file holds no NF4 kernel of this model: name the modules with `modules=`, as in "
            f"`import_peft`. Received: {str(path)!r}"
        )
    for site, stored, config in found.values():
        store_values(site.layer, stored, config)
    mark_around(model)
    update_functions(model)


def _named(model: keras.layers.Layer, modules: Modules | None) -> dict[str, Site]:
    names = name_modules(model, modules).modules
    return {names[site.key]: site for site in find_sites(model) if site.key in names}


def _to_theirs(site: Site) -> dict[str, np.ndarray]:
    config: NF4Config = kernel_storage_of(site.layer).config
    ours = {name: to_host_exact(weight) for name, weight in stored_weights(site.layer).items()}
    m, n = site.view.m, site.view.n
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": config.block_size, "shape": [n, m]}
    state["dtype"] = site.layer.compute_dtype
    theirs = {
        "": ours[nf4.CODES_OF_KERNEL][: -(-m * n // 2)].reshape(-1, 1),
        ".absmax": ours[nf4.SCALE],
        ".quant_map": nf4.CODES,
    }
    if config.double:
        theirs |= {".nested_absmax": ours[nf4.LARGEST], ".nested_quant_map": nf4.SCALE_CODES}
        state |= {"nested_blocksize": nf4.GROUP, "nested_dtype": "float32"}
        state["nested_offset"] = float(ours[nf4.MEAN][0])
    theirs[f".{STATE}"] = np.frombuffer(json.dumps(state).encode(), "uint8")
    return theirs


def _from_theirs(
    theirs: dict[str, np.ndarray], site: Site, name: str
) -> tuple[dict[str, np.ndarray], NF4Config]:
    state: dict[str, Any] = json.loads(theirs[f".{STATE}"].tobytes())
    m, n = site.view.m, site.view.n
    fits = list(state["shape"]) == [n, m] and is_storable(site.layer)
    if not fits or not np.allclose(theirs[".quant_map"], nf4.CODES, atol=1e-6):
        raise ValueError(
            "A kernel of the file replaces a float kernel of Dense or EinsumDense of its shape, "
            "without adapters: load it into the float model that it belongs to. Received: "
            f"{name}, {state}, for `{site.path}` of the shape {[n, m]} in {site.dtype}"
        )
    scale, block, codes = theirs[".absmax"], state["blocksize"], theirs[""].ravel()
    stored = {nf4.CODES_OF_KERNEL: np.pad(codes, (0, len(scale) * block // 2 - len(codes)))}
    if ".nested_absmax" not in theirs:
        return stored | {nf4.SCALE: scale}, NF4Config(block, double=False)
    largest, numbers = theirs[".nested_absmax"], theirs[".nested_quant_map"]
    mean = np.array([state["nested_offset"]], "float32")
    if state["nested_blocksize"] == nf4.GROUP and np.allclose(numbers, nf4.SCALE_CODES, atol=1e-6):
        stored |= {nf4.SCALE: scale, nf4.LARGEST: largest, nf4.MEAN: mean}
        return stored, NF4Config(block)
    scale = numbers[scale] * np.repeat(largest, state["nested_blocksize"])[: len(scale)] + mean
    return stored | {nf4.SCALE: scale}, NF4Config(block, double=False)
