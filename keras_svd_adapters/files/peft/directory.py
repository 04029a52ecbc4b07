"""Read, check and write HF PEFT directories. Nothing in a directory is executed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from keras_svd_adapters.runtime.atomic_files import written_at_once
from keras_svd_adapters.runtime.processes import broadcast_from

CONFIG, VALUES = "adapter_config.json", "adapter_model.safetensors"
PICKLED = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


class PeftContents(NamedTuple):
    """Contents of a PEFT directory."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write_peft(directory: str | os.PathLike[str], contents: PeftContents) -> None:
    """Write a PEFT directory; the configuration, which identifies the directory, comes last."""
    broadcast_from(0, lambda: _write(check_directory(directory), contents))


def _write(place: Path, contents: PeftContents) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / CONFIG).unlink(missing_ok=True)  # no adapter until the new values are written
    tensors = {k: np.ascontiguousarray(v, "float32") for k, v in sorted(contents.tensors.items())}
    text = json.dumps(contents.config, indent=2, sort_keys=True).encode()
    for name, data in ((VALUES, save(tensors, {"format": "pt"})), (CONFIG, text)):
        with written_at_once(place / name) as temporary:
            temporary.write_bytes(data)


def check_directory(directory: Any) -> Path:
    """Return the path of a directory; raise if the path cannot be a directory."""
    if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
        raise ValueError(f"`directory` is the path of a PEFT adapter. Received: {directory!r}")
    if Path(directory).is_file():
        raise ValueError(f"`directory` is a file: name another. Received: {str(directory)!r}")
    return Path(directory)


def read_peft(directory: str | os.PathLike[str]) -> PeftContents:
    """Read a PEFT directory without interpreting it.

    Raises:
        FileNotFoundError: If there is no such directory, or the directory lacks a file.
        ValueError: If the weights are pickled, or a file is damaged.
    """
    return broadcast_from(0, lambda: _read(check_directory(directory)))


def _read(place: Path) -> PeftContents:
    if not (place / CONFIG).is_file():
        raise FileNotFoundError(
            f"A PEFT adapter is a directory with {CONFIG} and {VALUES}. Received: {str(place)!r}"
        )
    if not (place / VALUES).is_file():
        raise _without_values(place)
    try:
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        tensors = _tensors(place / VALUES)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(
            f"The PEFT adapter is damaged: {type(error).__name__}: {error}. "
            f"Received: {str(place)!r}"
        ) from None
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} holds no settings. Received: {str(place)!r}")
    return PeftContents(config, tensors)


def _without_values(place: Path) -> Exception:
    pickled = [name for name in PICKLED if (place / name).is_file()]
    if not pickled:
        return FileNotFoundError(f"It has no {VALUES}. Received: {str(place)!r}")
    return ValueError(
        f"Its weights are in {pickled[0]}, a pickle. Reading a pickle can run any program, so it "
        "is refused. Save the adapter again in PEFT with `save_pretrained(..., "
        f"safe_serialization=True)`. Received: {str(place)!r}"
    )


def _tensors(path: Path) -> dict[str, np.ndarray]:
    return {name: _float32(told) for name, told in deserialize(path.read_bytes())}


def _float32(told: dict[str, Any]) -> np.ndarray:
    """Return a tensor of the file in float32; bfloat16 is the upper half of the bits."""
    if told["dtype"] == "BF16":
        halves = np.frombuffer(told["data"], "<u2").astype("<u4")
        values = (halves << 16).view("<f4")
    elif told["dtype"] in FLOATS:
        values = np.frombuffer(told["data"], FLOATS[told["dtype"]]).astype("float32")
    else:
        raise ValueError(f"it holds {told['dtype']} values, which no adapter can use")
    return values.reshape(told["shape"])
