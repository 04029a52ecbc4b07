"""Models that put prompts into their inputs, and take their positions out of the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.mode import current_mode, in_mode
from keras_svd_adapters.models.prompts.reader import IDS, places_now, with_prompts


class PromptedModel:
    """Mixin of a model that reads the prompts of its adapters before each text."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        found = places_now(self)  # type: ignore[arg-type]
        if found is None:
            return super().call(*args, **kwargs)  # type: ignore[misc]
        inputs = args[0] if args else kwargs.pop("inputs")
        inputs = with_prompts(self, inputs, *found)  # type: ignore[arg-type]
        size = _tokens(inputs)
        with in_mode(replace(current_mode(), has_prompts=True)):  # for the models inside
            y = super().call(inputs, *args[1:], **kwargs)  # type: ignore[misc]

        def without_prompt(part: Any) -> Any:
            has_tokens = len(part.shape) > 2 and part.shape[1] == size
            return found[1].remove(part) if has_tokens else part

        return keras.tree.map_structure(without_prompt, y)


def _tokens(inputs: Any) -> Any:
    return (inputs[IDS] if isinstance(inputs, dict) else inputs).shape[1]


def generate_after_prompts(
    model: Any, step: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any
) -> Any:
    """Run a `generate_step` of a KerasHub task on texts with prompts, and take these out again."""
    reader = getattr(model, "backbone", model)
    found = places_now(reader)
    if found is None:
        return step(model, inputs, *args, **kwargs)
    inputs = with_prompts(reader, inputs, *found)
    with in_mode(replace(current_mode(), has_prompts=True)):
        y = step(model, inputs, *args, **kwargs)
    return {name: found[1].remove(ops.convert_to_tensor(part)) for name, part in y.items()}
