"""Addresses of adapter files on hubs, such as `hf://user/name` and `kaggle://user/...`."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

ADAPTER = "adapter.keras"
CARD = "README.md"
MARK = (
    "<!-- Written by keras_svd_adapters. Remove this line, and the next save keeps your text. -->"
)
FORMS = {
    "hf": "hf://user/name, hf://user/name@revision or hf://user/name/file.keras",
    "kaggle": "kaggle://user/model/framework/variation, with /version or /version/file.keras",
}
SCHEME = re.compile(r"(\w+):/{1,2}(.+)")
PART = re.compile(r"[\w.-]*\w[\w.-]*")


class HubAddress(NamedTuple):
    """One file of one repository.

    Args:
        hub: `"hf"` or `"kaggle"`.
        repository: Name of the repository on the hub.
        revision: A branch, tag, commit or version; `None` for the newest.
        file: Path of the adapter file in the repository.
    """

    hub: str
    repository: str
    revision: str | None
    file: str

    def __str__(self) -> str:
        file = "" if self.file == ADAPTER else f"/{self.file}"
        mark = "@" if self.hub == "hf" else "/"
        revision = f"{mark}{self.revision}" if self.revision else ""
        return f"{self.hub}://{self.repository}{revision}{file}"

    @property
    def received(self) -> str:
        """The end of an error message about this address."""
        return f"Received: {str(self)!r}"


def parse_address(path: Any) -> HubAddress | None:
    """Return the address that a path names, or `None` for a path of this machine.

    Raises:
        ValueError: If the address names no hub, or no repository on its hub.
    """
    text = os.fspath(path)
    found = SCHEME.fullmatch(text) if isinstance(text, str) else None
    if found is None or len(found[1]) == 1:  # one letter: a drive of Windows
        return None
    hub, rest = found[1].lower(), found[2].strip("/")
    if hub not in FORMS:
        forms = "; ".join(FORMS.values())
        raise ValueError(f"An adapter address is a path, or {forms}. Received: {text!r}")
    address = _hf(rest) if hub == "hf" else _kaggle(rest)
    if address is None:
        raise ValueError(f"The form of this address is {FORMS[hub]}. Received: {text!r}")
    return address


def _hf(rest: str) -> HubAddress | None:
    user, _, after = rest.partition("/")
    name, _, file = after.partition("/")
    name, mark, revision = name.partition("@")
    if not _are_parts(user, name, *([revision] * bool(mark)), *filter(None, file.split("/"))):
        return None
    return HubAddress("hf", f"{user}/{name}", revision or None, file or ADAPTER)


def _kaggle(rest: str) -> HubAddress | None:
    parts = rest.split("/")
    if len(parts) < 4 or not _are_parts(*parts):
        return None
    repository, after = "/".join(parts[:4]), parts[4:]
    version = after.pop(0) if after and after[0].isdigit() else None
    return HubAddress("kaggle", repository, version, "/".join(after) or ADAPTER)


def _are_parts(*parts: str) -> bool:
    """Return whether all of these are names. Names such as `..` would lead out of a folder."""
    return all(PART.fullmatch(part) for part in parts)
