"""Hooks that make KerasHub presets keep adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import keras

from keras_svd_adapters.adapters.attachment import activation_of, detach, reattach
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.class_mixing import without_mixin
from keras_svd_adapters.files.presets.loading import load_adapters
from keras_svd_adapters.files.presets.saving import adapters_beside
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.adapted_model import AdaptedModel
from keras_svd_adapters.models.state.freezing import trainable_as_at_first
from keras_svd_adapters.models.state.stored_kernels import has_stored_kernels
from keras_svd_adapters.models.state.weight_owners import without_own_values
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.runtime.threads.context_values import with_value

_saving: ContextVar[bool] = ContextVar("saving", default=False)


def keep_adapters_in_presets(cls: Any) -> None:
    """Wrap `save_to_preset` and `from_preset` of KerasHub's `Backbone` or `Task`."""
    save, load = cls.save_to_preset, cls.from_preset.__func__

    @wraps(save)
    def save_to_preset(
        self: Any, preset_dir: Any, *args: Any, include_basis: bool = False, **kwargs: Any
    ) -> None:
        if _saving.get():  # a task saves its backbone
            return save(self, preset_dir, *args, **kwargs)
        if has_stored_kernels(self):
            raise ValueError(
                "A preset cannot hold NF4 kernels: `model.save` saves the whole model, and "
                f"`save_adapter` its adapter. Received: save_to_preset({str(preset_dir)!r})"
            )
        beside = adapters_beside(self, Path(preset_dir), include_basis)
        with with_value(_saving, True), beside, plain(self):
            save(self, preset_dir, *args, **kwargs)
        return None

    @wraps(load)
    def from_preset(cls: Any, preset: Any, load_weights: bool = True, **kwargs: Any) -> Any:
        plain = next(
            c for c in cls.__mro__ if issubclass(c, keras.Model) and not issubclass(c, AdaptedModel)
        )
        model = load(plain, preset, load_weights, **kwargs)
        if load_weights:
            load_adapters(model, preset, strict="num_classes" not in kwargs)
        return model

    cls.save_to_preset = save_to_preset
    cls.from_preset = classmethod(from_preset)


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """Context manager: a model and its parts have no adapters and have their own classes."""
    carried = [
        (site.layer, adapters_of(site.layer), activation_of(site.layer))
        for site in adapted_sites(model)
    ]
    with ExitStack() as stack:
        stack.enter_context(trainable_as_at_first(model))
        stack.enter_context(without_own_values(with_models_around(model)))
        for root in [layer for layer in all_layers(model) if isinstance(layer, AdaptedModel)]:
            stack.enter_context(without_mixin(root, AdaptedModel))
        try:
            for layer, adapters, _ in carried:
                for name in adapters:
                    detach(layer, name)
            yield
        finally:
            for layer, adapters, active in carried:
                reattach(layer, adapters, active)
