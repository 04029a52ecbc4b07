"""Attention within groups of neighbouring tokens, shifted by half a group for half of the heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_svd_adapters.methods.algebra import reshape


def grouped_attention(
    arguments: list[Any], groups: int, compute: Callable[[list[Any]], Any]
) -> Any:
    """Return attention of queries to the keys of their own group.

    Args:
        arguments: Queries, keys and values `(batch, tokens, heads, size)`, and a mask if there is
            one, `(batch, tokens, tokens)` or with one place for all queries; an axis for all heads
            may follow the batch.
        groups: Number of groups. The first half of the heads has groups from the first token on,
            the second half from half a group on; its last group holds the end and the beginning.
        compute: Function that returns the attention for such arguments.
    """
    query, key = arguments[:2]
    length, heads = query.shape[1], query.shape[2]
    if length is None or length != key.shape[1] or length % (2 * groups):
        raise ValueError(
            f"Attention within {groups} groups needs as many keys as queries, a known number that "
            f"is a multiple of {2 * groups}: pad the texts, or choose other `groups`. "
            f"Received: {length} queries and {key.shape[1]} keys"
        )
    shape, half, found = (ops.shape(query)[0], length, length), heads // 2, []
    for shift, part in ((0, slice(half)), (length // groups // 2, slice(half, None))):
        alone = key.shape[2] == heads > 1  # else, the layer computes all heads at once
        own = [x[:, :, part] if alone else x for x in arguments[:3]]
        masks = [_of_groups(_of_all_heads(x), shape, shift, groups) for x in arguments[3:]]
        y = compute([*(_folded(x, shift, groups) for x in own), *masks])
        y = ops.roll(reshape(y, (-1, length, *y.shape[2:])), shift, axis=1)
        found.append(y if alone else y[:, :, part])
    return ops.concatenate(found, axis=2)


def _folded(x: Any, shift: int, groups: int) -> Any:
    """Return `(batch * groups, tokens / groups, ...)`, groups from the token `shift` on."""
    size = x.shape[1] // groups
    return reshape(ops.roll(x, -shift, axis=1), (-1, size, *x.shape[2:]))


def _of_all_heads(mask: Any) -> Any:
    """Return a mask without an axis of heads."""
    if len(mask.shape) < 4:
        return mask
    if mask.shape[1] != 1:
        raise ValueError(
            "Attention within groups takes one mask for all heads: give a mask of the shape "
            f"(batch, queries, keys). Received: a mask of the shape {tuple(mask.shape)}"
        )
    return mask[:, 0]


def _of_groups(mask: Any, shape: tuple[Any, int, int], shift: int, groups: int) -> Any:
    """Return the mask of each group, given the shape of a mask with a place for each text."""
    length, size = shape[1], shape[1] // groups
    mask = ops.roll(ops.broadcast_to(mask, shape), (-shift, -shift), axis=(1, 2))
    parts = [mask[:, at : at + size, at : at + size] for at in range(0, length, size)]
    return reshape(ops.stack(parts, axis=1), (-1, size, size))
