"""Arrays of an adapter that follow the kernel, after a file of base weights was loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.statistics import Statistics
from keras_svd_adapters.runtime.host_values import to_float_array


def refit_to_kernel(adapter: Any) -> None:
    """Recompute the factors of an `Adapter` from the current kernel."""
    has_factors = adapter.method.needs_svd and "s" in adapter.arrays
    if not has_factors and type(adapter.method).follow is Method.follow:
        return
    kernel = to_float_array(adapter.float32_kernel())
    found = [
        _following(adapter, K, v, has_factors)
        for K, v in zip(adapter.view.split(kernel), adapter.numpy_values(), strict=True)
    ]
    for name, value in adapter.view.joined(found).items():
        adapter.arrays[name].assign(value)


def _following(
    adapter: Any, K: np.ndarray, v: SimpleNamespace, has_factors: bool
) -> dict[str, Any]:
    method = adapter.method
    values = method.follow(K, v)
    if has_factors:
        found = method.first_values(
            K, adapter.form, np.random.default_rng(), decompose(K), Statistics()
        )
        values |= {name: found[name] for name in ("U", "s", "Vt") if name in adapter.arrays}
    return values
