"""Kernel updates of an adapter."""

from __future__ import annotations

import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_value
from keras_svd_adapters.adapters.refusals import refuse_without_delta
from keras_svd_adapters.kernels.low_rank_factors import Factors, shrink
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.host_values import to_float_array


def kernel_updates(site: Site, name: str) -> list[np.ndarray]:
    """Return the update of each matrix of a kernel; raise if an update is not finite."""
    delta = to_float_array(adapters_of(site.layer)[name].delta(base_kernel_value(site.layer)))
    if not np.isfinite(delta).all():
        raise ValueError(
            f"An adapter has NaN or infinite values and cannot be converted. Received: {name!r} "
            f"on `{site.path}`"
        )
    return site.view.split(site.view.to_matrix(delta).astype("float64"))


def exact_factors(site: Site, name: str) -> list[Factors]:
    """Return `A` and `B` whose product is exactly the update, for each matrix of a kernel."""
    adapter = adapters_of(site.layer)[name]
    if adapter.method.depends_on_input:
        refuse_without_delta(adapter.method)
    found = [adapter.method.low_rank(values, site.view.m) for values in adapter.numpy_values()]
    factors = [shrink(*pair) for pair in found if pair is not None]
    if not factors:
        known = Method.registry.values()
        exact = sorted(m.__name__ for m in known if m.low_rank is not Method.low_rank)
        raise ValueError(
            f"{adapter.method} has no exact LoRA; {', '.join(exact)} have one. Give `rank=` or "
            "`energy=0.99` for the nearest one (to `combine`, with `how='svd'`), or `merge` it. "
            f"Received: name={name!r}, on `{site.path}`"
        )
    return factors
