"""Adapter files that were changed by hand."""

import hashlib
import json
import zipfile


def rewritten(path, change, checksums=()):
    """The archive with its metadata or configuration changed, and its checksums right again.

    But for those that are given.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata, config = json.loads(members["metadata.json"]), json.loads(members["config.json"])
    change(metadata, config)
    members["config.json"] = json.dumps(config).encode()
    metadata["sha256"]["config.json"] = hashlib.sha256(members["config.json"]).hexdigest()
    metadata["sha256"].update(checksums)
    members["metadata.json"] = json.dumps(metadata).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
