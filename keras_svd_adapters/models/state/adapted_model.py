"""Mixin for models with adapters, so that saving the whole model keeps the adapters."""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.class_mixing import (
    add_mixin,
    class_without_mixins,
    remove_mixin,
    without_mixin,
)
from keras_svd_adapters.adapters.refusals import (
    refuse_keras_lora,
    refuse_newer_keras,
    refuse_to_quantize,
)
from keras_svd_adapters.models.prompts.prompted_model import PromptedModel
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.compiled_functions import ModelFunctions, store_of
from keras_svd_adapters.models.state.freezing import trainable_as_at_first
from keras_svd_adapters.models.state.generation_steps import (
    call_with_router,
    generate_step_with_ids,
)
from keras_svd_adapters.models.state.locked_model import LockedModel
from keras_svd_adapters.models.state.model_config import (
    describe_adapters,
    describe_freezing,
    describe_holders,
    describe_shared,
    restore_adapters,
    restore_freezing,
)
from keras_svd_adapters.models.state.stored_kernels import mark_stored
from keras_svd_adapters.models.state.weighted_sets import describe_weights, restore_weights
from keras_svd_adapters.runtime.threads.model_lock import model_lock

PACKAGE = "keras_svd_adapters"


@keras.saving.register_keras_serializable(PACKAGE, "AdaptedModel")
class AdaptedModel:
    """Mixin that puts the adapters into the configuration of a model.

    The configuration holds the plain model's configuration and a list of adapters.
    Deserializing builds the plain model, then attaches empty adapters. Their values
    are loaded with the weights.
    """

    def get_config(self) -> dict[str, Any]:
        with (
            model_lock([self], alone=True),
            without_mixin(self, AdaptedModel),
            trainable_as_at_first(self),  # type: ignore[arg-type]
        ):
            model = keras.saving.serialize_keras_object(self)
        model.pop("compile_config", None)
        return {
            "keras_version": keras.__version__,
            "model": model,
            "adapters": describe_adapters(self),
            "shared": describe_shared(self),
            "holders": describe_holders(self),
            "weights": describe_weights(self),
            "freezing": describe_freezing(self),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        try:
            model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        except (TypeError, ValueError) as error:
            refuse_newer_keras(config.get("keras_version", ""), error)
            raise
        told = config["adapters"], config["shared"], config.get("holders", {})
        restore_adapters(model, *told)
        restore_weights(model, config.get("weights", []))
        for root in models_of(adapted_sites(model)):
            mark_adapted(root)
        restore_freezing(model, config["freezing"])
        return model

    def __reduce__(self) -> Any:
        # Pickle finds a class by its name, under which it finds the class without mixins.
        reduced: Any = super().__reduce__()
        return getattr(class_without_mixins(self), reduced[0].__name__), reduced[1]

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        refuse_keras_lora(self.name)  # type: ignore[attr-defined]


class ModelInUse(LockedModel, ModelFunctions, PromptedModel, AdaptedModel):
    """Mixin of a model with adapters: its lock, compiled functions, prompts and configuration."""


def mark_adapted(model: keras.layers.Layer) -> None:
    """Include the adapters of a model in its configuration."""
    if isinstance(model, keras.Model) and not isinstance(model, AdaptedModel):
        store_of(model)
        mark_stored(model)
        add_mixin(model, ModelInUse, serialized_as=f"{PACKAGE}>AdaptedModel")
        if hasattr(model, "generate_step"):
            object.__setattr__(model, "generate_step", generate_step_with_ids(model))
        if hasattr(model, "call_with_cache"):
            object.__setattr__(model, "call_with_cache", call_with_router(model))
        object.__setattr__(model, "quantize_at_first", model.quantize)
        object.__setattr__(model, "quantize", refuse_to_quantize)


def unmark_adapted(model: keras.layers.Layer) -> None:
    """Undo `mark_adapted`."""
    if isinstance(model, AdaptedModel):
        object.__setattr__(model, "quantize", vars(model).pop("quantize_at_first"))
        vars(model).pop("generate_step", None)
        vars(model).pop("call_with_cache", None)
        remove_mixin(model, AdaptedModel)


def models_of(sites: list[Site]) -> list[keras.Model]:
    """Return the models that hold one of these sites."""
    holders = [layer for site in sites for layer in site.chain]
    return list({id(x): x for x in holders if isinstance(x, keras.Model)}.values())
