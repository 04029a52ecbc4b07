"""SVF, singular value fine-tuning.

    K' = U diag(s * z) Vt        z (k,), starts at 1,  k = min(m, n)

Sun et al. 2025 (Transformer^2), arXiv:2501.06252. The code keeps the kernel itself and computes a
delta, `K + U diag(s (z - 1)) Vt`. The authors' code instead trains `p`, `z = sigmoid(p)`, and
rescales the kernel to keep the sum of its singular values.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from keras_svd_adapters.methods.contract import Array, Kernel
from keras_svd_adapters.methods.spectral.spectral import Spectral


@dataclass(frozen=True, repr=False)
class SVF(Spectral):
    """Singular value fine-tuning: scale each singular value of a kernel.

    The method trains `min(m, n)` values per `(m, n)` kernel. Tuned models
    compose: on one base, `1 + sum_i w_i (z_i - 1)` adds up skills.

    Args:
        formulation: `"auto"` keeps the kernel and is exact at step 0.
            `"factored"` computes with the factors instead of the kernel, which
            is fastest in float32 and equal to about 1e-6.

    Raises:
        ValueError: If `formulation` is unknown.

    Example:

    >>> keras_svd_adapters.SVF().trainable_count(384, 1536)
    384

    Reference:
        - [Sun et al., 2025](https://arxiv.org/abs/2501.06252)
    """

    name: ClassVar[str] = "svf"
    linear: ClassVar[dict[str, float]] = {"z": 1.0}

    @property
    def recommended_learning_rate(self) -> float:
        return 3e-2

    def core(self, k: int) -> dict[str, Array]:
        return {"z": Array((k,), trainable=True, start=1.0)}

    def coefficients(self, v: SimpleNamespace, form: str, kernel: Kernel) -> dict[str, Any]:
        if form == "factored":
            gain = v.s * v.z
        elif form == "two_sided":
            gain = v.s * (v.z - 1.0)
        else:  # C / s, without a division
            gain = v.z - 1.0
        return {**vars(v), "gain": gain}

    def mix(self, h: Any, c: SimpleNamespace, form: str) -> Any:
        return h * c.gain
