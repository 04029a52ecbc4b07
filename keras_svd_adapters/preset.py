"""KerasHub presets of adapted models: the plain model's own preset, with the adapters beside it.

Whoever has KerasHub alone reads the base model; with this package, `from_preset` brings the
adapters back. An index, `adapters.json`, names them; `adapters/<name>.keras` hold them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import keras

from keras_svd_adapters.adapter_file import save_adapter
from keras_svd_adapters.adapter_loader import load_adapter
from keras_svd_adapters.archive import AdapterFileError
from keras_svd_adapters.class_mixing import ungrafted
from keras_svd_adapters.enable import check_name
from keras_svd_adapters.frozen_variables import is_pinned
from keras_svd_adapters.host import activate, adapters_of, carry_again, detach
from keras_svd_adapters.keras_traversal import all_layers
from keras_svd_adapters.root import AdaptedModel
from keras_svd_adapters.site import adapted_sites, adapter_names
from keras_svd_adapters.switching import finish, require_values, settle
from keras_svd_adapters.training import trainable_as_at_first
from keras_svd_adapters.warning import warn
from keras_svd_adapters.weights import own_weights, trained_with

INDEX, FOLDER, FORMAT_VERSION = "adapters.json", "adapters", 1

_saving: ContextVar[bool] = ContextVar("saving", default=False)


def keep_adapters_in_presets(cls: Any) -> None:
    """Wraps `save_to_preset` and `from_preset` of KerasHub's `Backbone` or `Task`."""
    save, load = cls.save_to_preset, cls.from_preset.__func__

    @wraps(save)
    def save_to_preset(
        self: Any, preset_dir: Any, *args: Any, include_basis: bool = False, **kwargs: Any
    ) -> None:
        if _saving.get():  # a task saves its backbone
            return save(self, preset_dir, *args, **kwargs)
        token = _saving.set(True)
        try:
            with adapters_beside(self, Path(preset_dir), include_basis), plain(self):
                save(self, preset_dir, *args, **kwargs)
        finally:
            _saving.reset(token)

    @wraps(load)
    def from_preset(cls: Any, preset: Any, load_weights: bool = True, **kwargs: Any) -> Any:
        plain = next(c for c in cls.__mro__ if not issubclass(c, AdaptedModel))
        model = load(plain, preset, load_weights, **kwargs)
        if load_weights:
            load_adapters(model, preset, strict="num_classes" not in kwargs)
        return model

    cls.save_to_preset = save_to_preset
    cls.from_preset = classmethod(from_preset)


@contextmanager
def plain(model: Any) -> Iterator[None]:
    """Within, a model and its parts have no adapters and are of their own classes."""
    carried = [
        (site.layer, adapters_of(site.layer), site.layer.active_adapter)
        for site in adapted_sites(model)
    ]
    with ExitStack() as stack:
        stack.enter_context(trainable_as_at_first(model))
        for root in [layer for layer in all_layers(model) if isinstance(layer, AdaptedModel)]:
            stack.enter_context(ungrafted(root, AdaptedModel))
        try:
            for layer, adapters, _ in carried:
                for name in adapters:
                    detach(layer, name)
            yield
        finally:
            for layer, adapters, active in carried:
                carry_again(layer, adapters, active)


@contextmanager
def adapters_beside(model: Any, folder: Path, include_basis: bool = False) -> Iterator[None]:
    """Around the saving of the plain preset, saves the adapters of a model beside it.

    The index comes first and its files last, so that what stops it midway is noticed on loading.
    """
    require_values(model, f"to save the preset {str(folder)!r}")
    forget_adapters(folder)
    holders = {name: _holder(model, name) for name in adapter_names(adapted_sites(model))}
    if holders:
        index = {name: _describe(*holder, name) for name, holder in holders.items()}
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        told = {"format_version": FORMAT_VERSION, "adapters": index}
        (folder / INDEX).write_text(json.dumps(told, indent=4))
    yield
    for name, (holder, _) in holders.items():
        save_adapter(holder, folder / FOLDER / f"{name}.keras", name, include_basis)


def forget_adapters(folder: Path) -> None:
    """Takes out of a preset the adapters of the model that was saved there before."""
    if (folder / INDEX).exists():
        for old in (folder / FOLDER).glob("*.keras"):
            old.unlink()
        (folder / INDEX).unlink()


