"""LoRA-drop: layers that matter keep a LoRA of their own, and all others share one.

    I_l = g_l / sum g        g_l = mean of |x (K' - K)|^2 over the rows of the data

Zhou et al. 2024, arXiv:2402.07721.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from keras_svd_adapters.methods.hyperparameters import check_share
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.shared.tied_lora import TiedLoRA
from keras_svd_adapters.reports.observation import Observation

ROUNDING = 1e-6  # of a sum of shares, which are of float32


def keep_layers(
    report: Observation,
    share: float = 0.9,
    method: Method | None = None,
    by_kind: bool = True,
) -> dict[str, Method]:
    """Choose the layers that keep a LoRA of their own, as LoRA-drop does.

    Train LoRA for a short time, `observe` what it adds to the outputs, and train again: the layers
    with the largest norms have their own LoRA, and the others share one for each shape of kernel,
    of the same rank and scale and without dropout. A kernel without such a partner keeps its own.

    Args:
        report: What `observe(model, data, "branch_norms")` returns.
        share: Float in (0, 1]. Layers are kept in falling order until they have this share of the
            norms.
        method: The method of the kept layers. `None` takes that of the report.
        by_kind: Whether kernels whose paths differ only in numbers are compared by themselves, such
            as queries with queries, or all kernels together.

    Returns:
        A dictionary of methods by the names of kernels: the `targets` of another `enable`.

    Raises:
        ValueError: If `share` is out of its range, the report has no branch norms or only zeros,
            or a method has no rank and scale.

    Example:

    >>> import keras, numpy as np, keras_svd_adapters as ksa
    >>> layers = [keras.layers.Dense(8, name=f"dense_{i}") for i in range(3)]
    >>> model = keras.Sequential([keras.Input((8,)), *layers])
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2), targets="dense_*")
    >>> _ = model.layers[1].adapter().lora_b.assign(np.ones((2, 8)))  # as if it were trained
    >>> report = ksa.observe(model, np.ones((4, 8)), "branch_norms")
    >>> [type(method).__name__ for method in ksa.keep_layers(report, share=0.9).values()]
    ['TiedLoRA', 'LoRA', 'TiedLoRA']

    Reference:
        - [Zhou et al., 2024](https://arxiv.org/abs/2402.07721)
    """
    check_share(share=share)
    if not isinstance(report, Observation):
        raise ValueError(
            "`report` is what `observe(model, data, 'branch_norms')` returns. "
            f"Received: report={report!r}"
        )
    importance = report.importance(by_kind)
    kept = _kept(report, importance, float(share), by_kind)
    own: dict[str, Any] = {name: method or kernel.method for name, kernel in report.items()}
    shared = {name: _shared(name, each) for name, each in own.items()}
    groups = Counter((report[name].shape, shared[name]) for name in report if name not in kept)

    def keeps_its_own(name: str) -> bool:
        return name in kept or groups[report[name].shape, shared[name]] == 1

    return {name: own[name] if keeps_its_own(name) else shared[name] for name in report}


def _kept(
    report: Observation, importance: dict[str, float], share: float, by_kind: bool
) -> set[str]:
    """Return the names of the most important kernels, which have this share of their kind."""
    kept: set[str] = set()
    sums: dict[str, float] = {}
    for name in sorted(importance, key=lambda name: -importance[name]):
        kind = report[name].kind if by_kind else ""
        if sums.get(kind, 0.0) < share - ROUNDING:
            kept.add(name)
            sums[kind] = sums.get(kind, 0.0) + importance[name]
    return kept


def _shared(name: str, method: Any) -> TiedLoRA:
    """Return the LoRA that all kernels of a shape share, of the same rank and scale."""
    rank, scale = getattr(method, "rank", None), getattr(method, "scale", None)
    if rank is None or scale is None:
        raise ValueError(
            "The layers that are not kept share a LoRA of the same rank and scale, and this "
            f"method has none: give `method=LoRA(rank=8)`. Received: {method} of `{name}`"
        )
    return TiedLoRA(rank, None if scale == 1 else scale * rank, vectors=False)
