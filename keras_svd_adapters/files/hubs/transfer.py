"""Read and write adapter files, on this machine or on a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_svd_adapters.files.hubs import hugging_face, kaggle
from keras_svd_adapters.files.hubs.address import HubAddress, parse_address

HUBS = {"hf": hugging_face, "kaggle": kaggle}


def read_bytes(path: Any) -> bytes:
    """Return the bytes of a file; fetch it first if `path` is an address of a hub."""
    if (address := parse_address(path)) is None:
        return Path(path).read_bytes()
    return HUBS[address.hub].download(address).read_bytes()


def upload(address: HubAddress, adapter: bytes, card: str) -> str:
    """Upload an adapter file and its card; return a line that says where they are."""
    return HUBS[address.hub].upload(address, adapter, card)
