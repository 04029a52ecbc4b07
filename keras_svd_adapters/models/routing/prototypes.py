"""The adapter for a sample of unknown origin, by the nearest center of features."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.cluster.vq import kmeans2, vq

from keras_svd_adapters.methods.hyperparameters import check_positive_integers, check_seed
from keras_svd_adapters.models.assignment import check_name
from keras_svd_adapters.runtime.atomic_files import written_at_once
from keras_svd_adapters.runtime.host_values import to_float64

FORMAT = {"format": "keras_svd_adapters prototypes", "format_version": "1"}
ROUNDS = 100  # of k-means, which ends much earlier


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Centers of the features that each adapter was trained on, to choose adapters by (CoLoR).

    Each task has an adapter of its own, trained alone. A sample of unknown origin gets the adapter
    of the nearest center. The features come from the base model, so that they are the same for all
    tasks, and new tasks leave the centers of earlier ones alone.

    Args:
        centers: Dictionary from names of adapters to arrays of centers, one row each. `fit` finds
            them.

    Raises:
        ValueError: If the centers are no such arrays, of one width.

    Example:

    >>> import keras, keras_svd_adapters as ksa, numpy as np
    >>> features = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)])
    >>> model = keras.Sequential([features, keras.layers.Dense(2)])
    >>> for name in ("low", "high"):
    ...     _ = ksa.enable(model, ksa.LoRA(rank=2), name=name)
    >>> low, high = np.zeros((4, 8)), np.ones((4, 8)) + np.eye(4, 8)
    >>> with ksa.disabled(model):
    ...     found = {"low": features(low), "high": features(high)}
    ...     prototypes = ksa.Prototypes.fit(found, clusters=1)
    ...     names = prototypes.names(features(high[:2]))
    >>> names
    ['high', 'high']
    >>> ksa.predict(model, high[:2], adapter_ids=names).shape
    (2, 2)

    Reference:
        - [Wistuba et al., 2023 (CoLoR)](https://arxiv.org/abs/2311.17601)
    """

    centers: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        found = {name: _rows(name, rows) for name, rows in sorted(_named(self.centers).items())}
        _check_widths({name: rows.shape[1] for name, rows in found.items()})
        object.__setattr__(self, "centers", found)

    @classmethod
    def fit(cls, features: Mapping[str, Any], clusters: int = 5, seed: int = 0) -> Prototypes:
        """Find the centers of each adapter's features by k-means.

        Args:
            features: Dictionary from names of adapters to features, arrays of shape
                `(samples, width)`. Compute them within `ksa.disabled(model)`.
            clusters: Integer, the number of centers for each adapter.
            seed: Integer, the seed of the first centers.

        Returns:
            The `Prototypes`.

        Raises:
            ValueError: If the features are no such arrays, or an adapter has fewer different
                samples than clusters.
        """
        check_positive_integers(clusters=clusters)
        check_seed(seed)
        rows = {name: _rows(name, array) for name, array in _named(features).items()}
        for name, array in rows.items():
            if (found := len(np.unique(array, axis=0))) < clusters:
                raise ValueError(
                    "Each cluster needs a sample of its own: pass more samples, or use "
                    f"`clusters={found}`. Received: clusters={clusters}, and {found} different "
                    f"samples of {name!r}"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty cluster stays where it was
            return cls(
                {
                    name: kmeans2(array, clusters, ROUNDS, minit="++", seed=seed)[0]
                    for name, array in rows.items()
                }
            )

    def names(self, features: Any) -> list[str]:
        """Return the name of the adapter for each sample, as `adapter_ids` of `ksa.predict`.

        Args:
            features: Features of the base model, an array of shape `(samples, width)`.

        Returns:
            A list of names.

        Raises:
            ValueError: If the features are no such array, of the width of the centers.
        """
        rows = _rows("features", features)
        first = next(iter(self.centers.values()))
        _check_widths({"the centers": first.shape[1], "features": rows.shape[1]})
        owners = [name for name, centers in self.centers.items() for _ in centers]
        nearest, _ = vq(rows, np.concatenate(list(self.centers.values())))
        return [owners[place] for place in nearest]

    def __or__(self, other: Prototypes) -> Prototypes:
        """Return the centers of both; those of `other` count if both have a name."""
        return Prototypes({**self.centers, **other.centers})

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write the centers, in float32, to a small safetensors file."""
        centers: dict[str, np.ndarray] = {
            name: array.astype("float32") for name, array in self.centers.items()
        }
        with written_at_once(Path(filepath)) as temporary:
            temporary.write_bytes(save(centers, FORMAT))

    @classmethod
    def load(cls, filepath: str | os.PathLike[str]) -> Prototypes:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is another kind of file.
        """
        if not Path(filepath).exists():
            raise FileNotFoundError(f"There is no such file. Received: {str(filepath)!r}")
        try:
            with safe_open(filepath, framework="numpy") as file:
                if file.metadata() == FORMAT:
                    return cls({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError):
            pass
        raise ValueError(
            "This is no file of `Prototypes.save` that this package can read. Received: "
            f"{str(filepath)!r}"
        )

    def __repr__(self) -> str:
        return f"Prototypes({', '.join(f'{k!r}: {len(v)}' for k, v in self.centers.items())})"


def _named(arrays: Any) -> Mapping[str, Any]:
    if not isinstance(arrays, Mapping) or not arrays:
        raise ValueError(
            "Each adapter has features of its own: pass a dictionary such as `{'a': features}`. "
            f"Received: {arrays if isinstance(arrays, Mapping) else type(arrays).__name__}"
        )
    for name in arrays:
        check_name(name)
    return arrays


def _rows(name: str, array: Any) -> np.ndarray:
    rows = to_float64(array) if np.size(array) else np.zeros((0, 0))
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "iuf":
        raise ValueError(
            "Features have the shape `(samples, width)`: one row of numbers for each sample. "
            f"Received: shape {np.shape(array)} of {name!r}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"Features must be finite. Received: NaN or infinity in {name!r}")
    return rows.astype("float64")


def _check_widths(widths: Mapping[str, int]) -> None:
    if len(set(widths.values())) > 1:
        raise ValueError(
            "All features must come from one layer of the base model. Received: widths "
            + ", ".join(f"{width} of {name!r}" for name, width in widths.items())
        )
