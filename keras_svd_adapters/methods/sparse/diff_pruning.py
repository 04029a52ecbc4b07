"""Diff pruning: a difference of the whole kernel, most of whose entries gates turn off.

    K' = K + mask * g * z * D        D (m, n) starts at 0,  z (m, n) and g (1,) from `gate`
    gate(a, u) = clip(3 sigmoid(log u - log(1 - u) + a) - 1.5, 0, 1)
    loss + penalty * (sum of sigmoid(a) of all gates)

Guo et al. 2020, arXiv:2012.07463. While the model trains, u is uniform in (0, 1) and new in each
step; else it is 1/2, so that its logarithms cancel. `mask` is frozen, and 1 until it is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from keras.ops import clip, convert_to_numpy, convert_to_tensor, log, sigmoid

from keras_svd_adapters.methods.algebra import largest, total
from keras_svd_adapters.methods.contract import Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.hyperparameters import check_positive, check_share
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.whole_update import plus_whole

LOW, HIGH = -1.5, 1.5  # ends of the range that the gates are cut from


@dataclass(frozen=True, repr=False)
class DiffPruning(Method):
    """Train the whole kernel as a difference that becomes sparse.

    The method trains `2 m n + 1` values per `(m, n)` kernel: it needs more memory
    than full fine-tuning. `prune(model)` then leaves a share of the differences,
    the largest ones. Go on training: the others stay off. `to_sparse(model)` makes
    an adapter of these values alone, for a second pass that needs little memory.

    Args:
        share: Float, the share of the differences that `prune` leaves.
        penalty: Float, the weight of the number of open gates in the loss.
        openness: Float, the start of the logits `a` of the gates.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.DiffPruning().trainable_count(384, 1536)
    1179649

    The paper trains the gates at a learning rate of 0.1.

    Reference:
        - [Guo et al., 2020](https://arxiv.org/abs/2012.07463)
    """

    share: float = 0.005
    penalty: float = 1.25e-7
    openness: float = 5.0

    name: ClassVar[str] = "diff_pruning"
    forms: ClassVar[tuple[str, ...]] = ("additive", "patches")

    def __post_init__(self) -> None:
        check_positive(penalty=self.penalty)
        check_share(share=self.share)

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-3

    def patch_form(self, m: int, n: int, s: np.ndarray | None = None) -> str:
        return "patches"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        open_ = {"trainable": True, "start": self.openness, "penalty": self.open_gates}
        return {
            "diff": Array((m, n), trainable=True, start=0.0, axes="mn"),
            "log_alpha": Array((m, n), axes="mn", **open_),  # type: ignore[arg-type]
            "group": Array((1,), **open_),  # type: ignore[arg-type]
            "mask": Array((m, n), saved=True, start=1.0, axes="mn"),
        }

    def draws(self, m: int, n: int, form: str) -> dict[str, tuple[int, ...]]:
        return {"u": (m, n), "u_group": (1,)}

    def open_gates(self, array: Any, v: SimpleNamespace) -> Any:
        """Return the weighted number of gates that are probably open."""
        return self.penalty * total(sigmoid(array))

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        return v.mask * gate(v.group, v.u_group) * gate(v.log_alpha, v.u) * v.diff

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"delta": self.delta(None, v, form)}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        return plus_whole(x, base, c.delta, form)

    def pruned(self, v: SimpleNamespace, share: float | None) -> dict[str, np.ndarray]:
        tensors = {name: convert_to_tensor(value, "float32") for name, value in vars(v).items()}
        sizes = np.abs(convert_to_numpy(self.delta(None, SimpleNamespace(**tensors), "additive")))
        return {"mask": largest(sizes, share or self.share)}


def gate(a: Any, u: Any) -> Any:
    """Return hard concrete gates with the logits `a`, for the uniform numbers `u`."""
    return clip(sigmoid(log(u) - log(1 - u) + a) * (HIGH - LOW) + LOW, 0, 1)
