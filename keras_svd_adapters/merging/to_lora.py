"""Convert an adapter of any method to a LoRA, exactly or nearly."""

from __future__ import annotations

from functools import partial

import keras

from keras_svd_adapters.kernels.low_rank_factors import Factors, check_size, truncate
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.kernel_updates import exact_factors, kernel_updates
from keras_svd_adapters.merging.new_adapters import (
    attach_and_report,
    check_name_is_free,
    lora_of,
    other_weights,
)
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model


@changes_model
def to_lora(
    model: keras.layers.Layer,
    name: str | None = None,
    into: str = "lora",
    rank: int | None = None,
    energy: float | None = None,
) -> Approximation:
    """Add a LoRA adapter that computes the same as another adapter, exactly or nearly.

    PiSSA and MiLoRA of rank r become a LoRA of rank 2 r on the unchanged kernel,
    exactly. LoRA-XS, VeRA and TokenRows become a LoRA of rank r, exactly. Any
    method becomes the nearest LoRA of a given rank, or of the rank that holds a
    given energy. The new adapter becomes the active one. The weights that `train`
    named now train and are saved with the new adapter. `delete_adapter` removes
    the old adapter.

    Args:
        model: An adapted model.
        name: Name of the adapter to convert, if there are several.
        into: Name of the new adapter.
        rank: Rank of the new adapter, if it need not be exact.
        energy: Share of the sum of squares of each kernel's update that the
            LoRA must hold, such as 0.99; instead of `rank`.

    Returns:
        An `Approximation` with the error for each kernel; print it.

    Raises:
        ValueError: If there is no such adapter, its method has no exact LoRA
            and neither `rank` nor `energy` is given, or the new name is taken.
            The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.PiSSA(rank=2))
    >>> ksa.to_lora(model).error < 1e-5
    True
    >>> ksa.delete_adapter(model, "default")
    """
    check_name_is_free(model, into)
    check_size(rank, energy)
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"to_lora of {name!r}")
    new = [
        lora_of(site, _factors(site, name, rank, energy), partial(kernel_updates, site, name))
        for site in sites
    ]
    extra = other_weights(model, name)
    return attach_and_report(model, new, into, f"what {name!r} adds", extra)


def _factors(site: Site, name: str, rank: int | None, energy: float | None) -> list[Factors]:
    if rank is None and energy is None:
        return exact_factors(site, name)
    return [truncate(change, rank, energy) for change in kernel_updates(site, name)]
