"""Serial bottleneck adapter: a small network on the output of a kernel.

    y' = y + c (f(LN(y) W_down + b_down) W_up + b_up)        y = x K,  W_down (n, s), W_up (s, n)

Houlsby et al. 2019, arXiv:1902.00751, adapt the output of each branch of a Transformer block. The
network here reads the output of the branch's last kernel before the bias of the layer is added. A
trained `b_down` can hold what this bias contributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras import ops

from keras_svd_adapters.methods.algebra import matmul
from keras_svd_adapters.methods.bottleneck.bottleneck import Bottleneck
from keras_svd_adapters.methods.contract import Array, Base, Dropout

EPSILON = 1e-5


@dataclass(frozen=True, repr=False)
class SerialAdapter(Bottleneck):
    """Serial bottleneck adapter: a small network that follows a kernel.

    The method trains `2 * size * n + size + n` values per `(m, n)` kernel. As
    published, it goes on the last kernel of the attention branch and of the
    feed-forward branch of each block: name these in `targets`.

    Args:
        size: Integer, the number of hidden values s.
        activation: String, the function f: `"relu"`, `"gelu"`, `"silu"` or
            `"tanh"`.
        scale: Float, the factor c.
        train_scale: Boolean. Whether the factor trains, one for each kernel.
        dropout: Float, the rate of dropout on the hidden values.
        layer_norm: Boolean. Whether the network normalizes its inputs, with
            trained scales and shifts: `2 * n` more values.

    Raises:
        ValueError: If a hyperparameter is out of its range.

    Example:

    >>> keras_svd_adapters.methods.SerialAdapter(size=16).trainable_count(384, 384)
    12688

    Its outputs are no product with another kernel, so `merge`, `to_lora` and
    `combine` refuse it.

    Reference:
        - [Houlsby et al., 2019](https://arxiv.org/abs/1902.00751)
    """

    layer_norm: bool = False

    name: ClassVar[str] = "serial_adapter"

    def inputs(self, m: int, n: int) -> tuple[int, str]:
        return n, "n"

    def arrays(self, m: int, n: int, form: str) -> dict[str, Array]:
        arrays = super().arrays(m, n, form)
        if self.layer_norm:
            arrays["gain"] = Array((n,), trainable=True, start=1.0, axes="n")
            arrays["shift"] = Array((n,), trainable=True, start=0.0, axes="n")
        return arrays

    def normalized(self, y: Any, c: SimpleNamespace) -> Any:
        """Return the inputs of the network."""
        if not self.layer_norm:
            return y
        centred = y - ops.mean(y, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return centred * ops.rsqrt(variance + EPSILON) * c.gain + c.shift

    def apply(self, x: Any, base: Base, c: SimpleNamespace, form: str, dropout: Dropout) -> Any:
        y = base(x)
        h = self.hidden(matmul(self.normalized(y, c), c.down), c)
        return base.plus(x, dropout(h), c.up, y) + c.up_bias
