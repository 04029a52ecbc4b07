"""KerasHub integration: backbone methods, presets that keep adapters, advice to merge."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from keras_svd_adapters.adapters.layers.embedding import AdaptedEmbedding
from keras_svd_adapters.files.load import load_adapter
from keras_svd_adapters.files.peft.exporting import export_peft
from keras_svd_adapters.files.peft.importing import import_peft
from keras_svd_adapters.files.presets.hooks import keep_adapters_in_presets
from keras_svd_adapters.files.save import save_adapter
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.merge import merge, unmerge
from keras_svd_adapters.merging.merge_report import MergeReport
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.enable import enable
from keras_svd_adapters.models.state.generation import advise_merging, computes_adapters
from keras_svd_adapters.models.status import Status
from keras_svd_adapters.models.switching import set_adapter


def enable_adapter(
    self: Any,
    method: Method,
    targets: Any = None,
    exclude: Any = None,
    train: Any = None,
    name: str = "default",
    bias: str = "none",
    verbose: int | str = "auto",
    **how: Any,
) -> Status:
    """Adapt the backbone with a method; see `keras_svd_adapters.enable`."""
    return enable(self, method, targets, exclude, train, name, bias, verbose, **how)


def save_backbone_adapter(
    self: Any,
    filepath: str | os.PathLike[str],
    name: str | None = None,
    include_basis: bool = False,
) -> None:
    """Save the values of an adapter; see `keras_svd_adapters.save_adapter`."""
    save_adapter(self, filepath, name, include_basis)


def load_backbone_adapter(
    self: Any,
    filepath: str | os.PathLike[str],
    name: str = "default",
    strict: bool = True,
    verbose: int | str = "auto",
    **how: Any,
) -> Status:
    """Load an adapter onto the backbone; see `keras_svd_adapters.load_adapter`."""
    return load_adapter(self, filepath, name, strict, verbose, **how)


def set_backbone_adapter(self: Any, name: Any, train: str | list[str] | None = None) -> None:
    """Switch to another adapter, or to several; see `keras_svd_adapters.set_adapter`."""
    set_adapter(self, name, train)


def merge_adapter(
    self: Any, tolerance: float | None = None, probe: Any = None, **how: Any
) -> MergeReport:
    """Merge the active adapter into the kernels; see `keras_svd_adapters.merge`."""
    return merge(self, tolerance, probe, **how)


def unmerge_adapter(self: Any) -> None:
    """Undo `merge_adapter`; see `keras_svd_adapters.unmerge`."""
    unmerge(self)


def export_backbone(self: Any, directory: str | os.PathLike[str], **how: Any) -> Approximation:
    """Write an adapter for HF PEFT; see `keras_svd_adapters.export_peft`."""
    return export_peft(self, directory, **how)


def import_backbone(
    self: Any, directory: str | os.PathLike[str], name: str = "default", **how: Any
) -> Status:
    """Add an adapter of HF PEFT; see `keras_svd_adapters.import_peft`."""
    return import_peft(self, directory, name, **how)


VERBS = tuple(signature(enable).parameters)[2:]


def enable_method(method: type[Method]) -> Any:
    """Return a backbone method such as `backbone.enable_svft(pattern="banded", d=2)`."""

    @wraps(method.__init__, assigned=())
    def enable_it(self: Any, *args: Any, **kwargs: Any) -> Status:
        how = {name: kwargs.pop(name) for name in VERBS if name in kwargs}
        return enable(self, method(*args, **kwargs), **how)

    enable_it.__name__ = f"enable_{method.name}"
    enable_it.__doc__ = (
        f"Adapts the backbone with `{method.__name__}`. Takes its arguments, and "
        f"{', '.join(f'`{verb}`' for verb in VERBS)} as `keras_svd_adapters.enable` does.\n\n"
        f"{method.__doc__}"
    )
    return enable_it


def add_backbone_methods(backbone: type) -> None:
    """Add this package's methods to the backbone class; `enable_lora` stays KerasHub's own."""
    backbone.enable_adapter = enable_adapter  # type: ignore[attr-defined]
    backbone.save_adapter = save_backbone_adapter  # type: ignore[attr-defined]
    backbone.load_adapter = load_backbone_adapter  # type: ignore[attr-defined]
    backbone.set_adapter = set_backbone_adapter  # type: ignore[attr-defined]
    backbone.merge_adapter = merge_adapter  # type: ignore[attr-defined]
    backbone.unmerge_adapter = unmerge_adapter  # type: ignore[attr-defined]
    backbone.export_peft = export_backbone  # type: ignore[attr-defined]
    backbone.import_peft = import_backbone  # type: ignore[attr-defined]
    for name, method in Method.registry.items():
        if not hasattr(backbone, f"enable_{name}"):
            setattr(backbone, f"enable_{name}", enable_method(method))


def refuse_to_export_unmerged(cls: Any) -> None:
    """Make `export_to_transformers` raise an error while a model computes adapters.

    Each model family exports in its own way: some read kernels, some read weights.
    """
    original = cls.export_to_transformers

    @wraps(original)
    def export_to_transformers(self: Any, *args: Any, **kwargs: Any) -> Any:
        if computes_adapters(self):
            raise ValueError(
                "Some families would export the kernels without the adapter: call "
                "`keras_svd_adapters.merge(model)` first, and `unmerge` after it, or write only "
                f"the adapter with `export_peft`. Received: an adapted {type(self).__name__}"
            )
        return original(self, *args, **kwargs)

    cls.export_to_transformers = export_to_transformers


def join_backbone(module: Any) -> None:
    add_backbone_methods(module.Backbone)
    refuse_to_export_unmerged(module.Backbone)
    keep_adapters_in_presets(module.Backbone)


def join_task(module: Any) -> None:
    keep_adapters_in_presets(module.Task)


def join_causal_lm(module: Any) -> None:
    advise_merging(module.CausalLM)
    refuse_to_export_unmerged(module.CausalLM)


def join_embedding(module: Any) -> None:
    AdaptedEmbedding.adapts = (*AdaptedEmbedding.adapts, module.ReversibleEmbedding)


JOINED = {
    "keras_hub.src.layers.modeling.reversible_embedding": join_embedding,
    "keras_hub.src.models.backbone": join_backbone,
    "keras_hub.src.models.task": join_task,
    "keras_hub.src.models.causal_lm": join_causal_lm,
}


class _WhenImported(importlib.abc.MetaPathFinder):
    """Import hook that waits for a KerasHub module and extends it on its import."""

    def __init__(self, name: str, join: Callable[[Any], None]):
        self.name, self.join = name, join

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            original = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                original(module)
                self.join(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install_backbone_methods() -> None:
    """Extend KerasHub's backbones and tasks: now if they are imported, else on their import."""
    for name, join in JOINED.items():
        if name in sys.modules:
            join(sys.modules[name])
        else:
            sys.meta_path.insert(0, _WhenImported(name, join))
