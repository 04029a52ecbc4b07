"""Mixin for models with NF4 kernels, so that the whole model saves and loads.

The configuration of such a model holds that of the float model, and the layers whose kernels are
stored otherwise. Loading builds the float model and replaces these kernels before it reads values.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_svd_adapters.adapters.class_mixing import (
    add_mixin,
    class_without_mixins,
    remove_mixin,
    without_mixin,
)
from keras_svd_adapters.adapters.storages.nf4 import NF4Config, store_values
from keras_svd_adapters.kernels.quantized import kernel_storage_of
from keras_svd_adapters.runtime.keras_private.layers import all_layers
from keras_svd_adapters.runtime.layer_attributes import walk
from keras_svd_adapters.runtime.live_models import models_containing

PACKAGE = "keras_svd_adapters"


@keras.saving.register_keras_serializable(PACKAGE, "ModelWithStoredKernels")
class ModelWithStoredKernels:
    """Mixin that puts the storage of kernels into the configuration of a model."""

    def get_config(self) -> dict[str, Any]:
        with without_mixin(self, ModelWithStoredKernels):
            model = keras.saving.serialize_keras_object(self)
        model.pop("compile_config", None)
        return {"model": model, "kernels": describe_kernels(self)}  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        restore_kernels(model, config["kernels"])
        mark_stored(model)
        return model

    def __reduce__(self) -> Any:
        # Pickle finds a class by its name, under which it finds the class without mixins.
        reduced: Any = super().__reduce__()
        return getattr(class_without_mixins(self), reduced[0].__name__), reduced[1]


def describe_kernels(model: keras.layers.Layer) -> dict[str, dict[str, Any]]:
    """Return the configuration of each stored kernel, by the path of its layer in files."""
    stored = ((key, kernel_storage_of(chain[-1])) for key, chain in walk(model))
    return {key: storage.get_config() for key, storage in stored if storage is not None}


def restore_kernels(model: keras.layers.Layer, storages: dict[str, dict[str, Any]]) -> None:
    """Give the layers that `describe_kernels` recorded their storage, without values yet."""
    for key, chain in list(walk(model)):
        if key in storages and kernel_storage_of(chain[-1]) is None:
            store_values(chain[-1], None, NF4Config(**storages[key]))


def mark_stored(model: keras.layers.Layer) -> None:
    """Include the storage of kernels in the configuration of a model that has such kernels."""
    if not isinstance(model, keras.Model) or isinstance(model, ModelWithStoredKernels):
        return
    if has_stored_kernels(model):
        add_mixin(model, ModelWithStoredKernels, f"{PACKAGE}>ModelWithStoredKernels")


def unmark_stored(model: keras.Model) -> None:
    """Undo `mark_stored` for a model that has no such kernel any more."""
    if isinstance(model, ModelWithStoredKernels) and not has_stored_kernels(model):
        remove_mixin(model, ModelWithStoredKernels)


def has_stored_kernels(model: keras.layers.Layer) -> bool:
    """Return whether a model has kernels that this package stores, such as NF4."""
    return any(kernel_storage_of(layer) is not None for layer in all_layers(model))


def mark_around(model: keras.layers.Layer) -> None:
    """Call `mark_stored` for a model and for the models that share layers with it."""
    for around in models_containing(all_layers(model)):
        mark_stored(around)
