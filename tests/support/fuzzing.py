"""Adapter files changed at random: each loads to the very same values, or is refused.

`make fuzz` runs ten thousand, and two hundred kills while saving; the suite runs fewer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import Contents, write_archive

SECONDS, MEGABYTES = 2.0, 200
MEMBERS = ("metadata.json", "config.json", "adapter.safetensors")


def base():
    """A small model that is the same in every run."""
    layers = [keras.layers.Dense(12, name="a"), keras.layers.Dense(8, name="b")]
    model = keras.Sequential([keras.Input((10,)), *layers])
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def adapted():
    model = base()
    method = {"a": ksa.SVFT(pattern="random", d=1), "b": ksa.LoRA(rank=2)}
    ksa.enable(model, targets=method)
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def state(model):
    return [(w.path, w.trainable, w.numpy().tobytes()) for w in model.weights], type(model)


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


def run(count, seed=0):
    """Loads mutated files; returns how many loaded and how many were refused."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    ksa.save_adapter(adapted(), folder / "good.keras")
    good = (folder / "good.keras").read_bytes()
    reference = base()
    ksa.load_adapter(reference, folder / "good.keras", verbose=0)
    expected, plain = state(reference), base()
    before = state(plain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = refused = 0
    for index in range(count):
        mutation = MUTATIONS[index % len(MUTATIONS)]
        data = mutation(good, rng)
        path = folder / "bad.keras"
        path.write_bytes(data)
        start = time.process_time()
        try:
            ksa.load_adapter(plain, path, verbose=0)
        except ksa.AdapterFileError as error:
            refused, message = refused + 1, str(error)
        else:
            loaded, message = loaded + 1, "Received: "
            found = state(plain)
            assert [w[1:] for w in found[0]] == [w[1:] for w in expected[0]], (mutation, index)
            ksa.delete_adapter(plain, "default")
        assert "Received: " in message, (mutation.__name__, index)
        assert state(plain) == before, (mutation.__name__, index)
        assert time.process_time() - start < SECONDS, (mutation.__name__, index)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert grown < MEGABYTES, f"{grown:.0f} MB"
    return loaded, refused


def kill(count, seed=0):
    """Kills processes while they save; the file is the old one or the new one."""
    rng = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    path, whole = folder / "a.keras", []
    contents = [Contents({"config": i}, {"values": np.full(300_000, i, "float32")}) for i in (0, 1)]
    for each in contents:
        write_archive(path, each)
        whole.append(path.read_bytes())
    seen = set()
    for _ in range(count):
        child = os.fork()
        if child == 0:
            while True:
                for each in contents:
                    write_archive(path, each)
        time.sleep(rng.uniform(0.001, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = path.read_bytes()
        assert found in whole
        seen.add(whole.index(found))
    torn = [other for other in folder.iterdir() if other != path]
    return len(torn), seen


if __name__ == "__main__":
    total = int(sys.argv[1])
    started = time.perf_counter()
    good, bad = run(total)
    print(f"{total} files: {good} loaded to the same values, {bad} were refused, no model changed;")
    print(f"{time.perf_counter() - started:.0f} s")
    torn, _ = kill(total // 50)
    print(f"{total // 50} kills while saving, {torn} of them half way: the file was always whole")
