"""Decompositions cached on disk, and found by the content of their kernels.

An entry is a safetensors file. It stores the smaller factor of a kernel's decomposition and the
singular values; one product makes the other factor. An entry is written in one step and checked
when it is read. If an entry has any fault, the kernel is decomposed again. Several processes may
share a folder. If the cache is too large, the entries that were not read for the longest time are
deleted first.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from platformdirs import user_cache_dir
from safetensors import safe_open
from safetensors.numpy import save as serialize

from keras_svd_adapters.kernels.svd.decomposition import Decomposition, Triplets
from keras_svd_adapters.methods.contract import SVD
from keras_svd_adapters.runtime.atomic_files import written_at_once
from keras_svd_adapters.runtime.warnings import warn

VARIABLE = "KERAS_SVD_ADAPTERS_CACHE"
ALGORITHM = 1  # change this number if the results change
MOST_BYTES = 16 * 2**30
LEAST_OPERATIONS = 2**25  # a smaller kernel is decomposed about as quickly as its entry is read
ENDING = ".svd.safetensors"
SECONDS_TO_WRITE = 3600


@dataclass(frozen=True)
class Info:
    """Contents of the cache.

    Args:
        folder: Folder of the cache.
        entries: Number of decompositions.
        bytes: Size of the decompositions on disk, in bytes.
        most_bytes: Size limit in bytes, at which the oldest entries are
            deleted.
    """

    folder: Path
    entries: int
    bytes: int
    most_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.entries} decompositions, {self.bytes / 1e6:,.1f} MB of at most "
            f"{self.most_bytes / 1e9:,.1f} GB, in {self.folder}"
        )

    __repr__ = __str__


def default_folder() -> Path:
    """Return the folder set by `KERAS_SVD_ADAPTERS_CACHE`, or one in the user's cache folder."""
    return Path(os.environ.get(VARIABLE) or Path(user_cache_dir("keras_svd_adapters")) / "svd")


def info(folder: str | os.PathLike[str] | None = None) -> Info:
    """Return the contents of the cache of decompositions.

    Args:
        folder: As `cache_dir` of `enable`; `None` for the default folder.

    Returns:
        An `Info`; print it.
    """
    folder = Path(folder or default_folder())
    sizes = [size for _, size, _ in _entries(folder)]
    return Info(folder, len(sizes), sum(sizes), MOST_BYTES)


def clear(folder: str | os.PathLike[str] | None = None) -> None:
    """Empty the cache of decompositions.

    Args:
        folder: As `cache_dir` of `enable`; `None` for the default folder.
    """
    folder = Path(folder or default_folder())
    for path in [*(path for _, _, path in _entries(folder)), *_litter(folder)]:
        path.unlink(missing_ok=True)


def worth_keeping(m: int, n: int) -> bool:
    """Return whether reading an entry is much faster than decomposing an `(m, n)` kernel again."""
    return min(m, n) * m * n >= LEAST_OPERATIONS


def shapes(folder: Path) -> set[tuple[int, ...]]:
    """Return the shapes of the kernels that have entries."""
    names = [path.name.split("-")[0].split("x") for path in folder.glob(f"*-*{ENDING}")]
    return {tuple(map(int, sizes)) for sizes in names if all(size.isdigit() for size in sizes)}


def entry(K: np.ndarray, folder: Path, precision: str = "cpu") -> Path:
    """Return the path of the entry for a kernel and a precision, even if it does not exist."""
    sha256 = hashlib.sha256(f"{ALGORITHM} {precision} {K.shape} {K.dtype}".encode())
    sha256.update(np.ascontiguousarray(K))  # type: ignore[arg-type]
    return folder / f"{'x'.join(map(str, K.shape))}-{sha256.hexdigest()}{ENDING}"


def load(K: np.ndarray, path: Path) -> SVD | None:
    """Return the decomposition of a kernel from its entry, or `None` if no entry is intact."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("sha256")
        if digest != _digest(arrays):
            raise ValueError("its checksum is wrong")
        with suppress(OSError):  # the file of another user
            os.utime(path)
        return decomposition_of(K, arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file can raise any error
        warn(
            f"An entry of the cache of decompositions is damaged ({error}); its kernel is "
            f"decomposed again. Received: {str(path)!r}"
        )
        return None


def arrays_of(found: SVD) -> dict[str, np.ndarray]:
    """Return the arrays that define a decomposition together with its kernel."""
    names = ("smaller", "s") if isinstance(found, Decomposition) else ("U", "s", "Vt")
    return {name: np.ascontiguousarray(getattr(found, name)) for name in names}


def decomposition_of(K: np.ndarray, arrays: dict[str, np.ndarray]) -> SVD:
    """Undo `arrays_of`."""
    return Decomposition(K, **arrays) if "smaller" in arrays else Triplets(**arrays)


def save(found: SVD, path: Path) -> None:
    """Cache a decomposition; warn and continue if the folder cannot be written."""
    arrays = arrays_of(found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_at_once(path) as temporary:
            temporary.write_bytes(serialize(arrays, {"sha256": _digest(arrays)}))
        _evict(path)
    except OSError as error:
        warn(
            f"The decompositions cannot be cached ({error}). Give another folder as `cache_dir=`, "
            f"or `cache=False`. Received: {str(path.parent)!r}"
        )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} {array.shape} {array.dtype}".encode())
        sha256.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return sha256.hexdigest()


def _files(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """Return the modification time, size and path of each file, oldest first."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process deleted it
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    return sorted(found)


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """Return the time of the last read, size and path of each entry."""
    return _files(folder, f"*{ENDING}")


def _litter(folder: Path) -> list[Path]:
    """Return incomplete files of processes that were killed while writing."""
    oldest = time.time() - SECONDS_TO_WRITE
    return [path for when, _, path in _files(folder, f".*{ENDING}.*") if when < oldest]


def _evict(newest: Path) -> None:
    for path in _litter(newest.parent):
        path.unlink(missing_ok=True)
    entries = _entries(newest.parent)
    spare = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, path in entries:
        if spare <= 0:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            spare -= size
