"""Parallel bottleneck adapter: a small network beside a kernel.

    y' = x K + c (f(x W_down + b_down) W_up + b_up)        W_down (m, s), W_up (s, n)

He et al. 2021, arXiv:2110.04366. Without the non-linearity it is LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.bottleneck.bottleneck import Bottleneck
from keras_svd_adapters.methods.contract import Base, Dropout


@dataclass(frozen=True, repr=False)
class ParallelAdapter(Bottleneck):
    """Parallel bottleneck adapter: a small network with the inputs of a kernel.

    The method trains `size * (m + n) + size + n` values per `(m, n)` kernel.

    Args:
        size: Integer, the number of hidden values s.
        activation: String, the function f: `"relu"`, `"gelu"`, `"silu"` or
            `"tanh"`.
        scale: Float, the factor c. The authors use 4 in feed-forward layers.
        train_scale: Boolean. Whether the factor trains, one for each kernel.
        dropout: Float, the rate of dropout on the hidden values.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.ParallelAdapter(size=16).trainable_count(384, 384)
    12688

    The published adapter goes from the input of a whole branch to its output.
    Here it goes from the input of one kernel to its output. Its outputs are no
    product with another kernel, so `merge`, `to_lora` and `combine` refuse it.

    Reference:
        - [He et al., 2021](https://arxiv.org/abs/2110.04366)
    """

    name: ClassVar[str] = "parallel_adapter"

    def inputs(self, m: int, n: int) -> tuple[int, str]:
        return m, "m"

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        h = self.hidden(base.times(x, c.down), c)
        return base.plus(x, dropout(h), c.up) + c.up_bias
