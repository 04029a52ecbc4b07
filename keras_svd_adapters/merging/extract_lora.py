"""Extract a LoRA of the difference between two models, one tuned from the other."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np

from keras_svd_adapters.kernels.low_rank_factors import check_size, truncate
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.model_pair import (
    ModelPair,
    difference,
    other_differences,
    pair_models,
)
from keras_svd_adapters.merging.new_adapters import (
    NewAdapter,
    attach_and_report,
    check_name_is_free,
    lora_of,
)
from keras_svd_adapters.models.named_adapters import require_values
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.selection import select_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.runtime.warnings import warn


@changes_model
def extract_lora(
    base: keras.layers.Layer,
    tuned: keras.layers.Layer,
    rank: int | None = None,
    energy: float | None = None,
    into: str = "lora",
    targets: Targets = None,
    exclude: Targets = None,
    tied: bool = False,
) -> Approximation:
    """Add a LoRA that turns a model into another model, which was tuned from it.

    Each kernel gets the LoRA nearest to the difference between the two models. A
    kernel that is the same in both models gets none. A LoRA cannot hold the
    differences of biases, norms and other weights: a warning names these weights.

    Args:
        base: A built model. It keeps its weights; the LoRA becomes its active
            adapter.
        tuned: The same model after training; it is only read. If it has an
            active adapter, its kernels include the adapter's update.
        rank: Rank of the LoRA.
        energy: Share of the sum of squares of each kernel's difference that the
            LoRA must hold, such as 0.99; instead of `rank`.
        into: Name of the new adapter.
        targets: The kernels to select, as in `enable`.
        exclude: The selected kernels to leave out.
        tied: As in `enable`.

    Returns:
        An `Approximation` with the relative error of the LoRA for each kernel;
        print it.

    Raises:
        ValueError: If the models have different kernels, none of the selected
            kernels differs, neither `rank` nor `energy` is given, or the name is
            taken. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> tuned = keras.models.clone_model(base)  # its first kernel is another one
    >>> tuned.layers[1].set_weights(base.layers[1].get_weights())
    >>> ksa.extract_lora(base, tuned, rank=6).error < 1e-5
    True
    """
    check_name_is_free(base, into)
    _check_size(rank, energy)
    twins = pair_models(base, tuned)
    require_values(tuned, f"extract_lora of {tuned!r}")
    sites = select_sites(base, targets, exclude, tied=tied)
    differing = [site for site in sites if any(map(np.any, difference(site, twins)))]
    others = list(other_differences(base, tuned, twins, {site.key for site in sites}))
    _tell(bool(differing), others, f"Received: targets={targets!r}, exclude={exclude!r}")
    new = [_lora(site, twins, rank, energy) for site in differing]
    return attach_and_report(base, new, into, "the difference of the models")


def _check_size(rank: int | None, energy: float | None) -> None:
    check_size(rank, energy)
    if rank is None and energy is None:
        raise ValueError(
            "Give `rank=`, such as 16, or `energy=`, such as 0.99, for a LoRA that holds this "
            f"share of each difference. Received: rank={rank!r}, energy={energy!r}"
        )


def _tell(any_differs: bool, others: list[str], asked: str) -> None:
    """Raise if there is nothing to extract; warn about weights that are not extracted."""
    shown = ", ".join(f"`{path}`" for path in others[:3]) + ", ..." * (len(others) > 3)
    rest = f"{len(others)} other weights differ: {shown}." if others else "So are all others."
    if not any_differs:
        raise ValueError(
            f"The targeted kernels are the same in both models. {rest} Name kernels that differ "
            f"in `targets`, or pass the model after its training. {asked}"
        )
    if others:
        warn(
            f"The LoRA does not hold every difference. {rest} Name the kernels among them in "
            "`targets`. Copy biases, norms and other weights from the tuned model with `assign`, "
            f"or do without them. {asked}"
        )


def _lora(site: Site, twins: ModelPair, rank: int | None, energy: float | None) -> NewAdapter:
    factors = [truncate(change, rank, energy) for change in difference(site, twins)]
    return lora_of(site, factors, partial(difference, site, twins))
