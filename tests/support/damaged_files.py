"""Random changes of an adapter file: flipped bits, other members, hostile settings and values."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

MEMBERS = ("metadata.json", "config.json", "adapter.safetensors")


def flip_bits(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncate(data, rng):
    return data[: rng.randrange(len(data))]


def repeat(data, rng):
    i, j = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:j] + data[i:]


def overwrite(data, rng):
    i = rng.randrange(len(data))
    noise = rng.choice([bytes(64), b"\xff" * 64, rng.randbytes(64)])
    return data[:i] + noise + data[i + 64 :]


def swap_members(data, rng):
    def change(members):
        a, b = rng.sample(MEMBERS, 2)
        members[a], members[b] = members[b], members[a]

    return rebuilt(data, change, honest=rng.random() < 0.5)


def foreign_member(data, rng):
    name = rng.choice(["../../evil", "/etc/passwd", "config.json/", "CONFIG.JSON", "a.pickle", ""])
    return rebuilt(data, lambda members: members.update({name: rng.randbytes(20)}))


def drop_member(data, rng):
    return rebuilt(data, lambda members: members.pop(rng.choice(MEMBERS)), honest=False)


def hostile_config(data, rng):
    """A configuration that is not of this file, with the right checksum."""

    def change(members):
        config = json.loads(members["config.json"])
        inner = config["config"]
        site = rng.choice(list(inner["sites"]))
        told = inner["sites"][site]
        bad = [None, -1, [], {}, "x" * 10_000, 10**12, 1e308, [[[]]]]
        rng.choice(
            [
                lambda: told.update(method=rng.choice([*bad, "os.system"])),
                lambda: told.update(config=rng.choice([{"rank": 10**9}, {"nope": 1}, *bad])),
                lambda: told["kernel"].update(shape=rng.choice([[10**9, 10**9], *bad])),
                lambda: told.pop("kernel"),
                lambda: told.pop("method"),
                lambda: told.update(form=rng.choice(["factored", "output", *bad])),
                lambda: inner["sites"].update({"../" + site: told}),
                lambda: inner.update(sites=rng.choice(bad)),
                lambda: inner["train"].append(rng.choice(["layers/a/0_kernel", "x", 7])),
                lambda: inner.update(shared={"vera": {"vera_a": [10**9, 10**9]}}),
                lambda: inner.pop("train"),
                lambda: config.update(config=rng.choice(bad)),
            ]
        )()
        members["config.json"] = json.dumps(config).encode()

    return rebuilt(data, change)


def hostile_values(data, rng):
    """A header that claims other shapes, types or places, with the right checksum."""

    def change(members):
        raw = members["adapter.safetensors"]
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        name = rng.choice([key for key in header if key != "__metadata__"])
        told = header[name]
        rng.choice(
            [
                lambda: told.update(shape=[10**9, 10**9]),
                lambda: told.update(shape=[*told["shape"], 1]),
                lambda: told.update(dtype=rng.choice(["F64", "I8", "BF16", "X"])),
                lambda: told.update(data_offsets=[0, 2**40]),
                lambda: told.update(data_offsets=told["data_offsets"][::-1]),
                lambda: header.pop(name),
                lambda: header.update({"sites/other/m": header.pop(name)}),
            ]
        )()
        text = json.dumps(header).encode()
        if rng.random() < 0.1:
            size = rng.choice([0, 2**62])
        members["adapter.safetensors"] = len(text).to_bytes(8, "little") + text + raw[8 + size :]

    return rebuilt(data, change)


def rebuilt(data, change, honest=True):
    """The archive with its members changed; `honest` makes the checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if honest and MEMBERS[0] in members:
        try:
            metadata = json.loads(members[MEMBERS[0]])
            sums = {n: hashlib.sha256(members[n]).hexdigest() for n in MEMBERS[1:] if n in members}
            metadata["sha256"] = sums
            members[MEMBERS[0]] = json.dumps(metadata).encode()
        except (ValueError, TypeError):
            pass
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression(len(data))) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    return buffer.getvalue()


def compression(size):
    return zipfile.ZIP_STORED if size % 2 else zipfile.ZIP_DEFLATED


MUTATIONS = (
    flip_bits,
    truncate,
    repeat,
    overwrite,
    swap_members,
    foreign_member,
    drop_member,
    hostile_config,
    hostile_values,
)
