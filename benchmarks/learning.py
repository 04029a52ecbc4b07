"""Learning study: each method on each task, at rates that validation data choose.

`make learning` runs what is missing in `benchmarks/learning.json`, and writes LEARNING.md.
`--quick` takes one task, three rates and one seed. One process runs the rates of one method.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import learning_results as results
from learning_methods import ENTRIES, HEAD, AdamWithHead, adapt
from learning_tasks import TASKS

HERE = Path(__file__).resolve().parent
KEPT = HERE / "learning.json"
SEEDS = (0, 1)


def run(task_name: str, name: str, rate: float, seed: int, sets: Any) -> dict[str, Any]:
    """Trains once, and returns scores, trained values and seconds of a step."""
    import keras
    import numpy as np

    task = TASKS[task_name]
    keras.utils.set_random_seed(seed)
    model, backbone = task.build()
    adapt(name, model, backbone, has_head=task.head_rate is not None)
    optimizer = AdamWithHead(rate, task.head_rate or rate, task.steps)
    how = {"weighted_metrics": []} if task.head_rate is None else {}
    model.compile(optimizer=optimizer, loss=task.loss(), **how)
    x, y = sets["train"]
    per_epoch = (len(y) if y is not None else len(x)) // task.batch
    times = Times()
    data = (x,) if y is None else (x, y)
    model.fit(
        *data,
        batch_size=task.batch,
        epochs=-(-task.steps // per_epoch),
        steps_per_epoch=min(per_epoch, task.steps),
        verbose=0,
        callbacks=[times.callback()],
    )
    found = {part: task.measure(model, sets[part]) for part in ("validation", "test")}
    values = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    key = {"task": task_name, "name": name, "rate": rate, "seed": seed}
    return key | found | {"values": values, "step": times.median(), "memory": peak_memory()}


class Times:
    """Seconds of the steps of training."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def callback(self) -> Any:
        """Returns a callback of `fit` that notes the end of each step."""
        import keras

        return keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self.ends.append(time.perf_counter())
        )

    def median(self) -> float:
        """Returns the median, without the first steps, which compile."""
        steps = sorted(b - a for a, b in zip(self.ends[2:], self.ends[3:], strict=False))
        return steps[len(steps) // 2]


def peak_memory() -> int | None:
    """Returns the most bytes that this process held, if the system says so."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_method(task: str, name: str, done: list[dict[str, Any]], quick: bool) -> None:
    """Runs what a method lacks on a task, and prints each run as a line of JSON."""
    import keras

    sets = TASKS[task].sets()
    while wanted := results.next_run(done, ENTRIES[name].middle, SEEDS, quick, name == HEAD):
        done.append(run(task, name, *wanted, sets))
        print(json.dumps(done[-1]), flush=True)
        keras.backend.clear_session()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one task, three rates, one seed")
    parser.add_argument("--task", nargs="*", choices=list(TASKS), help="only these tasks")
    parser.add_argument("--method", nargs="*", choices=list(ENTRIES), help="only these methods")
    parser.add_argument("--file", type=Path, help="where the runs are stored")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    kept = options.file or (KEPT.with_suffix(".quick.json") if options.quick else KEPT)
    runs = json.loads(kept.read_text()) if kept.exists() else []
    if options.one:
        task, name = options.one
        done = [run for run in runs if (run["task"], run["name"]) == (task, name)]
        return run_method(task, name, done, options.quick)
    for task in options.task or (list(TASKS)[:1] if options.quick else TASKS):
        for name in options.method or ENTRIES:
            command = [sys.executable, __file__, "--one", task, name, "--file", str(kept)]
            command += ["--quick"] * options.quick
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    if not line.startswith("{"):  # such as a download
                        print(line, end="")
                        continue
                    runs.append(json.loads(line))
                    kept.write_text(json.dumps(runs, indent=1) + "\n")
                    print(results.line(runs[-1]), flush=True)
            if process.returncode:
                print(f"{task}, {name}: failed", flush=True)
    print(results.table(runs))
    if kept == KEPT:
        KEPT.with_name("LEARNING.md").write_text(results.page(runs, TASKS))
    return None


if __name__ == "__main__":
    main()
