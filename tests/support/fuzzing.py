"""Adapter files changed at random: each loads to the very same values, or is refused.

`make fuzz` runs ten thousand, and two hundred kills while saving; the suite runs fewer.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from damaged_files import MUTATIONS

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import Contents, write_archive

SECONDS, MEGABYTES = 2.0, 200


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
