"""The steps of generation of a KerasHub task, which read how the running thread computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.models.prompts.prompted_model import generate_after_prompts
from keras_svd_adapters.models.state.compiled_functions import IDS


def generate_step_with_ids(model: Any) -> Callable[..., Any]:
    """Return a `generate_step` that takes the adapter of each prompt from its inputs."""

    def generate_step(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = partial(generate_after_prompts, model, type(model).generate_step)
        if IDS not in inputs:
            return step(inputs, *args, **kwargs)
        inputs, mode = dict(inputs), current_mode()
        assert mode.ids is not None
        ids = replace(mode.ids, ids=inputs.pop(IDS))
        with in_mode(replace(mode, ids=ids)):
            return step(inputs, *args, **kwargs)

    return generate_step


def call_with_router(model: Any) -> Callable[..., Any]:
    """Return a `call_with_cache` that leaves the work to the router of the mode, if it has one."""

    def call_with_cache(*args: Any, **kwargs: Any) -> Any:
        mode = current_mode()
        plain = partial(type(model).call_with_cache, model)
        if mode.router is None:
            return plain(*args, **kwargs)
        assert mode.ids is not None
        return mode.router.call_with_cache(plain, mode.ids.ids, *args, **kwargs)

    return call_with_cache
