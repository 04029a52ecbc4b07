"""What both hubs need: their libraries, and a network."""

from __future__ import annotations

import importlib
from typing import Any

from keras_svd_adapters.files.hubs.address import HubAddress

NOT_REACHED = (
    "The hub cannot be reached, and the cache of its library does not hold this file. "
    "Check the network and try again."
)
NETWORK_LIBRARIES = ("httpx", "httpcore", "requests", "urllib3")


def require_library(name: str, extra: str, address: HubAddress) -> Any:
    """Import the library of a hub; raise an error that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f'This address needs `pip install "keras-svd-adapters[{extra}]"`. {address.received}'
        ) from None


def is_network_error(error: Exception) -> bool:
    """Return whether a connection failed, in the library of the network that a hub uses."""
    known = type(error).__module__.partition(".")[0] in NETWORK_LIBRARIES
    return known or isinstance(error, ConnectionError)