def _describe(holder: keras.layers.Layer, kind: str, name: str) -> dict[str, Any]:
    sites = adapted_sites(holder, name)
    return {"of": kind, "active": [s.key for s in sites if s.layer.active_adapter == name]}


def _holder(model: Any, name: str) -> tuple[keras.layers.Layer, str]:
    """The smallest part that holds all that an adapter trains: the backbone, or the task."""
    backbone = getattr(model, "backbone", model)
    inside = {id(layer) for layer in all_layers(backbone)}
    outside = weights_outside(model, backbone)
    chosen = [w for w in outside if is_pinned(w) or trained_with(w) == name]
    if not chosen and all(id(site.layer) in inside for site in adapted_sites(model, name)):
        return backbone, "backbone"
    return model, type(model).__name__


def weights_outside(model: Any, backbone: Any) -> list[keras.Variable]:
    """The weights of a task that are not its backbone's."""
    inside = {id(weight) for weight in backbone.weights}
    return [weight for _, _, weight in own_weights(model) if id(weight) not in inside]


def load_adapters(model: Any, preset: Any, strict: bool = True) -> None:
    """Attaches the adapters of a preset to the model that was made from it.

    Args:
        model: A backbone or a task with the weights of the preset.
        preset: The preset's directory or address.
        strict: As in `load_adapter`.
    """
    find = _finder(preset)
    index = _read_index(find(INDEX), preset)
    holders = {
        name: holder
        for name, told in index.items()
        if (holder := _find_holder(model, told["of"], name, preset)) is not None
    }
    for name, holder in holders.items():
        load_adapter(holder, _require(find(f"{FOLDER}/{name}.keras"), name, preset), name, strict)
        if not strict and holder is model:  # what is new must train
            finish(model, name, weights_outside(model, model.backbone))
    switched = {}
    for name, holder in holders.items():
        for site in adapted_sites(holder, name):
            is_active, was = site.key in index[name]["active"], site.layer.active_adapter == name
            if is_active != was:
                activate(site.layer, name if is_active else None)
                switched[id(holder)] = holder
    for holder in switched.values():
        settle(holder)


def _find_holder(model: Any, kind: str, name: str, preset: Any) -> Any:
    """The part of a model that an adapter of the preset belongs to; `None` if it lacks it."""
    if kind == "backbone":
        return getattr(model, "backbone", model)
    if kind == type(model).__name__:
        return model
    warn(
        f"The preset's adapter {name!r} belongs to a {kind} as a whole and was left out: this is "
        f"its base. `{kind}.from_preset` loads it. "
        f"Received: {type(model).__name__}.from_preset({str(preset)!r})"
    )
    return None


def _read_index(path: str | None, preset: Any) -> dict[str, Any]:
    """The adapters that a preset tells of, by name."""
    if path is None:
        return {}
    try:
        index = json.loads(Path(path).read_text())
        if (version := index["format_version"]) != FORMAT_VERSION:
            raise AdapterFileError(
                f"`{INDEX}` of the preset has the format version {version!r}, and this package "
                f"reads {FORMAT_VERSION}: upgrade keras_svd_adapters. Received: {str(preset)!r}"
            )
        adapters = index["adapters"]
        for name, told in adapters.items():
            check_name(name)
            told["of"], list(told["active"])
    except AdapterFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterFileError(
            f"`{INDEX}` of the preset is not well formed: {error}. Save the model again with "
            f"`save_to_preset`, or take the file out. Received: {str(preset)!r}"
        ) from None
    return dict(adapters)


def _require(path: str | None, name: str, preset: Any) -> str:
    if path is None:
        raise AdapterFileError(
            f"`{INDEX}` of the preset names the adapter {name!r}, and `{FOLDER}/{name}.keras` is "
            f"not there. Received: {str(preset)!r}"
        )
    return path


def _finder(preset: Any) -> Callable[[str], str | None]:
    """Finds files of a preset: in its directory, or on the hub of its address.

    Names without a scheme are KerasHub's own presets, which hold plain models.
    """

    def in_directory(name: str) -> str | None:
        path = os.path.join(preset, name)
        return path if os.path.exists(path) else None

    def on_hub(name: str) -> str | None:
        from keras_hub.src.utils.preset_utils import get_file

        try:
            return str(get_file(preset, name))
        except FileNotFoundError:
            return None

    if os.path.isdir(preset):
        return in_directory
    return on_hub if "://" in str(preset) else lambda name: None
