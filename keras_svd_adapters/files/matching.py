"""Check whether an adapter file fits a model, before the model changes."""

from __future__ import annotations

import difflib
import os
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.files.archive import AdapterFileError, Contents
from keras_svd_adapters.files.fingerprints import distance, kernel_fingerprint, kernel_sample
from keras_svd_adapters.kernels.calibrated import CALIBRATED
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.sites.search import sites_by_key
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.runtime.warnings import warn

Path = str | os.PathLike[str]
SAME_BASE, SAME_BASE_INT4, SHOWN = 0.05, 0.2, 3
ANOTHER_BASE = "Load the base model that it was trained on"
NEWER = "`pip install --upgrade keras-svd-adapters`, or import the module that defines the method"
DAMAGED = "Fetch or save it again"
TAKE_OFF = "Remove those with `delete_adapter` first"


class KernelMarks:
    """Fingerprints of the kernels of a model, each computed once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, bool], tuple[dict[str, Any], np.ndarray]] = {}

    def of(self, site: Site, full: bool) -> tuple[dict[str, Any], np.ndarray]:
        """Return the fingerprint of a kernel, and a few of its values."""
        if (site.key, full) not in self._found:
            matrix = site.matrix()
            found = kernel_fingerprint(matrix, site.dtype, full), kernel_sample(matrix)
            self._found[site.key, full] = found
        return self._found[site.key, full]


def match_sites(
    model: keras.layers.Layer,
    contents: Contents,
    filepath: Path,
    strict: bool = True,
    marks: KernelMarks | None = None,
) -> list[tuple[Site, Method]]:
    """Return the sites and methods of a file that fit the model and its kernels.

    If some do not fit, the function raises an error. Without `strict`, it warns and
    returns the sites that fit, and raises an error only if no site fits.
    """
    marks = marks or KernelMarks()
    by_key = sites_by_key(model)
    chosen: list[tuple[Site, Method]] = []
    problems: list[str] = []
    dtypes: list[tuple[str, str, float]] = []
    for key, told in contents.config["sites"].items():
        if why := _obstacle(by_key, key, told):
            problems.append(why)
            continue
        site, method = by_key[key], _method(told, filepath)
        if why := _other_values(site, told, contents, dtypes, marks):
            problems.append(why)
        _check_values(site, method, contents, filepath)
        chosen.append((site, method))
    if problems and (strict or not chosen):
        raise _mismatch_error(filepath, _summary(problems, contents))
    if problems:
        _warn_of(_summary(problems, contents), filepath)
    if dtypes:
        theirs, ours, far = max(dtypes, key=lambda told: told[2])
        _warn_of(
            f"The adapter was trained on {theirs} kernels. These are {ours} and differ by "
            f"{far:.1e} of their norm at most, so outputs differ as well",
            filepath,
        )
    if not chosen:
        raise _mismatch_error(filepath, "it adapts no layer")
    return chosen


def _obstacle(by_key: dict[str, Site], key: str, told: dict[str, Any]) -> str | None:
    """Return why the adapter of a layer cannot be attached to this model, or `None`."""
    if key not in by_key:
        near = difflib.get_close_matches(key, by_key, n=1)
        return (
            f"it adapts `{key}`, which this model lacks, or has only after `register_kernels`; "
            f"nearest: {near}"
        )
    site = by_key[key]
    if why := site.exclusion_reason(tied=True):
        return f"`{site.path}` cannot be adapted: {why}"
    ours, theirs = list(site.view.matrix_shape), told["kernel"]["shape"]
    return None if ours == theirs else f"the kernel of `{site.path}` was {theirs} and is {ours}"


def _other_values(
    site: Site,
    told: dict[str, Any],
    contents: Contents,
    dtypes: list[tuple[str, str, float]],
    marks: KernelMarks,
) -> str | None:
    """Return why a kernel differs from the file's; record kernels that differ only in dtype."""
    theirs = told["kernel"]
    ours, values = marks.of(site, full="sha256_of_all" in theirs)
    if ours == theirs:
        return None
    if ours["dtype"] != theirs["dtype"]:
        sample = contents.values[f"sites/{site.key}/sample_K"]
        far = distance(values, sample)
        rough = {"int4", "nf4", *CALIBRATED} & {ours["dtype"], theirs["dtype"]}
        if far <= (SAME_BASE_INT4 if rough else SAME_BASE):
            dtypes.append((theirs["dtype"], ours["dtype"], far))
            return None
    return f"the kernel of `{site.path}` has other values"


def _summary(problems: list[str], contents: Contents) -> str:
    count = len(contents.config["sites"])
    return f"{count - len(problems)} of its {count} layers match. " + "; ".join(
        problems[:SHOWN] + ["..."] * (len(problems) > SHOWN)
    )


def _warn_of(what: str, filepath: Path) -> None:
    warn(f"{what}. Received: {str(filepath)!r}")


def _method(told: dict[str, Any], filepath: Path) -> Method:
    known = Method.registry.get(told["method"])
    if known is None:
        raise _mismatch_error(
            filepath,
            f"its method {told['method']!r} is not one of {', '.join(sorted(Method.registry))}",
            NEWER,
        )
    try:
        return known.from_config(told["config"])
    except (TypeError, ValueError) as error:
        why = f"its method has hyperparameters unknown here: {error}"
        raise _mismatch_error(filepath, why, NEWER) from None


def _check_values(site: Site, method: Method, contents: Contents, filepath: Path) -> None:
    """Raise if the arrays of a site differ from the declarations of its method."""
    form = contents.config["sites"][site.key].get("form")
    if form is not None and form not in method.forms:
        raise _mismatch_error(filepath, f"`{site.path}` has the unknown form {form!r}", NEWER)
    for name, array in site.arrays(method, form).items():
        if (array.in_file or form is not None) and not array.shared:
            value = contents.values[value_key(contents.config["sites"], site.key, method, name)]
            dtype = "float32" if array.dtype == "compute" else array.dtype
            wide = array.dtype == "compute" and value.dtype == "float64"
            if value.shape != array.shape or (value.dtype != np.dtype(dtype) and not wide):
                raise _mismatch_error(
                    filepath,
                    f"`{name}` of `{site.path}` is {value.dtype} {value.shape}, not "
                    f"{dtype} {array.shape}",
                    DAMAGED,
                )
            if (
                name == "pairs"
                and not ((value >= 0) & (value < min(site.view.m, site.view.n))).all()
            ):
                why = f"`pairs` of `{site.path}` are outside the matrix"
                raise _mismatch_error(filepath, why, DAMAGED)


def value_key(sites: dict[str, Any], key: str, method: Method, array: str) -> str:
    """Return the key of an array among the values of a file; a file stores tied arrays once.

    Args:
        sites: What the file says of each kernel.
        key: Key of the kernel.
        method: Method of its adapter.
        array: Name of the array.
    """
    holder = sites[key].get("tied_to", key) if array in method.tied else key
    return f"sites/{holder}/{array}"


def _mismatch_error(filepath: Path, why: str, instead: str = ANOTHER_BASE) -> AdapterFileError:
    return AdapterFileError(
        f"The adapter does not fit this model: {why}. {instead}. Received: {str(filepath)!r}"
    )
