"""PyTorch versions of the sums in `fused_products`.

PyTorch computes and keeps everything that the code requests. On PyTorch, Keras's own
`custom_gradient` keeps every argument and requests every part of the gradient.
"""

from __future__ import annotations

from typing import Any

import torch


class SumOfProducts(torch.autograd.Function):
    """`x K + h B`, rounded once; with no gradient for `K`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any, K: Any, h: Any, B: Any) -> Any:  # type: ignore[override]
        return torch.cat([x, h], 1) @ torch.cat([K, B], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, K, h, B = inputs
        ctx.save_for_backward(K, h if ctx.needs_input_grad[3] else None, B)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (K, h, B), (x_wants, _, h_wants, B_wants) = ctx.saved_tensors, ctx.needs_input_grad
        return (
            g @ K.T if x_wants else None,
            None,
            g @ B.T if h_wants else None,
            h.T @ g if B_wants else None,
        )


class ShiftedProduct(torch.autograd.Function):
    """`(x + d) K`, rounded once; with no gradient for `K`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Any, d: Any, K: Any) -> Any:  # type: ignore[override]
        return torch.cat([x, d], 1) @ torch.cat([K, K], 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (K,) = ctx.saved_tensors
        back = g @ K.T if any(ctx.needs_input_grad[:2]) else None
        return back, back, None
