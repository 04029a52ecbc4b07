"""Pass data through a model, and report what passes its kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.observation.statistics import statistics_of
from keras_svd_adapters.models.sites.patterns import Targets, names_of
from keras_svd_adapters.models.sites.search import adapted_sites, find_sites
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.reports.observation import COLUMNS, KernelObservation, Observation


@changes_model
def observe(
    model: keras.layers.Layer,
    data: Any,
    what: str | Iterable[str] = "inputs",
    targets: Targets = None,
    exclude: Targets = None,
    verbose: int | str = "auto",
) -> Observation:
    """Pass data through a model once, and report what it finds for each kernel.

    The model computes as it does now, with its active adapters. Sums are in float64 on the host,
    batch by batch. Afterwards, the model is as before.

    Args:
        model: A built Keras model, adapted or not.
        data: Some hundred samples, as `calibrate` of `enable`: inputs, a tuple `(x, y)` or
            `(x, y, sample_weight)`, or a dataset of batches. Rows that a mask names as padding do
            not count in `inputs`, `magnitudes`, `branch_norms` and `expert_load`.
        what: One or several of these.

            - `"inputs"`: mean and second moments of the inputs.
            - `"magnitudes"`: means of `|x|` and `x^2` of the inputs.
            - `"branch_norms"`: mean of `|x (K' - K)|^2`, the squared norm of what the active
              adapter adds to the outputs.
            - `"gradient"`: gradient of the mean loss by the effective kernel, as in `fit`.
            - `"squared_gradients"`: the diagonal of the empirical Fisher information. For each
              sample alone, the gradient of its loss by the effective kernel is squared; the result
              is the mean of these squares. The loss is that of inference, such as without dropout;
              a sample's weight multiplies its loss.
            - `"expert_load"`: how a router, such as that of `HydraLoRA`, spreads the rows over its
              experts.

            The gradients need a compiled model and targets.
        targets: The kernels to select, as in `enable`. `None` selects those with an active
            adapter, or, if there is none, those that `enable` would.
        exclude: The selected kernels to leave out.
        verbose: As in `enable`.

    Returns:
        An `Observation`, a dictionary by the paths of the kernels; print it.

    Raises:
        ValueError: If a pattern matches nothing, data is missing or does not suit, a kernel has
            no inputs or no active adapter that is asked for, or adapters with weights are active.

    Example:

    >>> import keras, numpy as np, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> report = ksa.observe(model, np.ones((4, 8)), "magnitudes", targets="up")
    >>> report["up"].magnitudes.absolute.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    wanted = _names(what)
    if data is None:
        raise ValueError(
            "`data` holds some hundred samples, as in `observe(model, x)`. Received: data=None"
        )
    if {"branch_norms", "expert_load"} & set(wanted):
        require_adapter(model)
    require_values(model, "observe")
    sites = _selected(model, targets, exclude)
    for site in sites:
        if adapters_of(site.layer) and site.layer.adapter_weights() is not None:
            raise ValueError(
                "Adapters with weights compute here, and a pass of data follows one adapter: type "
                "`set_adapter(model, name)` first. Received: "
                f"{', '.join(site.layer.active_adapters)} on `{site.path}`"
            )
    observed = statistics_of(model, dict.fromkeys(wanted, sites), data, verbose, "data")
    kernels = {}
    for name, site in zip(names_of(model, sites, find_sites(model)), sites, strict=True):
        adapter = adapters_of(site.layer).get(getattr(site.layer, "active_adapter", None) or "")
        method = None if adapter is None else adapter.method
        for place, each in zip(site.places, observed[site.key], strict=True):
            kernels[name + place] = KernelObservation(
                site.path + place,
                (site.view.m, site.view.n),
                method,
                **{field: getattr(each, field) for field in COLUMNS},
            )
    return Observation(kernels)


def _names(what: Any) -> list[str]:
    """Return what to observe, without repetitions."""
    listed = [what] if isinstance(what, str) or not isinstance(what, Iterable) else list(what)
    if not listed or any(each not in COLUMNS for each in listed):
        raise ValueError(
            f"`what` is one or several of {', '.join(map(repr, COLUMNS))}. Received: what={what!r}"
        )
    return list(dict.fromkeys(listed))


def _selected(model: keras.layers.Layer, targets: Targets, exclude: Targets) -> list[Site]:
    if targets is None:
        active = [
            site
            for site in adapted_sites(model)
            if site.layer.active_adapters and site.host.has_kernel and not site.is_vector
        ]
        targets = names_of(model, active, find_sites(model)) or None
    return select_sites(model, targets, exclude, tied=True)
