"""Adapter files among the models of Kaggle. Its library caches them and finds the user's key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keras_svd_adapters.files.hubs.address import ADAPTER, CARD, HubAddress
from keras_svd_adapters.files.hubs.requirements import (
    NOT_REACHED,
    is_network_error,
    require_library,
)

LOG_IN = "type `kagglehub.login()`, or set KAGGLE_API_TOKEN to a token of your account"
VERSIONED = (
    "Give the version, such as kaggle://user/model/framework/variation/1: a version that was "
    "fetched before comes from the cache."
)


def download(address: HubAddress) -> Path:
    """Return the path of an adapter file in the library's cache; fetch the file if needed."""
    hub = _library(address)
    handle = "/".join(filter(None, (address.repository, address.revision)))
    with _clear_errors(address):
        return Path(hub.model_download(handle, path=address.file))


def upload(address: HubAddress, adapter: bytes, card: str) -> str:
    """Upload an adapter file and its card as a new version; a new model is private."""
    hub = _library(address)
    if address.revision or address.file != ADAPTER:
        raise ValueError(
            "Kaggle numbers the versions itself, and a version is a whole folder: type "
            f"kaggle://{address.repository}. {address.received}"
        )
    with TemporaryDirectory() as folder, _clear_errors(address):
        (Path(folder) / ADAPTER).write_bytes(adapter)
        (Path(folder) / CARD).write_text(card, encoding="utf-8")
        hub.model_upload(address.repository, folder, version_notes=f"Add {ADAPTER}")
    return f"{address}: a new version (a new model is private)"


def _library(address: HubAddress) -> Any:
    return require_library("kagglehub", "kaggle", address)


@contextmanager
def _clear_errors(address: HubAddress) -> Iterator[None]:
    """Context manager: raise the errors of the hub as Python's own, with the way out."""
    import requests  # the library of kagglehub for HTTP
    from kagglehub import exceptions

    try:
        yield
    except (exceptions.UnauthenticatedError, exceptions.CredentialError):
        raise PermissionError(f"Kaggle asks who you are: {LOG_IN}. {address.received}") from None
    except requests.HTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"There is no such model, or you may not read or change it. Check the name; for a "
                f"model of yours, {LOG_IN}. {address.received}"
            ) from None
        if status == 404:
            raise FileNotFoundError(_not_found(address)) from None
        raise ConnectionError(f"Kaggle answered: {error}. {address.received}") from None
    except (exceptions.BackendError, exceptions.DataCorruptionError) as error:
        raise ConnectionError(f"Kaggle answered: {error}. {address.received}") from None
    except ValueError as error:
        if "not present" not in str(error):  # as a notebook of Kaggle says of an attached model
            raise
        raise FileNotFoundError(_not_found(address)) from None
    except Exception as error:
        if not is_network_error(error):
            raise
        unversioned = "" if address.revision else f" {VERSIONED}"
        raise ConnectionError(f"{NOT_REACHED}{unversioned} {address.received}") from None


def _not_found(address: HubAddress) -> str:
    return (
        f"Kaggle has no such model or version, or no file {address.file!r} in it. "
        f"{address.received}"
    )
