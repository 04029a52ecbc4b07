"""Turn off the smallest parts of an adapter."""

from __future__ import annotations

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.named_adapters import only_adapter, require_adapter, require_values
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.status import Status, status


@changes_model
def prune(model: keras.layers.Layer, share: float | None = None, name: str | None = None) -> Status:
    """Leave a share of what an adapter learned in each kernel, and turn off the rest.

    What is off gets no gradient, so it stays off if you go on training, and
    another `prune` leaves it off. Gated
    methods leave the ranks of the largest norm, DyLoRA the first ranks, and diff
    pruning the largest differences. At least one of them is left in each kernel.

    Args:
        model: An adapted model.
        share: Float in (0, 1], the share of ranks or values to leave. `None` is
            the rule of the method, if it has one, as AutoLoRA and diff pruning.
        name: Name of the adapter, if there are several.

    Returns:
        A `Status` of the adapted model; print it.

    Raises:
        ValueError: If the method of a kernel has nothing to turn off, or has no
            rule and there is no share. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.methods.DyLoRA(rank=4))
    >>> _ = ksa.prune(model, share=1 / 2)
    >>> model.layers[0].adapter_default.mask.numpy().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    if share is not None and not (isinstance(share, int | float) and 0 < share <= 1):
        raise ValueError(
            f"`share` is the part to leave, above 0 and at most 1. Received: share={share!r}"
        )
    name = name or only_adapter(model)
    sites = require_adapter(model, name)
    require_values(model, f"prune of {name!r}")
    found = []
    for site in sites:
        adapter = adapters_of(site.layer)[name]
        values = adapter.numpy_values()
        masks = [adapter.method.pruned(v, share) for v in values]
        if not all(masks):
            asked = f"Received: share={share!r}, {adapter.method} on `{site.path}`"
            if share is None and adapter.method.pruned(values[0], 1.0):
                raise ValueError(f"This method has no rule of its own: give `share=`. {asked}")
            raise ValueError(
                "This method has no ranks or values to turn off. Leave its layers without an "
                f"adapter of this name, or convert it by `to_lora` with a smaller `rank=`. {asked}"
            )
        for v, own in zip(values, masks, strict=True):  # what is off stays off
            own |= {array: kept * getattr(v, array) for array, kept in own.items()}
        found.append((adapter, site.view.joined(masks)))
    for adapter, arrays in found:
        for array, mask in arrays.items():
            adapter.arrays[array].assign(mask)
    return status(model)
