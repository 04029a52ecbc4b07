"""Time one gradient pass of every variant of every case on one backend.

Every round times each variant once, in a random order, and compares it with the frozen model of the
same round.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import keras
import numpy as np
from cases import CASES, CHOSEN, VARIANTS, Case
from gradient_pass import PASSES, Pass

BACKEND = keras.backend.backend()
ROUNDS = int(os.environ.get("ROUNDS", "7"))
FEW_ROUNDS = 3  # of cases without a target
SECONDS = 0.15


def prepare(case: Case, name: str, forward: bool) -> Pass:
    keras.utils.set_random_seed(0)
    model, x = case.build()
    VARIANTS[name](model, case)
    return PASSES[BACKEND](model, x, forward)


def seconds(run: Callable[[], Any], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def compare(runs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, Any]:
    """Median seconds of each run, and its ratio to the first within each round."""
    first = next(iter(runs))
    for run in runs.values():
        run()
        run()
    times = {name: max(1, int(SECONDS / seconds(run, 1))) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            taken[name].append(seconds(runs[name], times[name]))
    return {
        name: {
            "seconds": median(values),
            "ratio": median(np.divide(values, taken[first])),
        }
        for name, values in taken.items()
    }


def main() -> None:
    chosen = os.environ.get("CASES", ",".join(CASES)).split(",")
    results = {}
    for key in chosen:
        runs, told = {}, {}
        for name in dict.fromkeys(["frozen", *CHOSEN[key]]):
            runs[name], told[name] = prepare(CASES[key], name, forward=key == "one token")
        if BACKEND == "torch":
            import peers

            runs |= peers.runs(key)
        results[key] = compare(runs, FEW_ROUNDS if key == "further" else ROUNDS)
        for name, figures in told.items():
            results[key][name] |= figures
        print(key, {k: round(v["ratio"], 2) for k, v in results[key].items()}, file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
