"""Fine-tunes a real encoder on real sentences, by several methods, and keeps one in a small file.

Run it with `make demo`, or with `make demo-all` for every method. The backend is that of
`KERAS_BACKEND`. Each method trains as many steps, at the rate of a few that did best on a
validation split.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import classifier
import data
import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.tables import table

OUT = Path("demo")
TRAIN, TEST = 2048, 1000
SVFT = ksa.SVFT(pattern="banded", d=2)
RUNS = {
    "frozen encoder": (None, 1e-2),
    "Keras enable_lora(8), q and v": ("keras", 1e-2),
    "LoRA(rank=8)": (ksa.LoRA(rank=8), 2e-3),
    "SVF()": (ksa.SVF(), 3e-2),
    "SVFT banded d=2": (SVFT, 1e-2),
    "SVFT banded d=2 factored": (ksa.SVFT(pattern="banded", d=2, formulation="factored"), 1e-2),
}
MORE = {
    "DoRA(rank=8)": (ksa.DoRA(rank=8), 1e-3),
    "PiSSA(rank=8)": (ksa.PiSSA(rank=8), 3e-4),
    "MiLoRA(rank=8)": (ksa.MiLoRA(rank=8), 2e-3),
    "LoRAXS(rank=16)": (ksa.LoRAXS(rank=16), 4e-3),
    "VeRA(rank=256)": (ksa.VeRA(rank=256), 2e-2),
}


class StepTimes(keras.callbacks.Callback):
    """Seconds of each training step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def fine_tune(directory: Path, method: ksa.Method | str | None, rate: float, sets: dict) -> tuple:
    """Trains the classifier with one method; returns it and the median seconds per step."""
    keras.utils.set_random_seed(0)
    model, backbone = classifier.build(directory)
    classifier.adapt(model, backbone, method, verbose=1)
    classifier.compile_for(model, rate)
    times = StepTimes()
    model.fit(*sets["train"], batch_size=32, verbose=0, callbacks=[times])
    return model, median(times.seconds[len(times.seconds) // 4 :])


def compare(directory: Path, sets: dict, runs: dict) -> keras.Model:
    """Runs every method, prints the table, and returns the model tuned with SVFT."""
    rows, kept, frozen = [], None, None
    for label, (method, rate) in runs.items():
        print(f"\n{label}, Adam({rate:g})")
        model, seconds = fine_tune(directory, method, rate, sets)
        frozen = frozen or seconds
        accuracy = model.evaluate(*sets["test"], batch_size=100, verbose=0)[1]
        values = classifier.trained_values(model)
        size = "-"
        if isinstance(method, ksa.Method):
            ksa.save_adapter(model, OUT / "adapter.keras")
            size = f"{(OUT / 'adapter.keras').stat().st_size / 1e3:,.0f} kB"
        print(f"accuracy {accuracy:.3f}, {seconds:.3f} s a step")
        rows.append((label, f"{values:,}", f"{accuracy:.3f}", f"{seconds / frozen:.2f}", size))
        if method == SVFT:
            kept = model
    print()
    print(table(("method", "trained values", "accuracy", "time / frozen", "adapter file"), rows))
    print(f"Accuracy on {TEST} sentences (standard error 0.012). Our methods adapt all kernels of")
    print("the blocks. Time is that of a training step; a frozen encoder has no backward pass.")
    return kept


def load_and_predict(directory: Path) -> None:
    """In a fresh process: the base model, the adapter file, and the same predictions."""
    sets = classifier.sentences(directory, train=TRAIN, test=TEST)
    model, _ = classifier.build(directory)
    ksa.load_adapter(model, OUT / "svft.keras", verbose=0)
    loaded = model.predict(sets["test"][0], batch_size=100, verbose=0)
    expected = np.load(OUT / "expected.npy")
    print(f"a fresh process: largest difference {np.abs(loaded - expected).max():.1e}")
    ksa.merge(model)
    merged = model.predict(sets["test"][0], batch_size=100, verbose=0)
    print(f"merged:          largest difference {np.abs(merged - expected).max():.1e}")
    assert np.abs(loaded - expected).max() < 1e-4
    assert np.abs(merged - expected).max() < 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", action="store_true", help="only load the adapter and predict")
    parser.add_argument("--all", action="store_true", help="compare every method")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    directory = data.minilm_directory()
    if arguments.load:
        return load_and_predict(directory)

    start = time.perf_counter()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    sets = classifier.sentences(directory, train=TRAIN, test=TEST)
    model, _ = classifier.build(directory)
    print(f"\nThe plan for {SVFT}, before anything is touched:\n{ksa.plan(model, SVFT)}")
    tuned = compare(directory, sets, RUNS | MORE if arguments.all else RUNS)
    print(f"\n{ksa.status(tuned)}")
    ksa.save_adapter(tuned, OUT / "svft.keras")
    np.save(OUT / "expected.npy", tuned.predict(sets["test"][0], batch_size=100, verbose=0))
    print(f"\nSaved {OUT / 'svft.keras'}; loading it elsewhere:")
    subprocess.run([sys.executable, __file__, "--load"], check=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return None


if __name__ == "__main__":
    main()
