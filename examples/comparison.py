"""Compares the methods on movie sentences: each at its own best rate, with three seeds.

`make comparison` runs what is missing in `guides/comparison.json`; without that file all, in an
hour or two on 2 cores. A method's rate is the one of a few that does best on validation sentences:
all with one seed, where a best rate at the end of the few brings a further one; then with three
seeds the best, and the second if it is as good to a standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")

import classifier
import data
import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.tables import Table, TableReport

RESULTS = Path(__file__).resolve().parent.parent / "guides" / "comparison.json"
TRAIN, VALIDATION, TEST = 2048, 1000, 2000
EPOCHS, BATCH, SEEDS, MOST_RATES = 2, 32, (0, 1, 2), 7
ERROR = (0.8 * 0.2 / VALIDATION) ** 0.5  # of an accuracy of 0.8
ROUNDS = 15
REFERENCE = "Keras enable_lora(8)"


# A method, and the rates to begin with.
ENTRIES: dict[str, tuple[ksa.Method | str | None, tuple[float, ...]]] = {
    REFERENCE: ("keras", (1e-3, 3e-3, 1e-2)),
    "SVFT(pattern='banded', d=2)": (ksa.SVFT("banded", d=2), (3e-3, 1e-2, 3e-2)),
    "SVFT(pattern='random', d=2)": (ksa.SVFT("random", d=2), (3e-3, 1e-2, 3e-2)),
    "SVFT(pattern='plain')": (ksa.SVFT(), (1e-2, 3e-2, 1e-1)),
    "SVF()": (ksa.SVF(), (1e-2, 3e-2, 1e-1)),
    "LoRA(rank=2)": (ksa.LoRA(2), (1e-3, 3e-3, 1e-2)),
    "head only": (None, (3e-3, 1e-2, 3e-2)),
    "DoRA(rank=1)": (ksa.DoRA(1), (1e-3, 3e-3, 1e-2)),
    "PiSSA(rank=2)": (ksa.PiSSA(2), (3e-4, 1e-3, 3e-3)),
    "MiLoRA(rank=2)": (ksa.MiLoRA(2), (1e-3, 3e-3, 1e-2)),
    "LoRAXS(rank=44)": (ksa.LoRAXS(44), (1e-3, 3e-3, 1e-2)),
    "VeRA(rank=256)": (ksa.VeRA(256), (1e-2, 3e-2, 1e-1)),
}


def build(directory: Path, name: str, rate: float | None = None) -> keras.Model:
    """MiniLM with a fresh head and what is compared, at a rate or the first of its rates."""
    method, rates = ENTRIES[name]
    model, backbone = classifier.build(directory)
    classifier.adapt(model, backbone, method)
    classifier.compile_for(model, rate or rates[0])
    return model


def run(directory: Path, sets: dict, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains once; the accuracies are those of the last epoch."""
    keras.utils.set_random_seed(seed)
    model = build(directory, name, rate)
    model.fit(*sets["train"], batch_size=BATCH, epochs=EPOCHS, verbose=0)
    result: dict[str, Any] = {"name": name, "rate": rate, "seed": seed}
    for part in ("validation", "test"):
        result[part] = model.evaluate(*sets[part], batch_size=100, verbose=0)[1]
    result["values"] = classifier.trained_values(model)
    if isinstance(ENTRIES[name][0], ksa.Method):
        file = RESULTS.parent / ".comparison.keras"
        ksa.save_adapter(model, file)
        result["bytes"] = file.stat().st_size
        file.unlink()
    return result


def next_rate(runs: list[dict], rates: tuple[float, ...]) -> float | None:
    """The rate to try next with the first seed; `None` when the best one has neighbours."""
    done = {run["rate"]: run["validation"] for run in runs if run["seed"] == SEEDS[0]}
    for rate in rates:
        if rate not in done:
            return rate
    if len(done) >= MOST_RATES:
        return None
    best = max(done, key=done.get)
    tried = sorted(done)
    further = {tried[0]: tried[0] / 3, tried[-1]: tried[-1] * 3}.get(best)
    return rounded(further) if further and rounded(further) not in done else None


