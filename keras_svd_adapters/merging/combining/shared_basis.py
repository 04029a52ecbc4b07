"""Adapters of one kernel whose trained values add, because they share a basis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from keras_svd_adapters.adapters.adapter import Adapter
from keras_svd_adapters.merging.combining.blending import Blend
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.sparse.token_rows import TokenRows
from keras_svd_adapters.methods.spectral.svft import SVFT
from keras_svd_adapters.runtime.host_values import to_float_array

FACTORS = ("U", "s", "Vt")
SAME = 1e-4


@dataclass(frozen=True)
class SharedBasis:
    """Changes by several adapters of one kernel, as values that add.

    Args:
        method: The method of an adapter that can hold any sum of the changes.
        form: The formulation of that adapter.
        frozen: The frozen arrays of that adapter.
        changes: For each trained array, the change by each adapter, by name,
            from the array's value at the base model.
    """

    method: Method
    form: str
    frozen: dict[str, np.ndarray]
    changes: dict[str, dict[str, np.ndarray]]

    def blended(self, blend: Blend, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return the arrays of an adapter with a blend of the changes."""
        trained = {}
        for array, changes in self.changes.items():
            origin = self.method.linear[array]
            here = [weights[name] for name in changes]
            trained[array] = origin + blend(list(changes.values()), here)
        return self.frozen | trained


def shared_basis_of(adapters: Mapping[str, Adapter], path: str) -> SharedBasis:
    """Return the changes by these adapters of a kernel; raise `ValueError` if they do not add."""
    first = next(iter(adapters.values()))
    received = f"Received: {', '.join(str(a.method) for a in adapters.values())} on `{path}`"
    other = "`how='svd'` makes the nearest LoRA of any"
    for adapter in adapters.values():
        if not adapter.method.linear:
            known = (m for m in Method.registry.values() if isinstance(m.linear, dict))
            adding = ", ".join(sorted(m.__name__ for m in known if m.linear))
            raise ValueError(
                f"Only values of {adding} and of LoRA with a frozen factor add exactly; "
                f"`how='cat'` is exact for LoRA and its variants, {other}. {received}"
            )
        if type(adapter.method) is not type(first.method):
            raise ValueError(f"Values of different methods do not add; {other}. {received}")
        if not all(_agree(first, adapter, name) for name in first.arrays):
            raise ValueError(
                "The adapters use different singular vectors or other frozen factors, such as "
                f"those of another base, another `svd_device` or another seed; {other}. {received}"
            )
    if isinstance(first.method, SVFT) and not _same_meaning(adapters):
        if first.view.count is not None:
            raise ValueError(f"Patterns of stacked kernels must be equal; {other}. {received}")
        return _pattern_union(adapters)
    if isinstance(first.method, TokenRows) and not _same_meaning(adapters):
        return _rows_united(adapters)
    if not _same_meaning(adapters):
        raise ValueError(f"Values add only if the hyperparameters are equal; {other}. {received}")
    frozen = {
        name: to_float_array(v) for name, v in first.arrays.items() if name not in first.trained
    }
    return SharedBasis(first.method, first.form, frozen, _changes(adapters))


def _agree(one: Adapter, other: Adapter, name: str) -> bool:
    """Return whether two adapters have the same values of an array, if it is frozen."""
    if name in one.trained or name == "pairs" or name not in other.arrays:
        return True
    a, b = to_float_array(one.arrays[name]), to_float_array(other.arrays[name])
    close = 0.0 if a.dtype.kind in "iu" else SAME
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=close, atol=close))


def _same_meaning(adapters: Mapping[str, Adapter]) -> bool:
    """Whether equal places of the trained arrays have the same meaning in all adapters."""
    first, *others = adapters.values()
    ours = _hyperparameters(first.method)
    return all(
        _hyperparameters(a.method) == ours
        and ("pairs" not in a.arrays or np.array_equal(_pairs(a), _pairs(first)))
        for a in others
    )


def _hyperparameters(method: Method) -> dict[str, object]:
    """Return the hyperparameters that determine the meaning of the trained values."""
    skipped = ("formulation", "init_std", "seed", "alpha")
    scale = {"scale": getattr(method, "scale", 1.0)}
    return scale | {k: v for k, v in method.get_config().items() if k not in skipped}


def _pairs(adapter: Adapter) -> np.ndarray:
    return to_float_array(adapter.arrays["pairs"])


def _changes(adapters: Mapping[str, Adapter]) -> dict[str, dict[str, np.ndarray]]:
    first = next(iter(adapters.values()))
    return {
        array: {
            name: to_float_array(adapter.arrays[array]).astype("float64") - origin
            for name, adapter in adapters.items()
        }
        for array, origin in first.method.linear.items()
    }


def _pattern_union(adapters: Mapping[str, Adapter]) -> SharedBasis:
    """Unite the patterns of SVFT; keep the pattern of an adapter if it contains the others."""
    first = next(iter(adapters.values()))
    frozen = {name: to_float_array(v) for name, v in first.arrays.items() if name in FACTORS}
    places = {name: _places(adapter) for name, adapter in adapters.items()}
    union = np.any([place >= 0 for place in places.values()], axis=0)
    pairs: np.ndarray = np.argwhere(union).astype("int32")
    method = SVFT("random", nnz=len(pairs), formulation=_svft(first).formulation)
    frozen["pairs"] = pairs
    for name, adapter in adapters.items():
        if not _svft(adapter).entries.scattered and np.array_equal(places[name] >= 0, union):
            method = replace(_svft(adapter), formulation=method.formulation)
            del frozen["pairs"]  # a band's entries are in the same order, row by row
            break
    changes = {}
    for name, adapter in adapters.items():
        values: np.ndarray = np.append(to_float_array(adapter.arrays["m"]).astype("float64"), 0.0)
        changes[name] = values[places[name][union]]
    return SharedBasis(method, first.form, frozen, {"m": changes})


def _rows_united(adapters: Mapping[str, Adapter]) -> SharedBasis:
    """Unite the rows of TokenRows; a row that an adapter lacks counts as 0."""
    rows = sorted({row for adapter in adapters.values() for row in _rows(adapter)})
    changes = {}
    for name, adapter in adapters.items():
        shift = to_float_array(adapter.arrays["shift"])
        changes[name] = np.zeros((*shift.shape[:-2], len(rows), shift.shape[-1]))
        changes[name][..., [rows.index(row) for row in _rows(adapter)], :] = shift
    form = next(iter(adapters.values())).form
    return SharedBasis(TokenRows(rows), form, {}, {"shift": changes})


def _rows(adapter: Adapter) -> list[int]:
    assert isinstance(adapter.method, TokenRows)
    return list(adapter.method.rows)


def _svft(adapter: Adapter) -> SVFT:
    assert isinstance(adapter.method, SVFT)
    return adapter.method


def _places(adapter: Adapter) -> np.ndarray:
    """Return the place of each entry of M among the trained values; -1 for an untrained entry."""
    pairs = _pairs(adapter) if "pairs" in adapter.arrays else None
    return _svft(adapter).entries.places(min(adapter.view.m, adapter.view.n), pairs)
