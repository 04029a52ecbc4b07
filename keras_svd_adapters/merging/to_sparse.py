"""Convert an adapter to the few values of each kernel that it changes most."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np

from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.kernel_updates import kernel_updates
from keras_svd_adapters.merging.new_adapters import (
    NewAdapter,
    attach_and_report,
    check_name_is_free,
    other_weights,
    require_kernel,
)
from keras_svd_adapters.methods.hyperparameters import check_share
from keras_svd_adapters.methods.sparse.sparse_delta import SparseDelta
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model

MOST = 0.5  # of the values: more need as much memory as the whole update


@changes_model
def to_sparse(
    model: keras.layers.Layer,
    share: float | None = None,
    name: str | None = None,
    into: str = "sparse",
) -> Approximation:
    """Add a SparseDelta adapter with the largest values of another adapter's updates.

    The new adapter becomes the active one, and goes on training: these values
    alone train and are stored. This is the second pass of diff pruning, after
    `prune`. The weights that `train` named now train and are saved with the new
    adapter. `delete_adapter` removes the old adapter.

    Args:
        model: An adapted model.
        share: Float in (0, 1], the part of the values of each kernel to take.
            `None` takes all that are not 0, at most half: diff pruning after
            `prune` is then converted exactly.
        name: Name of the adapter to convert, if there are several.
        into: Name of the new adapter.

    Returns:
        An `Approximation` with the error for each kernel; print it.

    Raises:
        ValueError: If there is no such adapter, more than half of its values are
            not 0 and there is no share, or the new name is taken. The model
            stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.methods.DiffPruning(share=0.25), targets="all")
    >>> _ = ksa.prune(model)
    >>> ksa.to_sparse(model, share=0.25).error
    0.0
    >>> ksa.delete_adapter(model, "default")
    """
    check_name_is_free(model, into)
    if share is not None:
        check_share(share=share)
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"to_sparse of {name!r}")
    new = [_sparse_of(site, name, share) for site in sites]
    extra = other_weights(model, name)
    return attach_and_report(model, new, into, f"what {name!r} adds", extra)


def _sparse_of(site: Site, name: str, share: float | None) -> NewAdapter:
    require_kernel(site)
    updates = kernel_updates(site, name)
    size = updates[0].size
    count = max(1, *(int(np.count_nonzero(update)) for update in updates))
    if share is None and count > max(1, MOST * size):
        raise ValueError(
            "Most values of this adapter's update are not 0: give `share=`, such as 0.01. "
            f"Received: share=None, {count} of {size} values of `{site.path}`"
        )
    method = SparseDelta(share=count / size if share is None else share)
    each = [_largest(update, method.count(*update.shape)) for update in updates]
    values = site.view.joined(each)
    wanted = partial(kernel_updates, site, name)
    return NewAdapter(site, method, site.form(method), lambda: values, wanted)


def _largest(update: np.ndarray, count: int) -> dict[str, np.ndarray]:
    flat = update.ravel()
    places = np.sort(np.argsort(-np.abs(flat), kind="stable")[:count])
    return {"values": flat[places], "places": places.astype("int32")}