def rounded(rate: float) -> float:
    """Rates go by 1 and 3."""
    return min(
        (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
        key=lambda r: abs(np.log(r / rate)),
    )


def best_rates(runs: list[dict]) -> list[float]:
    """The rate that did best on validation sentences with the first seed, and a second as good."""
    first = sorted((r for r in runs if r["seed"] == SEEDS[0]), key=lambda r: -r["validation"])
    return [r["rate"] for r in first[:2] if first[0]["validation"] - r["validation"] < ERROR]


def best_rate(runs: list[dict]) -> float:
    """Of these, the one that did best on validation sentences over all seeds."""

    def validated(rate: float) -> float:
        return mean(run["validation"] for run in runs if run["rate"] == rate)

    return max(best_rates(runs), key=validated)


def next_run(runs: list[dict], rates: tuple[float, ...]) -> tuple[float, int] | None:
    """What a method lacks: a rate, then seeds at the best."""
    rate = next_rate(runs, rates)
    if rate is not None:
        return rate, SEEDS[0]
    done = {(run["rate"], run["seed"]) for run in runs}
    wanted = [(rate, seed) for rate in best_rates(runs) for seed in SEEDS]
    return next((each for each in wanted if each not in done), None)


def complete(directory: Path, sets: dict, results: dict[str, Any]) -> None:
    """Runs what is missing, and writes after each run."""
    for name, (_, rates) in ENTRIES.items():
        while True:
            runs = [run for run in results["runs"] if run["name"] == name]
            wanted = next_run(runs, rates)
            if wanted is None:
                break
            start = time.perf_counter()
            results["runs"].append(run(directory, sets, name, *wanted))
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(results["runs"][-1], f"{time.perf_counter() - start:.0f} s", flush=True)
            keras.backend.clear_session()


def step_times(directory: Path, sets: dict) -> dict[str, float]:
    """Median seconds of a training step, the methods taking turns."""
    models = {name: build(directory, name) for name in ENTRIES}
    inputs, labels = sets["train"]
    batch = {name: value[:BATCH] for name, value in inputs.items()}, labels[:BATCH]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(ROUNDS + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model.train_on_batch(*batch)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in seconds.items()}


class Comparison(TableReport):
    """The results: a row for each method, in a terminal or a notebook."""

    def __init__(self, results: dict[str, Any]):
        self.results = results

    def runs(self, name: str) -> list[dict]:
        """All runs of a method."""
        return [run for run in self.results["runs"] if run["name"] == name]

    def accuracies(self, name: str) -> list[float]:
        """On test sentences at the chosen rate, one for each seed."""
        rate = best_rate(self.runs(name))
        return [run["test"] for run in self.runs(name) if run["rate"] == rate]

    def validated(self, name: str) -> dict[float, float]:
        """Accuracies on validation sentences by rate, with the first seed."""
        runs = [run for run in self.runs(name) if run["seed"] == SEEDS[0]]
        return dict(sorted((run["rate"], run["validation"]) for run in runs))

    def values(self, name: str) -> int:
        """How many values train, the 770 of the head among them."""
        return self.runs(name)[0]["values"]

    def as_table(self) -> Table:
        return Table(HEADS, [self._row(name) for name in ENTRIES])

    def markdown(self) -> str:
        """The table as `guides/methods.md` has it."""
        rows = [(_as_code(name), *rest) for name, *rest in self.as_table().rows]
        lines = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (HEADS, *rows)]
        return "\n".join([lines[0], "|---" * len(HEADS) + "|", *lines[1:]])

    def _row(self, name: str) -> tuple[str, ...]:
        tests, first = self.accuracies(name), self.runs(name)[0]
        return (
            name,
            f"{best_rate(self.runs(name)):g}",
            f"{mean(tests):.3f} ± {stdev(tests):.3f}",
            f"{first['values']:,}",
            f"{first['bytes'] / 1e3:,.0f} kB" if "bytes" in first else "",
            f"{self.results['step'][name] / self.results['step'][REFERENCE]:.2f}",
        )


def _as_code(name: str) -> str:
    return f"`{name}`".replace("'", '"') if "(" in name else name


HEADS = ("method", "rate", "accuracy", "trained values", "file", "step / Keras's")


def load() -> Comparison:
    """What `make comparison` found."""
    return Comparison(json.loads(RESULTS.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", action="store_true", help="measure only the steps, again")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": [], "step": {}}
    directory = data.minilm_directory()
    sets = classifier.sentences(directory, train=TRAIN, validation=VALIDATION, test=TEST)
    if not arguments.times:
        complete(directory, sets, results)
    if arguments.times or set(results["step"]) != set(ENTRIES):
        results["step"] = step_times(directory, sets)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(Comparison(results))
    print(Comparison(results).markdown())


if __name__ == "__main__":
    main()
