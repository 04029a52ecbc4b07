"""(IA)3: scale the outputs or the inputs of a kernel.

    K' = K diag(l), or diag(l) K        l (n,) or (m,) starts at 1
    b' = b l                            for outputs, with `bias=True`

Liu et al. 2022, arXiv:2205.05638. The paper scales the outputs of keys and values, and the inputs
of the second kernel of a feed-forward block, in a model without biases. HF PEFT scales outputs with
their bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Array, Base, Dropout, Kernel
from keras_svd_adapters.methods.method import Method

SIDES = ("auto", "input", "output")


@dataclass(frozen=True, repr=False)
class IA3(Method):
    """Infused adapter by inhibiting and amplifying inner activations.

    The method trains `n` values per `(m, n)` kernel, or `m` on the side of the
    inputs. In bfloat16, a scale within 0.2 % of 1 is rounded away.

    Args:
        side: `"output"`, `"input"`, or `"auto"`, which is `"input"` for kernels
            with more inputs than outputs, as the second one of a feed-forward
            block.
        bias: Boolean. Whether scaled outputs include the bias of their layer, as
            in HF PEFT. Such a layer trains no more values.

    Raises:
        ValueError: If `side` is unknown.

    Example:

    >>> keras_svd_adapters.methods.IA3().trainable_count(384, 1536)
    1536

    Reference:
        - [Liu et al., 2022](https://arxiv.org/abs/2205.05638)
    """

    side: str = "auto"
    bias: bool = False

    name: ClassVar[str] = "ia3"
    forms: ClassVar[tuple[str, ...]] = ("activations", "kernel")
    linear: ClassVar[dict[str, float]] = {"scaling": 1.0}
    tied_by_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"`side` must be one of {SIDES}. Received: side={self.side!r}")

    @property
    def recommended_learning_rate(self) -> float:
        return 1e-2

    @property
    def tied(self) -> tuple[str, ...]:
        return ("scaling",) if self.bias else ()

    def scales_inputs(self, m: int, n: int) -> bool:
        """Return whether the method scales the inputs of an `(m, n)` kernel."""
        return self.side == "input" or (self.side == "auto" and m > n)

    def adapts_bias(self, m: int, n: int) -> bool:
        return self.bias and not self.scales_inputs(m, n)

    def form(self, m: int, n: int, s: Any = None) -> str:
        return "activations"

    def patch_form(self, m: int, n: int, s: Any = None) -> str:
        return "kernel" if self.scales_inputs(m, n) else "activations"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        size, axis = (m, "m") if self.scales_inputs(m, n) else (n, "n")
        return {"scaling": Array((size,), trainable=True, start=1.0, axes=axis)}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        return {"change": v.scaling - 1}

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        if not self.scales_inputs(*base.shape):
            y = base(x)
            return y + y * c.change
        if form == "kernel":
            return base(x, base.matrix() * c.change[:, None])
        return base.shift(x, x * c.change)

    def delta(self, K: Any, v: SimpleNamespace, form: str) -> Any:
        change = v.scaling - 1
        return K * (change[:, None] if self.scales_inputs(*K.shape) else change)
