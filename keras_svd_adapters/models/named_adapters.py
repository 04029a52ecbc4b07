"""Look up adapters of a model by name, or explain why there is none."""

from __future__ import annotations

import difflib

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.pooled.slot_arrays import slots_of
from keras_svd_adapters.models.sites.search import adapted_sites, adapter_names
from keras_svd_adapters.models.sites.site import Site


def require_adapter(
    model: keras.layers.Layer, name: str | None = None, to_delete: bool = False
) -> list[Site]:
    """Return the sites with an adapter of this name; raise an error if there are none.

    Unless `to_delete`, it also raises an error for an adapter whose kernels a merge has changed,
    and for the slots of a pool.
    """
    sites = adapted_sites(model, name)
    if not sites:
        names = sorted(adapter_names(adapted_sites(model)))
        if not names:
            merged = vars(model).get("merge_record") is not None
            first = "it was merged, and `unmerge` undoes that" if merged else "`enable` one first"
            raise ValueError(f"The model has no adapter: {first}. Received: {model!r}")
        near = difflib.get_close_matches(str(name), names, n=1)
        known = f"It has {', '.join(map(repr, names))}."
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"The model has no such adapter. {known}{hint} Received: name={name!r}")
    if name is None or to_delete:
        return sites
    if any(site.layer.is_merged for site in sites):
        raise ValueError(
            "Another adapter is merged into the kernels of this one, which was trained on the "
            "kernels without it: call `unmerge(model)` first, on the model that was merged. "
            f"Received: name={name!r}"
        )
    if name not in attached_names(sites):
        raise ValueError(
            "This is the name of the slots of a pool. For its adapters, give names of `pool.names` "
            "to `predict` or `generate`; elsewhere, name an adapter that is attached to the model. "
            f"Received: name={name!r}"
        )
    return sites


def attached_names(sites: list[Site]) -> list[str]:
    """Return the names of the adapters of sites, without the slots of a pool."""
    carried = [item for site in sites for item in adapters_of(site.layer).items()]
    slots = {name for name, adapter in carried if slots_of(adapter) is not None}
    return [name for name in adapter_names(sites) if name not in slots]


def require_values(model: keras.layers.Layer, what: str) -> None:
    """Raise an error if an adapter has no values yet."""
    for site in adapted_sites(model):
        if not all(adapter.filled for adapter in adapters_of(site.layer).values()):
            raise ValueError(
                f"The adapter on `{site.path}` was rebuilt from a configuration and holds no "
                "values yet. Load the model's weights first, or take a model that is not adapted. "
                f"Received: {what}"
            )


def only_adapter(model: keras.layers.Layer) -> str:
    """Return the name of a model's only adapter; raise an error if there are several."""
    names = sorted(attached_names(require_adapter(model)))
    if not names:
        raise ValueError(
            "The model has a pool and no other adapter: `enable` or `load_adapter` one first. "
            f"Received: {model!r}"
        )
    if len(names) > 1:
        raise ValueError(
            "The model has several adapters: say which with `name=`. "
            f"Received: adapters {names}, name=None"
        )
    return names[0]
