"""Hyperparameters of methods: their configuration, and checks that several methods share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np


@dataclass(frozen=True, repr=False)
class Configured:
    """Base class of dataclasses whose fields are hyperparameters."""

    def get_config(self) -> dict[str, Any]:
        """Return the hyperparameters that differ from their defaults."""
        values = {f: getattr(self, f.name) for f in fields(self)}
        return {
            f.name: value.item() if isinstance(value, np.generic) else value
            for f, value in values.items()
            if f.default is MISSING or value != f.default
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Create the method with these hyperparameters."""
        return cls(**config)

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({shown})"

    __repr__ = __str__


def check_rank(rank: int, m: int, n: int, share: int = 1) -> None:
    """Raise `ValueError` if `share` times a rank exceeds the rank of an `(m, n)` kernel."""
    if share * rank > min(m, n):
        raise ValueError(
            f"A kernel of shape ({m}, {n}) has rank {min(m, n)} at the most: use "
            f"`rank={min(m, n) // share}` or less, or leave this layer out with `exclude`. "
            f"Received: rank={rank}"
        )


def check_positive_integers(**values: int) -> None:
    """Raise `ValueError` for the first value that is no positive integer."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")


def integers(values: Any, argument: str, meaning: str, least: int = 1) -> tuple[int, ...]:
    """Return at least `least` integers from 0 as a tuple; raise `ValueError` for other values."""
    listed: list[Any] = list(values) if isinstance(values, Iterable) else [None]
    if len(listed) < least or not all(isinstance(x, Integral) and int(x) >= 0 for x in listed):
        raise ValueError(f"`{argument}` holds {meaning}. Received: {argument}={values!r}")
    return tuple(map(int, listed))


def check_rows(m: int, **rows: Iterable[int]) -> None:
    """Raise `ValueError` if a table of `m` rows lacks one of these."""
    for name, listed in rows.items():
        if max(listed) >= m:
            raise ValueError(
                f"The table has {m} rows, 0 to {m - 1}. Received: {name}={tuple(listed)}"
            )


def check_below_one(**values: float) -> None:
    """Raise `ValueError` for the first value that is not in [0, 1)."""
    for name, value in values.items():
        if not (isinstance(value, Real) and 0 <= value < 1):
            raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value!r}")


def check_share(**values: float) -> None:
    """Raise `ValueError` for the first value that is not in (0, 1]."""
    for name, value in values.items():
        if not (isinstance(value, Real) and 0 < value <= 1):
            raise ValueError(f"`{name}` must be in (0, 1]. Received: {name}={value!r}")


def check_positive(**values: float) -> None:
    """Raise `ValueError` for the first value that is not positive."""
    for name, value in values.items():
        if not (isinstance(value, Real) and value > 0):
            raise ValueError(f"`{name}` must be positive. Received: {name}={value!r}")


def check_not_negative(**values: float) -> None:
    """Raise `ValueError` for the first value that is negative."""
    for name, value in values.items():
        if not (isinstance(value, Real) and value >= 0):
            raise ValueError(f"`{name}` must not be negative. Received: {name}={value!r}")


def check_seed(seed: int) -> None:
    """Raise `ValueError` if a seed is no integer from 0 on."""
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` must not be negative. Received: seed={seed!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise `ValueError` if a value is none of the choices."""
    if value not in (known := tuple(choices)):
        raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")


def check_alpha(alpha: float | None) -> None:
    """Raise `ValueError` if alpha is not positive."""
    if alpha is not None and not alpha > 0:
        raise ValueError(
            f"`alpha` must be positive, or `None` for a scale of 1. Received: alpha={alpha!r}"
        )


def scale_of(alpha: float | None, rank: int) -> float:
    """Return the scale `alpha / rank`; without alpha, 1."""
    return 1.0 if alpha is None else alpha / rank


def check_division(name: str, parts: int, **sizes: int) -> None:
    """Raise `ValueError` if a number of parts does not divide each size of a kernel."""
    if any(size % parts for size in sizes.values()):
        divisors = [
            p for p in range(1, min(sizes.values()) + 1) if not any(s % p for s in sizes.values())
        ]
        near = sorted(sorted(divisors, key=lambda p: abs(p - parts))[:2])
        shown = " and ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"`{name}` must divide {shown} of the kernel: use "
            f"{' or '.join(f'`{name}={p}`' for p in near)}, or leave this layer out with "
            f"`exclude`. Received: {name}={parts}"
        )
