"""Summary of the contents of an adapter file; the base model is not needed."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras_svd_adapters.files.archive import Contents
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.runtime.path_groups import group_paths

HEAD = ("kernel", "method", "shape", "dtype", "kernels", "values")
FINGERPRINTS = ("sample_K", "sample_U", "sample_Vt")


class KernelSummary(NamedTuple):
    """One kernel in an adapter file: its path, method, shape, dtype and number of values."""

    path: str
    method: str
    shape: str
    dtype: str
    values: int


def summarize(contents: Contents) -> list[KernelSummary]:
    """Return a summary of each kernel in an adapter file."""
    sizes: dict[str, int] = {}
    for key, value in contents.values.items():
        site, _, array = key.removeprefix("sites/").rpartition("/")
        if key.startswith("sites/") and array not in FINGERPRINTS:
            sizes[site] = sizes.get(site, 0) + value.size
    return [
        KernelSummary(
            path,
            str(method_of(site)),
            format_shape(site["kernel"]["shape"]),
            site["kernel"]["dtype"],
            sizes.get(path, 0),
        )
        for path, site in contents.config["sites"].items()
    ]


def grouped_rows(kernels: list[KernelSummary]) -> list[tuple[str, ...]]:
    """Return a row below `HEAD` for each group of similar kernels."""
    return [
        (path, method, shape, dtype, str(len(found)), f"{values * len(found):,}")
        for path, (method, shape, dtype, values), found in group_paths(
            (kernel.path, kernel[1:]) for kernel in kernels
        )
    ]


def other_weights(contents: Contents) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the other trained weights in the file, by their keys."""
    return {
        key.removeprefix("train/"): value.shape
        for key, value in contents.values.items()
        if key.startswith("train/")
    }


def method_of(site: dict[str, Any]) -> Method:
    """Return the method of one kernel in the configuration of a file."""
    return Method.registry[site["method"]].from_config(site["config"])


def format_shape(shape: Any) -> str:
    """Return a shape such as `(384, 12)`."""
    return f"({', '.join(map(str, shape))})"
