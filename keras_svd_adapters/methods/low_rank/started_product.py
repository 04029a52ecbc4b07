"""The algebra of LoRA from a start that the user chooses, with one factor frozen or none.

K' = K + c A B,  or  K' = K + c (A B - A0 B0)  if neither A nor B starts at zero
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_svd_adapters.methods.contract import SVD, Array
from keras_svd_adapters.methods.hyperparameters import check_choice, check_rank, check_seed
from keras_svd_adapters.methods.low_rank.data_starts import STARTS
from keras_svd_adapters.methods.low_rank.scaled_product import ScaledProduct
from keras_svd_adapters.methods.low_rank.started_factors import difference, factor_arrays
from keras_svd_adapters.methods.low_rank.starts import Generated, Given
from keras_svd_adapters.methods.random_bases import PortableRandom
from keras_svd_adapters.methods.statistics import Statistics


@dataclass(frozen=True, repr=False)
class StartedProduct(ScaledProduct):
    """Base class of LoRA: the start of its factors, and which of them train."""

    start: str = "kaiming"  # type: ignore[assignment]  # `first_values` takes its place here
    freeze: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("start", self.start, STARTS)
        check_choice("freeze", self.freeze, (None, "a", "b"))
        check_seed(self.seed)
        STARTS[self.start].check(self.rank, self.freeze)

    @property
    def needs(self) -> tuple[str, ...]:
        return STARTS[self.start].needs

    @property
    def linear(self) -> dict[str, float]:  # type: ignore[override]
        zero = STARTS[self.start].zero
        return {} if self.freeze is None or zero is None else {f"lora_{zero}": 0.0}

    def check(self, m: int, n: int) -> None:
        check_rank(self.rank, m, n, STARTS[self.start].share)

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        zero = "a" if self._is_lookup(form) else STARTS[self.start].zero
        return factor_arrays(m, n, self.rank, zero, self.freeze)

    def first_values(
        self, K: np.ndarray, form: str, rng: Any, svd: SVD | None, data: Statistics
    ) -> dict[str, np.ndarray]:
        if self._is_lookup(form):
            return super().start(K, form, rng, svd)
        random = Generated(rng) if self.freeze is None else PortableRandom(self.seed)
        given = Given(K, self.rank, self.scale, random, data)
        factors = zip("ab", STARTS[self.start].factors(given))
        found = {side: factor for side, factor in factors if factor is not None}
        return {f"{name}_{side}": found[side] for side in found for name in ("lora", "start")}

    def factors(self, v: SimpleNamespace) -> tuple[Any, Any]:
        return super().factors(v) if STARTS[self.start].zero else difference(v)

    def _is_lookup(self, form: str) -> bool:
        """Return whether the factors start as the default is for an embedding."""
        return form == "lookup" and self.start == "kaiming" and self.freeze is None
