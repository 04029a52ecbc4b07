"""Decompositions kept on disk, found again by the content of their kernels.

An entry is a safetensors file: of a kernel's decomposition, the smaller factor and the singular
values, from which one product makes the rest. It is written in one step and checked when it is
read; whatever is wrong with it, the kernel is decomposed again. Several processes may share a
folder. The entries that were not read for longest go first when there are too many.
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
ALGORITHM = 1  # another number for other results
MOST_BYTES = 16 * 2**30
LEAST_OPERATIONS = 2**25  # a smaller kernel is decomposed about as quickly as its entry is read
ENDING = ".svd.safetensors"
SECONDS_TO_WRITE = 3600


@dataclass(frozen=True)
class Info:
    """What the cache holds.

    Args:
        folder: Where it is.
        entries: Number of decompositions.
        bytes: Their size on disk.
        most_bytes: The size at which the oldest are taken out.
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
    """The folder that `KERAS_SVD_ADAPTERS_CACHE` names, or else the user's own for caches."""
    return Path(os.environ.get(VARIABLE) or Path(user_cache_dir("keras_svd_adapters")) / "svd")


def info(folder: str | os.PathLike[str] | None = None) -> Info:
    """Tells what the cache of decompositions holds.

    Args:
        folder: As `cache_dir` of `enable`; `None` for the usual one.

    Returns:
        An `Info`; print it.
    """
    folder = Path(folder or default_folder())
    sizes = [size for _, size, _ in _entries(folder)]
    return Info(folder, len(sizes), sum(sizes), MOST_BYTES)


def clear(folder: str | os.PathLike[str] | None = None) -> None:
    """Empties the cache of decompositions.

    Args:
        folder: As `cache_dir` of `enable`; `None` for the usual one.
    """
    folder = Path(folder or default_folder())
    for path in [*(path for _, _, path in _entries(folder)), *_litter(folder)]:
        path.unlink(missing_ok=True)


def worth_keeping(m: int, n: int) -> bool:
    """Whether reading an entry is much quicker than decomposing an `(m, n)` kernel again."""
    return min(m, n) * m * n >= LEAST_OPERATIONS


def shapes(folder: Path) -> set[tuple[int, ...]]:
    """The shapes of the kernels of which there are entries."""
    names = [path.name.split("-")[0].split("x") for path in folder.glob(f"*-*{ENDING}")]
    return {tuple(map(int, sizes)) for sizes in names if all(size.isdigit() for size in sizes)}


def entry(K: np.ndarray, folder: Path, device: str = "cpu") -> Path:
    """Where the decomposition of a kernel on a device is or would be."""
    sha256 = hashlib.sha256(f"{ALGORITHM} {device} {K.shape} {K.dtype}".encode())
    sha256.update(np.ascontiguousarray(K))  # type: ignore[arg-type]
    return folder / f"{'x'.join(map(str, K.shape))}-{sha256.hexdigest()}{ENDING}"


def load(K: np.ndarray, path: Path) -> SVD | None:
    """The decomposition of a kernel from its entry, `None` if there is none that is whole."""
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("sha256")
        if digest != _digest(arrays):
            raise ValueError("its checksum is wrong")
        with suppress(OSError):  # another user's
            os.utime(path)
        return decomposition_of(K, arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file brings about
        warn(
            f"An entry of the cache of decompositions is damaged ({error}); its kernel is "
            f"decomposed again. Received: {str(path)!r}"
        )
        return None


def arrays_of(found: SVD) -> dict[str, np.ndarray]:
    """What a decomposition is made of beside its kernel."""
    names = ("smaller", "s") if isinstance(found, Decomposition) else ("U", "s", "Vt")
    return {name: np.ascontiguousarray(getattr(found, name)) for name in names}


def decomposition_of(K: np.ndarray, arrays: dict[str, np.ndarray]) -> SVD:
    """Takes back `arrays_of`."""
    return Decomposition(K, **arrays) if "smaller" in arrays else Triplets(**arrays)


def save(found: SVD, path: Path) -> None:
    """Keeps a decomposition; warns and goes on where the folder cannot be written."""
    arrays = arrays_of(found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_at_once(path) as temporary:
            temporary.write_bytes(serialize(arrays, {"sha256": _digest(arrays)}))
        _evict(path)
    except OSError as error:
        warn(
            f"The decompositions are not kept ({error}). Give another folder as `cache_dir=`, or "
            f"`cache=False`. Received: {str(path.parent)!r}"
        )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} {array.shape} {array.dtype}".encode())
        sha256.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return sha256.hexdigest()


def _files(folder: Path, pattern: str) -> list[tuple[float, int, Path]]:
    """When each file was last touched, its size, and its path."""
    found = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process took it out
            told = path.stat()
            found.append((told.st_mtime, told.st_size, path))
    return sorted(found)


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """When each entry was last read, its size, and its path."""
    return _files(folder, f"*{ENDING}")


def _litter(folder: Path) -> list[Path]:
    """Files that a process which was killed had begun to write."""
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
