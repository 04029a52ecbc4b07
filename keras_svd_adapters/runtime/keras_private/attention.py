"""Private API of attention layers (Keras 3.10 to 3.15, KerasHub 0.32).

- `_compute_attention`: attention of projected queries to projected keys. A public call of the layer
  projects inputs, and takes no keys and values beside those of its inputs.
- `_mask_sliding_window` (KerasHub): called there; the window would hide keys without a position.
- `_key_dense`, `_value_dense`, `_key_dense_layer_norm` (KerasHub): what makes the keys and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.runtime.threads.context_values import with_value

FAMILIES = ("Llama", "CachedMistral", "Qwen", "Qwen3", "CachedGemma", "CachedGemma3")
KERAS_HUB = {f"{family}Attention" for family in FAMILIES}
METHOD = "_compute_attention"
OF_KERAS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_in_front: ContextVar[int] = ContextVar("_in_front", default=0)


def computes_known_attention(plain: type) -> bool:
    """Return whether layers of a class compute attention as one of the known classes does."""
    own = getattr(plain, METHOD, None)
    known = (each for each in plain.__mro__ if each in OF_KERAS or _is_of_keras_hub(each))
    return own is not None and any(getattr(each, METHOD, None) is own for each in known)


def _is_of_keras_hub(cls: type) -> bool:
    return cls.__name__ in KERAS_HUB and cls.__module__.startswith("keras_hub.")


def key_and_value_layers(layer: Any) -> tuple[Any, Any, Any]:
    """Return the projections of an attention layer to keys and values, and its norm of keys."""
    norms = (getattr(layer, name, None) for name in ("_key_dense_layer_norm", "key_norm"))
    norm = next((norm for norm in norms if norm is not None), None)
    if hasattr(layer, "key_dense"):
        return layer.key_dense, layer.value_dense, norm
    return layer._key_dense, layer._value_dense, norm


@cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[1:]


class ComputesAttention:
    """Mixin whose `attention` computes for an attention layer unless it `is_inactive`."""

    is_inactive: bool

    def attention(self, arguments: list[Any], options: dict[str, Any]) -> Any:
        """Compute attention, given queries, keys, values, a mask or `None`, and more by name."""
        raise NotImplementedError

    def _compute_attention(self, *args: Any, **kwargs: Any) -> Any:
        own = super()._compute_attention  # type: ignore[misc]
        if self.is_inactive:
            return own(*args, **kwargs)
        names = _parameters(own.__func__)
        options = dict(zip(names, args)) | kwargs
        main = [options.pop(name) for name in names[:3]]
        y = self.attention([*main, options.pop("attention_mask", None)], options)
        return (y, None) if isinstance(self, OF_KERAS) else y

    def own_attention(
        self, arguments: list[Any], options: dict[str, Any], in_front: int = 0
    ) -> Any:
        """Compute the layer's own attention; some keys in front have no position."""
        query, key, value, *masks = arguments
        query = ops.copy(query)  # Gemma multiplies it in place (PyTorch)
        mask = masks[0] if masks else None
        with with_value(_in_front, in_front):
            y = super()._compute_attention(query, key, value, attention_mask=mask, **options)  # type: ignore[misc]
        return y[0] if isinstance(y, tuple) else y

    def _mask_sliding_window(self, attention_mask: Any, *args: Any, **kwargs: Any) -> Any:
        count, own = _in_front.get(), super()._mask_sliding_window  # type: ignore[misc]
        if count == attention_mask.shape[-1]:
            return ops.cast(attention_mask, "bool")
        tokens = own(attention_mask[..., count:], *args, **kwargs)
        free = ops.cast(attention_mask[..., :count], tokens.dtype)
        return ops.concatenate([free, tokens], axis=-1) if count else tokens
