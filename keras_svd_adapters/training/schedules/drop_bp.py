"""The schedule that drops the backward pass of random branches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.layers.dense import AdaptedProjection
from keras_svd_adapters.models.sites.patterns import matches
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.backward_gates import add_backward_gates
from keras_svd_adapters.training.rule import numbers_by_pattern
from keras_svd_adapters.training.schedule import Schedule
from keras_svd_adapters.training.schedules.drop_rates import (
    HIGHEST,
    allocated_rates,
    sensitivities,
)

SHOWN = 6


@keras.saving.register_keras_serializable("keras_svd_adapters")
class DropBP(Schedule):
    """Schedule that drops the backward pass of random branches in each step.

    A branch is what a residual connection skips, such as the attention or the FFN of a block. The
    outputs stay as they are, bit for bit. The gradient of the outputs of a dropped branch is 0, so
    its arrays get none, and the layers below get theirs through the residual connection alone.

    All branches are dropped at the same rate, or from step `at` on at rates that follow from their
    sensitivities: a branch whose drop changes the gradients of a batch little is dropped often.
    Each step drops at least the part `rate` of the branches.

    A step takes as long as one without a drop: whether a branch is dropped is a variable, and XLA
    and PyTorch compute the gradients that are then 0. This shows what DropBP learns, not what it
    saves. A momentum or a weight decay moves the arrays of a dropped branch on.

    Args:
        rate: Float in [0, 0.9], the part of the cost of all branches that is dropped on average.
        branches: Patterns for the last projection of each branch, as in `targets` of `enable`,
            such as `["*attention_output", "*output_dense"]`. Each must carry an active adapter.
            A dictionary gives branches their costs: for a width `h` and a sequence length `s`,
            attention has `8 h^2 + 4 h s`, and an FFN of four times the width `16 h^2`.
        data: A batch `(x, y)` or `(x, y, sample_weight)` for the sensitivities, or `None` for the
            same rate for all branches. The configuration of the schedule does not hold it.
        at: Integer, the step at which they are measured; the paper does so after a tenth of the
            training. The rates are saved with the model.
        seed: Integer, the seed of the choice.

    Raises:
        ValueError: If an argument is wrong, or, before the first step, if a pattern matches no
            projection with an active adapter, or training ends before `at`.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> inputs = x = keras.Input((8,))
    >>> for i in range(4):
    ...     hidden = keras.layers.Dense(16, activation="relu", name=f"up_{i}")(x)
    ...     x = x + keras.layers.Dense(8, name=f"down_{i}")(hidden)
    >>> model = keras.Model(inputs, x)
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2), targets="*")
    >>> model.compile(keras.optimizers.Adam(3e-3), "mse")
    >>> x, y = keras.ops.ones((32, 8)), keras.ops.zeros((32, 8))
    >>> schedule = ksa.DropBP(0.5, branches="down_*", data=(x[:4], y[:4]), at=2)
    >>> _ = model.fit(x, y, batch_size=4, verbose=0, callbacks=[schedule])

    Reference:
        - [Woo et al., 2024](https://arxiv.org/abs/2402.17812)
    """

    def __init__(
        self,
        rate: float,
        branches: str | Iterable[str] | Mapping[str, float],
        data: Any = None,
        at: int | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not is_number or not 0 <= 10 * rate <= HIGHEST:
            raise ValueError(f"`rate` must be a number in [0, 0.9]. Received: rate={rate!r}")
        if (data is None) != (at is None) or (at is not None and (type(at) is not int or at < 0)):
            raise ValueError(
                "`data` is a batch to measure sensitivities with, and `at` the step at which to do "
                f"so, an integer from 0: give both or none. Received: at={at!r}"
                + ", without data"
                * (data is None)
            )
        if isinstance(branches, str | list | tuple):
            listed = [branches] if isinstance(branches, str) else branches
            branches = dict.fromkeys(listed, 1.0)
        costs = numbers_by_pattern("branches", branches, "{'*attention_output': 1.0}")
        self.rate, self.branches, self.data, self.at = rate, costs, data, at
        self._chosen: list[tuple[Any, Any, float]] = []  # layer, adapter and cost

    def check(self) -> None:
        sites = [
            site
            for site in adapted_sites(self.model)
            if site.layer.active_adapter and site.host.has_kernel
        ]
        found: dict[str, tuple[Any, Any, float]] = {}
        for pattern, cost in self.branches.items():
            matching = [site for site in sites if matches(site, pattern)]
            _check_projections(pattern, matching, sites)
            for site in matching:
                found.setdefault(site.key, (site.layer, site.layer.adapter(), cost))
        self._chosen = [found[site.key] for site in sites if site.key in found]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        add_backward_gates(self.model, [layer for layer, *_ in self._chosen])

    @property
    def last_step(self) -> int | None:
        return self.at

    def on_step(self, step: int) -> None:
        rates = self._rates(step)
        dropped = self.random(step).random(len(rates)) < rates
        for place in np.argsort(-rates, kind="stable"):
            if dropped.mean() >= self.rate:
                break
            dropped[place] = True
        for (layer, *_), is_dropped in zip(self._chosen, dropped.tolist(), strict=True):
            layer.active_gate.close(is_dropped)

    def _rates(self, step: int) -> np.ndarray:
        """Return the rate of each branch; measure sensitivities when they are due."""
        layers, adapters, costs = zip(*self._chosen, strict=True)
        same = [float(self.rate)] * len(layers)
        if self.at is None:
            return np.array(same)
        known: Sequence[float | None] = [
            None if step <= self.at else adapter.drop_rate for adapter in adapters
        ]
        if step >= self.at and None in known:
            sensitive = sensitivities(self.model, layers, self.data)
            known = allocated_rates(sensitive, costs, self.rate)
        for adapter, rate in zip(adapters, known, strict=True):
            adapter.drop_rate = rate
        return np.array(same if None in known else known)

    def get_config(self) -> dict[str, Any]:
        own = {"rate": self.rate, "branches": self.branches, "at": self.at}
        return super().get_config() | own


def _check_projections(pattern: str, matching: list[Site], sites: list[Site]) -> None:
    if not matching:
        there = ", ".join(f"`{site.path}`" for site in sites[:SHOWN])
        raise ValueError(
            f"{pattern!r} matches no layer with an active adapter: give the last projection of "
            f"each branch one by `enable`. The layers that have one: {there or 'none'}"
            f"{', ...' * (len(sites) > SHOWN)}. Received: branches={pattern!r}"
        )
    for site in matching:
        if not isinstance(site.layer, AdaptedProjection):
            raise ValueError(
                "A branch ends with a Dense or EinsumDense layer: name this layer. "
                f"Received: branches={pattern!r}, which matches `{site.path}`"
            )
