"""Features of tokens by which a router weighs adapters: of a whole batch, or of each new token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops


class TokenFeatures:
    """Features from a model of the user's, for whole sequences.

    Args:
        model: Model from the inputs to `(samples, tokens, width)`.
    """

    def __init__(self, model: Any):
        if len(getattr(model, "output_shape", None) or ()) != 3:
            raise ValueError(
                "`features` is a model that returns (samples, tokens, width), such as "
                f"`keras.Model(model.input, hidden)`. Received: features={model!r}"
            )
        self.model = model
        self.shape = model.output_shape

    def features(self, inputs: Any) -> Any:
        """Return the features of a batch."""
        return self.model(inputs)

    def first(self, cache: Any) -> Any:
        """Return what `next_features` gets first, given the empty cache of the model."""
        return ()

    def next_features(
        self, plain: Callable[..., Any], token_ids: Any, cache: Any, index: Any, *a: Any, **k: Any
    ) -> tuple[Any, Any]:
        """Return the features of tokens from a position on, and a cache for later ones.

        Args:
            plain: The `call_with_cache` of the model.
            token_ids: `(samples, tokens)`.
            cache: The cache after the earlier tokens.
            index: Position of the first of these tokens.
            *a: Other arguments of `plain`.
            **k: Further arguments of `plain`.
        """
        raise NotImplementedError

    def check_cached(self) -> None:
        """Raise an error if `next_features` has no answer."""
        raise ValueError(
            "Generation reads one new token at a time, and these features come from whole "
            "sequences: leave `features` out, which takes those of the task. Or compute "
            "`mixed(inputs)` for each new token. Received: "
            f"features={self.model!r}"
        )


class BackboneFeatures(TokenFeatures):
    """The outputs of a task's backbone; while it generates, with a cache of their own.

    Args:
        task: A KerasHub task.
    """

    def __init__(self, task: Any):
        super().__init__(task.backbone)

    def first(self, cache: Any) -> Any:
        return keras.tree.map_structure(ops.zeros_like, cache)

    def next_features(
        self, plain: Callable[..., Any], token_ids: Any, cache: Any, index: Any, *a: Any, **k: Any
    ) -> tuple[Any, Any]:
        _, hidden, cache = plain(token_ids, cache, index, *a, **k)
        return hidden, cache

    def check_cached(self) -> None:
        pass


class EmbeddingFeatures(TokenFeatures):
    """The token embeddings of a task's backbone, without positions.

    Args:
        task: A KerasHub task.
    """

    def __init__(self, task: Any):
        self.model = task.backbone.token_embedding
        self.shape = (None, None, self.model.output_dim)

    def features(self, inputs: Any) -> Any:
        if not isinstance(inputs, Mapping) or "token_ids" not in inputs:
            raise ValueError(
                "The token embedding reads `token_ids` from the inputs, a dictionary as the "
                f"preprocessor of the task returns it. Received: {type(inputs).__name__}"
            )
        return self.model(inputs["token_ids"])

    def next_features(
        self, plain: Callable[..., Any], token_ids: Any, cache: Any, index: Any, *a: Any, **k: Any
    ) -> tuple[Any, Any]:
        return self.model(token_ids), cache

    def check_cached(self) -> None:
        pass
