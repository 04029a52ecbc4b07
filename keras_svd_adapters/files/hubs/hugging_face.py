"""Adapter files on the Hugging Face hub. Its library caches them and finds the user's token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_svd_adapters.files.hubs.address import CARD, MARK, HubAddress
from keras_svd_adapters.files.hubs.requirements import (
    NOT_REACHED,
    is_network_error,
    require_library,
)

LOG_IN = "type `hf auth login`, or set HF_TOKEN to a token of your account"


def download(address: HubAddress) -> Path:
    """Return the path of an adapter file in the library's cache; fetch the file if needed."""
    hub = _library(address)
    api = hub.HfApi()
    with _clear_errors(address, api):
        return Path(
            api.hf_hub_download(address.repository, address.file, revision=address.revision)
        )


def upload(address: HubAddress, adapter: bytes, card: str) -> str:
    """Commit an adapter file and its card at once; create a private repository if needed.

    A card that a person wrote or changed stays.
    """
    hub = _library(address)
    api = hub.HfApi()
    with _clear_errors(address, api, writes=True):
        new = not api.repo_exists(address.repository)
        files = {address.file: adapter}
        if new:
            api.create_repo(address.repository, private=True, exist_ok=True)
        if new or _is_ours(api, address):
            files[CARD] = card.encode()
        commit = api.create_commit(
            address.repository,
            [hub.CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=f"Add {address.file}",
            revision=address.revision,
        )
    return f"{address}: commit {commit.oid}" + ", in a new private repository" * new


def _is_ours(api: Any, address: HubAddress) -> bool:
    """Return whether the repository has no card, or one that this package wrote."""
    if not api.file_exists(address.repository, CARD, revision=address.revision):
        return True
    card = api.hf_hub_download(address.repository, CARD, revision=address.revision)
    return MARK in Path(card).read_text(encoding="utf-8")


def _library(address: HubAddress) -> Any:
    return require_library("huggingface_hub", "huggingface", address)


@contextmanager
def _clear_errors(address: HubAddress, api: Any, writes: bool = False) -> Iterator[None]:
    """Context manager: raise the errors of the hub as Python's own, with the way out."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise ConnectionError(f"{NOT_REACHED} {address.received}") from None
    except errors.GatedRepoError:
        raise PermissionError(
            f"The hub shares this repository on request only: ask on its page, then {LOG_IN}. "
            f"{address.received}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            "The hub has no such repository, or it is private. Check the name; for a private one, "
            f"{LOG_IN}. {address.received}"
        ) from None
    except errors.RevisionNotFoundError:
        raise FileNotFoundError(
            f"The repository has no revision {address.revision!r}: leave out "
            f"`@{address.revision}` for the newest. {address.received}"
        ) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(_no_such_file(address, api)) from None
    except errors.HFValidationError as error:
        raise ValueError(f"{error} {address.received}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            may = "may not write" if writes else "may not read"
            raise PermissionError(
                f"You {may} this repository: {LOG_IN} that has the right. {address.received}"
            ) from None
        raise ConnectionError(f"The hub answered: {error}. {address.received}") from None
    except Exception as error:
        if not is_network_error(error):
            raise
        raise ConnectionError(f"{NOT_REACHED} {address.received}") from None


def _no_such_file(address: HubAddress, api: Any) -> str:
    names = api.list_repo_files(address.repository, revision=address.revision)
    known = [str(address._replace(file=name)) for name in names if name.endswith(".keras")]
    instead = f"type {' or '.join(known)}" if known else "it has no .keras file"
    return f"The repository has no file {address.file!r}: {instead}. {address.received}"
