"""Several adapters of a model made into one."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.combining.combine_request import CombineRequest
from keras_svd_adapters.merging.combining.kernel_combination import KernelCombination
from keras_svd_adapters.merging.new_adapters import attach_and_report, check_name_is_free
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime.live_models import cached_model_search


@cached_model_search()
def combine(
    model: keras.layers.Layer,
    weights: Mapping[str, float],
    into: str,
    how: str = "exact",
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    seed: int | None = None,
) -> Approximation:
    """Adds an adapter that does what several others do together, each with a weight.

    The change that it makes to a kernel is the weighted sum of theirs; a weight
    may be negative. Weights of the model that trained besides (`train=`) change
    in place and are not combined.

    Args:
        model: A model with adapters.
        weights: The weight of each adapter, by name, such as
            `{"a": 0.7, "b": 0.3}`.
        into: Name of the new adapter, which becomes the active one.
        how: `"exact"` for `"linear"` on each kernel where that can be, else
            `"cat"`. `"linear"` for exact sums between the same singular
            vectors: SVF, SVFT of any patterns (in a stack, of equal ones),
            LoRA-XS of one rank and scale, TokenRows. `"cat"` for exact sums of
            LoRA, PiSSA, MiLoRA, LoRA-XS, VeRA and TokenRows, as a LoRA whose
            rank is the sum of the ranks. `"svd"` for any methods, as the nearest
            LoRA. `"ties"` and `"dare"` keep a part of each change before they
            sum, where `"linear"` would do of the trained values, else of the
            changes of the kernels, as the nearest LoRA.
        rank: Rank of a nearest LoRA, of `"svd"`, `"ties"` and `"dare"`. `None`,
            without `energy`, for the largest rank of the adapters.
        energy: Share of the sum of squares that it must hold, instead of `rank`.
        density: Share of the entries that `"ties"` and `"dare"` keep, 0.2 if
            it is `None`.
        seed: Of the entries that `"dare"` keeps, 0 if it is `None`.

    Returns:
        An `Approximation`, which tells how far each kernel's change is from the
        sum that was asked for; print it. Of `"ties"` and `"dare"` it tells how
        far a nearest LoRA is from their blend, which is not the weighted sum;
        the error is 0 where they blend trained values.

    Raises:
        ValueError: If an adapter is unknown, the name is taken, an argument has
            no part in this `how`, the methods do not suit it, their singular
            vectors differ, or values are not finite. The model is left as it
            was.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> for name in ("a", "b"):
    ...     _ = ksa.enable(model, ksa.SVF(), name=name)
    >>> ksa.combine(model, {"a": 0.7, "b": 0.3}, into="both").error
    0.0
    """
    recipe = CombineRequest(weights, how, rank, energy, density, seed)
    for name in weights:
        require_adapter(model, name)
    check_name_is_free(model, into)
    require_values(model, f"combine({dict(weights)})")
    sites = [s for s in adapted_sites(model) if weights.keys() & adapters_of(s.layer).keys()]
    new = [KernelCombination(site, place, recipe).new_adapter() for place, site in enumerate(sites)]
    recipe.check_used(any(isinstance(each.method, LoRA) for each in new))
    return attach_and_report(model, new, into, recipe.goal)
