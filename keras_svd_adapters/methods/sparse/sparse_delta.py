"""SparseDelta: a few values of a kernel train, and nothing else is stored.

    K' = K + S        S (m, n) holds `values` (q,) at `places` (q,), and 0 elsewhere

The values start at 0. The places are frozen, and random at first: Xu and Zhang 2024,
arXiv:2405.02596. `to_sparse` takes those of the largest values of another adapter instead, as the
second pass of diff pruning does: Guo et al. 2020, arXiv:2012.07463.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from keras_svd_adapters.methods.algebra import scattered
from keras_svd_adapters.methods.contract import SVD, Array, Base, Dropout
from keras_svd_adapters.methods.hyperparameters import check_seed, check_share
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.whole_update import plus_whole


@dataclass(frozen=True, repr=False)
class SparseDelta(Method):
    """Train a few values of each kernel, at random places or those of another adapter.

    The method trains `share * m * n` values per `(m, n)` kernel. The file stores
    them with their places. A step needs a whole `(m, n)` matrix for a moment.

    Args:
        share: Float in (0, 1], the part of the values of a kernel that trains.
        seed: Integer, the seed of the random places.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SparseDelta(share=0.01).trainable_count(384, 1536)
    5898

    Reference:
        - [Xu and Zhang, 2024](https://arxiv.org/abs/2405.02596)
        - [Guo et al., 2020](https://arxiv.org/abs/2012.07463)
    """

    share: float = 0.005
    seed: int = 0

    name: ClassVar[str] = "sparse_delta"
    forms: ClassVar[tuple[str, ...]] = ("additive", "patches")
    linear: ClassVar[dict[str, float]] = {"values": 0.0}

    def __post_init__(self) -> None:
        check_share(share=self.share)
        check_seed(self.seed)

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-3

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "patches"

    def check(self, m: int, n: int) -> None:
        if m * n >= 2**31:
            raise ValueError(
                "A kernel of this size has more places than an index holds: leave this layer out "
                f"with `exclude`. Received: a kernel of shape ({m}, {n})"
            )

    def count(self, m: int, n: int) -> int:
        """Return the number of values of an `(m, n)` kernel that train."""
        return max(1, round(self.share * m * n))

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        q = self.count(m, n)
        return {
            "values": Array((q,), trainable=True, start=0.0),
            "places": Array((q,), dtype="int32", saved=True),
        }

    def start(
        self, K: np.ndarray, form: str, rng: np.random.Generator, svd: SVD | None
    ) -> dict[str, np.ndarray]:
        own = np.random.default_rng(self.seed)  # alike in each adapter, so that adapters add up
        places = own.choice(K.size, self.count(*K.shape), replace=False)
        return {"places": np.sort(places).astype("int32")}

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return scattered(v.values, v.places, K.shape)

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return plus_whole(x, base, scattered(c.values, c.places, base.shape), form)
