"""Begin the next task of an adapter that keeps what it learned."""

from __future__ import annotations

import keras
import numpy as np

from keras_svd_adapters.methods.hyperparameters import check_seed
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.status import Status, status
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.training.schedule import ActiveAdapter, adapter_of


@changes_model
def begin_task(model: keras.layers.Layer, name: str | None = None, seed: int = 0) -> Status:
    """Freeze what an adapter learned, and give it new factors for the next task.

    The model computes the same as before, up to rounding. The adapter keeps the earlier factors bit
    for bit, as frozen arrays in its file. A is drawn again, B is 0, and the optimizer forgets their
    state. With Adam, `compile` again: its first steps after that would be up to three times as long
    as its others.

    Args:
        model: A model with an adapter of `TaskLoRA`, or of another method that can begin again.
        name: Name of the adapter, if there are several.
        seed: Integer, the seed of the new factors.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        ValueError: If the method of a kernel cannot begin again, or has done so as often as it
            can. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.methods.TaskLoRA(rank=2, tasks=3))
    >>> x, y = keras.ops.ones((4, 8)), keras.ops.ones((4, 2))
    >>> for task in range(3):
    ...     if task > 0:
    ...         _ = ksa.begin_task(model)
    ...     model.compile(keras.optimizers.Adam(1e-3), "mse")
    ...     _ = model.fit(x, y, verbose=0)

    Reference:
        - [Wang et al., 2023 (O-LoRA)](https://arxiv.org/abs/2310.14152)
    """
    check_seed(seed)
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"begin_task of {name!r}")
    adapters = [adapter_of(site, name) for site in sites]
    times = [_next_restart(adapter) for adapter in adapters]
    random = np.random.default_rng([seed, *times])
    optimizers = [getattr(each, "optimizer", None) for each in with_models_around(model)]
    optimizers = [each for each in optimizers if each is not None]
    for adapter, time in zip(adapters, times, strict=True):
        adapter.restart(time, random, optimizers)
    return status(model)


def _next_restart(adapter: ActiveAdapter) -> int:
    if (time := adapter.next_restart()) is not None:
        return time
    if not adapter.method.restarts:
        reason = (
            "This method has no place for what it learned before: `enable` a `ksa.methods.TaskLoRA`"
            ", or one adapter for each task."
        )
    else:
        reason = (
            "This adapter has no place left for what it learned: `merge` it and `enable` another "
            "one, or begin with more `tasks`."
        )
    raise ValueError(f"{reason} Received: {adapter.method} on `{adapter.path}`")
