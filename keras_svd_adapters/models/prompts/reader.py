"""The model that reads a prompt: the innermost one around the table of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svd_adapters.adapters.adapted_layer import AdaptedLayer
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.mode import current_mode
from keras_svd_adapters.methods.contract import Prompt
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.prompts.places import Places, PlacesPerSample, SamePlaces
from keras_svd_adapters.models.sites.site import Site

IDS = "token_ids"
BESIDE_PROMPT = {"padding_mask": 1, "segment_ids": 0}  # inputs that have values for each token


def table_with_prompts(model: keras.Model) -> AdaptedLayer | None:
    """Return the table of tokens of a model, if it has prompts and no inner model reads them."""
    own = getattr(model, "token_embedding", None)
    for layer in model.layers if own is None else [own]:
        if isinstance(layer, AdaptedLayer) and layer.is_lookup and prompts_of(layer):
            inner = (each for each in model.layers if isinstance(each, keras.Model))
            if not any(table_with_prompts(each) is layer for each in inner):
                return layer
    return None


def prompts_of(table: Any) -> dict[str, Prompt]:
    """Return the prompts of a table by the names of their adapters."""
    prompts = {name: adapter.method.prompt for name, adapter in adapters_of(table).items()}
    return {name: prompt for name, prompt in prompts.items() if prompt is not None}


def places_now(model: keras.Model) -> tuple[AdaptedLayer, Places] | None:
    """Return the table of a model, and the places of the prompts that it reads in this thread."""
    mode = current_mode()
    if mode.has_prompts or (table := table_with_prompts(model)) is None:
        return None
    prompts, ids = prompts_of(table), mode.ids
    if table.mixture is not None and ids is not None:
        each = [None if name is None else prompts.get(name) for name in ids.names]
        if ids.chooses and ids.ids is not None and len(set(each)) > 1:
            return table, _per_sample(model, each, ids.ids)
    else:
        names = () if table.is_inactive else tuple(table.computing()[0])
        each = [prompts.get(name) for name in names]
    found = [prompt for prompt in each if prompt is not None]
    if not found:
        return None
    longest = max(found, key=lambda prompt: prompt.length)
    return table, SamePlaces(longest.length, place_of(longest, model))


def _per_sample(model: keras.Model, prompts: list[Prompt | None], ids: Any) -> Places:
    lengths = np.array([prompt.length if prompt else 0 for prompt in prompts], "int32")
    after = np.array([place_of(prompt, model) if prompt else 0 for prompt in prompts], "int32")
    return PlacesPerSample(
        int(lengths.max()), ops.take(lengths, ids, axis=0), ops.take(after, ids, axis=0)
    )


def place_of(prompt: Prompt, model: keras.Model) -> int:
    """Return the number of tokens before a prompt: by default those that stand for the class."""
    if prompt.after is not None:
        return prompt.after
    return int(hasattr(model, "cls_token_index"))


def with_prompts(model: keras.Model, inputs: Any, table: AdaptedLayer, places: Places) -> Any:
    """Return inputs of a model with the prompts, as tokens beyond the table."""
    if isinstance(inputs, list | tuple):
        raise ValueError(
            "With a prompt, give the inputs of the model by name, as `model.input` shows them. "
            f"Received: a {type(inputs).__name__} of {len(inputs)}"
        )
    texts = inputs if isinstance(inputs, Mapping) else {IDS: inputs}
    _check_room(model, texts[IDS].shape[1], places.longest)
    rows = np.arange(places.longest)
    values: dict[str, np.ndarray] = {IDS: table.kernel_view.m + rows}
    values |= {name: np.full_like(rows, value) for name, value in BESIDE_PROMPT.items()}
    found = {
        name: places.insert(ops.convert_to_tensor(text), values[name])
        for name, text in texts.items()
    }
    return found if isinstance(inputs, Mapping) else found[IDS]


def _check_room(model: keras.Model, size: int | None, length: int) -> None:
    limit = getattr(model, "max_sequence_length", None)
    if limit is not None and (size or 0) + length > limit:
        raise ValueError(
            f"The model has positions for {limit} tokens, and the prompt takes {length} of them: "
            f"cut texts to {limit - length} tokens, such as by `preprocessor.sequence_length = "
            f"{limit - length}`. Received: texts of {size} tokens"
        )


def reader_of(site: Site) -> keras.Model:
    """Return the innermost model around a table."""
    return next(layer for layer in reversed(site.chain) if isinstance(layer, keras.Model))


def _inputs_of(model: keras.Model) -> Any:
    """Return the symbolic inputs of a functional or sequential model, if it is one."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.inputs else None
    return getattr(model, "input", None)


def check_reader(site: Site, method: Method) -> None:
    """Raise `ValueError` if the model around a table cannot put a prompt into its inputs."""
    if method.prompt is None:
        return
    model = reader_of(site)
    inputs = _inputs_of(model)
    known = inputs.keys() - {IDS, *BESIDE_PROMPT} if isinstance(inputs, dict) else set()
    ids = inputs.get(IDS) if isinstance(inputs, dict) else inputs
    if known or not isinstance(ids, keras.KerasTensor) or ids.shape[1:] != (None,):
        raise ValueError(
            f"A prompt needs a functional model whose input is `{IDS}` of any length, alone or "
            f"with {' and '.join(BESIDE_PROMPT)}, as in most KerasHub backbones. "
            f"Received: {model.name!r} with the inputs {inputs!r}"
        )
    limit = getattr(model, "max_sequence_length", None)
    if limit is not None and method.prompt.length >= limit:
        raise ValueError(
            f"The model has positions for {limit} tokens: use a shorter prompt. "
            f"Received: {method.prompt.length} rows"
        )
