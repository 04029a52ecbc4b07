"""Write adapter archives, and read and check them. Nothing in an archive is executed.

An archive is a zip in the layout of Keras: `metadata.json` (format version, checksums),
`config.json` (plain data) and `adapter.safetensors` (values). Reading verifies the checksums
before it parses the data.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keras_svd_adapters.files.hubs.address import parse_address
from keras_svd_adapters.files.hubs.transfer import read_bytes, upload
from keras_svd_adapters.runtime.atomic_files import written_at_once
from keras_svd_adapters.runtime.processes import broadcast_from
from keras_svd_adapters.runtime.warnings import warn

FORMAT = "keras_svd_adapters"
FORMAT_VERSION = 2  # the highest; files of version 1 hold their values as they are
CONFIG, VALUES, METADATA = "config.json", "adapter.safetensors", "metadata.json"
MEMBERS = {CONFIG, VALUES, METADATA}
MAX_TEXT_BYTES = 16 * 2**20
SAMPLE_BYTES = 2**20  # of the values, which are compressed if these become half as large
LARGEST_RATIO = 200  # of the values to the file
UNREAD = (FileNotFoundError, IsADirectoryError, PermissionError, ConnectionError, ImportError)


Card = Callable[[], str]


class AdapterFileError(ValueError):
    """Error about a file that is not an adapter file, is damaged, or does not fit the model."""


class Contents(NamedTuple):
    """Contents of an adapter archive."""

    config: dict[str, Any]
    values: dict[str, np.ndarray]


class Archive(NamedTuple):
    """An adapter archive: its contents, its metadata and its size in bytes."""

    contents: Contents
    metadata: dict[str, Any]
    size: int


def write_archive(path: str | os.PathLike[str], contents: Contents, card: Card = str) -> str:
    """Write an archive in one step: the path holds the old file or the new one, never a part.

    Args:
        path: A path, or an address of a hub.
        contents: What the archive holds.
        card: Returns the page that a hub shows with the file.

    Returns:
        A line that says where a hub has the file; for a path, an empty line.
    """
    config = json.dumps(contents.config, indent=1, sort_keys=True).encode()
    values = save({k: np.ascontiguousarray(v) for k, v in sorted(contents.values.items())})
    storage = _storage(values)
    metadata = {
        "format": FORMAT,
        "format_version": 2 if storage == zipfile.ZIP_DEFLATED else 1,
        "keras_version": keras.__version__,
        "sha256": {CONFIG: _sha256(config), VALUES: _sha256(values)},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, METADATA, json.dumps(metadata, indent=1, sort_keys=True).encode())
        _add(archive, CONFIG, config)
        _add(archive, VALUES, values, storage)
    if (address := parse_address(path)) is not None:
        return broadcast_from(0, lambda: upload(address, buffer.getvalue(), card()))
    return broadcast_from(0, lambda: _write(Path(path), buffer.getvalue()))


def _write(path: Path, data: bytes) -> str:
    with written_at_once(path) as temporary:
        temporary.write_bytes(data)
    return ""


def _add(archive: zipfile.ZipFile, name: str, data: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
    archive.writestr(zipfile.ZipInfo(name), data, compress_type=how)


def _storage(values: bytes) -> int:
    """Return how to store values: compressed if that at least halves a sample of them."""
    middle = values[len(values) // 2 :][:SAMPLE_BYTES]
    halves = 2 * len(zlib.compress(middle)) < len(middle)
    return zipfile.ZIP_DEFLATED if halves else zipfile.ZIP_STORED


def read_archive(path: str | os.PathLike[str]) -> Contents:
    """Read and check the contents of an archive; see `open_archive`."""
    return open_archive(path).contents


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Read and check an archive.

    Args:
        path: A path, or an address of a hub.

    Raises:
        FileNotFoundError: If there is no such file.
        ConnectionError: If a hub cannot be reached.
        PermissionError: If the file may not be read.
        AdapterFileError: If the file is not an adapter file, is damaged, or has
            a newer format.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise AdapterFileError(f"`filepath` is the path of an adapter file. Received: {path!r}")
    parse_address(path)
    try:
        data = broadcast_from(0, lambda: read_bytes(path))
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            metadata = json.loads(_member(archive, METADATA, MAX_TEXT_BYTES, path))
            _check_metadata(metadata, names, path)
            config = _member(archive, CONFIG, MAX_TEXT_BYTES, path)
            ratio = 1 if metadata["format_version"] == 1 else LARGEST_RATIO
            values = _member(archive, VALUES, ratio * len(data), path)
        for name, member in ((CONFIG, config), (VALUES, values)):
            if _sha256(member) != metadata["sha256"].get(name):
                raise _damaged(path, f"the checksum of {name} is wrong")
        contents = Contents(json.loads(config)["config"], load(values))
        return Archive(contents, metadata, len(data))
    except (AdapterFileError, *UNREAD):
        raise
    except zipfile.BadZipFile as error:
        raise _damaged(path, f"it is not a complete zip archive ({error})") from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    except Exception as error:  # zlib, struct, recursion, unsupported compression and others
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def warn_of_nan(values: dict[str, np.ndarray], path: Any) -> None:
    """Warn if values are NaN or infinite."""
    if broken := [key for key, value in values.items() if not np.isfinite(value).all()]:
        warn(
            "The adapter contains NaN or infinite values, and so does its file. "
            f"Received: {str(path)!r}, {broken[0]}"
        )


def _member(archive: zipfile.ZipFile, name: str, limit: int, path: Any) -> bytes:
    if name not in archive.namelist():
        raise AdapterFileError(
            f"This is not an adapter file: it has no {name}. A whole model is loaded by "
            f"`keras.saving.load_model`. Received: {str(path)!r}"
        )
    if archive.getinfo(name).file_size > limit:
        raise _damaged(path, f"{name} claims more than {limit} bytes")
    return archive.read(name)


def _check_metadata(metadata: Any, names: list[str], path: Any) -> None:
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise AdapterFileError(
            "This is not an adapter file of keras_svd_adapters. A whole model is loaded by "
            f"`keras.saving.load_model`. Received: {str(path)!r}"
        )
    version = metadata.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise AdapterFileError(
            f"The file has format version {version!r}, and this package reads up to "
            f"{FORMAT_VERSION}: `pip install --upgrade keras-svd-adapters`. "
            f"Received: {str(path)!r}"
        )
    if set(names) != MEMBERS or len(names) != len(MEMBERS):
        raise _damaged(path, f"it should hold {sorted(MEMBERS)} and holds {sorted(names)}")


def _damaged(path: Any, why: str) -> AdapterFileError:
    return AdapterFileError(
        f"The adapter file is damaged: {why}. Fetch or save it again. Received: {str(path)!r}"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
