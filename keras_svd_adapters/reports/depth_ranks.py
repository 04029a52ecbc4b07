"""PRILoRA: ranks that grow with the depth of a layer.

    r_l = r_first + (r_last - r_first) l / (L - 1)

Benedek and Wolf 2024, arXiv:2401.11316.
"""

from __future__ import annotations

from dataclasses import fields, replace
from math import floor

import keras

from keras_svd_adapters.methods.hyperparameters import check_positive_integers
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.blocks import numbered
from keras_svd_adapters.models.sites.patterns import Targets, names_of
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.models.sites.selection import select_sites


def rank_by_depth(
    model: keras.layers.Layer,
    first: int,
    last: int,
    method: Method | None = None,
    targets: Targets = None,
    exclude: Targets = None,
    field: str = "rank",
) -> dict[str, Method]:
    """Return methods whose ranks grow linearly from the first block of a model to the last one.

    Ranks are rounded to the nearest integer, halves up. Falling ranks are possible, too. Another
    `field` grows in the same way, such as the number of experts of `MoLA`.

    Args:
        model: A built Keras model with repeated blocks.
        first: Integer, the rank in the first block.
        last: Integer, the rank in the last block.
        method: The method, whose rank is replaced. `None` is `LoRA()`.
        targets: Which kernels to adapt, as in `enable`; each must be inside a block.
        exclude: Which of these kernels to leave out.
        field: Name of the hyperparameter that grows.

    Returns:
        A dictionary of methods by the names of kernels: the `targets` of `enable`.

    Raises:
        ValueError: If a rank is no positive integer, the method has no such `field`, a pattern
            matches nothing, or a kernel is outside of the blocks.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> blocks = [keras.Sequential([keras.layers.Dense(8)], name=f"block_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *blocks])
    >>> [method.rank for method in ksa.rank_by_depth(model, first=2, last=6).values()]
    [2, 4, 6]

    Reference:
        - [Benedek and Wolf, 2024](https://arxiv.org/abs/2401.11316)
        - [Gao et al., 2024 (MoLA)](https://arxiv.org/abs/2402.08562)
    """
    check_positive_integers(first=first, last=last)
    method = LoRA() if method is None else method
    if not isinstance(method, Method) or field not in {f.name for f in fields(method)}:
        raise ValueError(
            f"`method` needs the field `{field}`, which grows with the depth, such as `rank` of "
            f"`LoRA()` or `experts` of `MoLA()`. Received: method={method!r}, field={field!r}"
        )
    sites, every = select_sites(model, targets, exclude), find_sites(model)
    places = numbered(every)
    if outside := [site.path for site in sites if site.key not in places]:
        raise ValueError(
            "Only kernels inside repeated blocks have a depth: leave the others out with "
            f"`exclude`, and give them a method of their own. Received: {', '.join(outside)}"
        )
    names = names_of(model, sites, every)
    return {
        name: replace(method, **{field: _rank(first, last, *places[site.key])})
        for name, site in zip(names, sites, strict=True)
    }


def _rank(first: int, last: int, number: int, count: int) -> int:
    return floor(first + (last - first) * number / max(count - 1, 1) + 0.5)
