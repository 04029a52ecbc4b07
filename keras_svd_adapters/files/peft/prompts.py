"""Prompts of HF PEFT, which stores them as rows, whatever computed them in training.

PEFT puts a prompt before all tokens. The table of tokens of a Gemma in transformers includes the
scale that a KerasHub Gemma applies after its table, so that PEFT's rows are scaled already.
"""

from __future__ import annotations

from math import sqrt

import keras
import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.files.peft.directory import PeftContents
from keras_svd_adapters.files.peft.families import FAMILIES
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.prompts.prompt_tuning import PromptTuning
from keras_svd_adapters.models.assignment import check_methods
from keras_svd_adapters.models.attaching import attach_all, detach_on_error, start_adapter
from keras_svd_adapters.models.decompositions import Found
from keras_svd_adapters.models.prompts.reader import place_of, reader_of
from keras_svd_adapters.models.refresh import train_and_sync
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.array_sharing import Shared
from keras_svd_adapters.models.status import Status, status
from keras_svd_adapters.runtime.host_values import to_float_array

KINDS = ("PROMPT_TUNING", "P_TUNING", "CPT")
ROWS = "prompt_embeddings"
SCALED, PLAIN = ("GemmaBackbone", "Gemma3Backbone"), (*FAMILIES, "GPT2Backbone")


def load_prompt(model: keras.layers.Layer, contents: PeftContents, name: str) -> Status:
    """Add the prompt of a PEFT directory to a model, as `PromptTuning`."""
    rows = contents.tensors.get(ROWS)
    if rows is None or rows.ndim != 2 or len(contents.tensors) > 1:
        raise ValueError(
            f"A prompt of PEFT is a matrix `{ROWS}`, without heads or other modules. "
            f"Received: { ({key: value.shape for key, value in contents.tensors.items()}) }"
        )
    (site,) = select_sites(model, kind=PromptTuning.adapts)
    if rows.shape[1] != site.view.n or not np.isfinite(rows).all():
        raise ValueError(
            f"The prompt must have finite rows of {site.view.n} values, as the table of tokens of "
            f"the model. Received: {ROWS} of shape {rows.shape}"
        )
    method = PromptTuning(length=len(rows), start="random", after=0)
    check_methods([(site, method)], name)
    rows = rows / scale_of(site)

    def start(site: Site, method: Method, shared: Shared, found: Found) -> Adapter:
        adapter = start_adapter(site, method, shared, found, name)
        adapter.arrays["prompt"].assign(rows)
        return adapter

    with detach_on_error(model, [(site, method)], name):
        attach_all([(site, method)], name, 0, {}, start, lambda site, method: False)
        train_and_sync(model, name, [])
    return status(model)


def prompt_contents(model: keras.layers.Layer, site: Site, name: str) -> PeftContents:
    """Return the directory of an adapter that is a prompt alone."""
    adapter = adapters_of(site.layer)[name]
    method, reader = adapter.method, reader_of(site)
    assert method.prompt is not None
    if place_of(method.prompt, reader):
        raise ValueError(
            "PEFT puts a prompt before all tokens: train it with `after=0`. "
            f"Received: {method} on {reader.name!r}"
        )
    found = method.coefficients(adapter.values_of_arrays(), adapter.form, adapter.float32_kernel)
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM" if hasattr(model, "generate") else "FEATURE_EXTRACTION",
        "inference_mode": True,
        "num_virtual_tokens": method.prompt.length,
        "token_dim": site.view.n,
        "num_transformer_submodules": 1,
        "num_layers": getattr(reader, "num_layers", None),
        "num_attention_heads": getattr(reader, "num_query_heads", None)
        or getattr(reader, "num_heads", None),
    }
    return PeftContents(config, {ROWS: to_float_array(found["prompt"]) * scale_of(site)})


def scale_of(site: Site) -> float:
    """Return the factor of the rows of a table in transformers, relative to those in KerasHub."""
    kinds = [cls.__name__ for cls in type(reader_of(site)).__mro__]
    if any(kind in SCALED for kind in kinds):
        return sqrt(site.view.n)
    if any(kind in PLAIN for kind in kinds):
        return 1.0
    raise ValueError(
        "Whether the table of tokens of this model has the same scale in transformers is not "
        f"known: use `save_adapter` and `load_adapter`. Received: {kinds[0]}"
    )
