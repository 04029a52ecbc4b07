"""Parts of the learning study: training runs, their costs, and the rates that the finder says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import keras
import learning_results as results
import numpy as np
from learning_methods import ALL, HEAD, PEERS, AdamWithHead, adapt
from learning_tasks import TASKS, Sets, Task

import keras_svd_adapters as ksa

CALIBRATION = 256  # samples that a start may read
TIMED, WARM = 12, 3  # steps of a measurement, and those of them that only warm up

Records = list[dict[str, Any]]


def write(record: dict[str, Any]) -> None:
    """Prints a record for the process that keeps them."""
    print(json.dumps(record), flush=True)


def prepared(task: Task, name: str, seed: int) -> keras.Model:
    """Returns the model of a task, adapted."""
    keras.utils.set_random_seed(seed)
    model, backbone = task.build()
    method, data = ALL[name].method, None
    if method is not None and method.needs:
        compile_for(model, task, keras.optimizers.SGD())
        data = keras.tree.map_structure(lambda part: part[:CALIBRATION], task.sets()["train"])
    adapt(name, model, backbone, has_head=task.head_rate is not None, data=data)
    return model


def compile_for(model: keras.Model, task: Task, optimizer: keras.optimizers.Optimizer) -> None:
    """Compiles a model with the loss of a task; a language model without its own metrics."""
    how = {"weighted_metrics": []} if task.head_rate is None else {}
    model.compile(optimizer=optimizer, loss=task.loss(), **how)


def fit(model: keras.Model, task: Task, sets: Sets, steps: int, callbacks: list[Any]) -> None:
    """Trains a number of steps."""
    x, y = sets["train"]
    per_epoch = (len(y) if y is not None else len(x)) // task.batch
    model.fit(
        *((x,) if y is None else (x, y)),
        batch_size=task.batch,
        epochs=-(-steps // per_epoch),
        steps_per_epoch=min(per_epoch, steps),
        verbose=0,
        callbacks=callbacks,
    )


def run_rates(task_name: str, name: str, done: Records, quick: bool) -> None:
    """Trains at each rate and seed that a method lacks on a task."""
    task = TASKS[task_name]
    seeds = range(task.seeds)
    while wanted := results.next_run(done, ALL[name].middle, seeds, quick, name == HEAD):
        rate, seed = wanted
        found = trained(task, name, rate, seed)
        done.append({"task": task_name, "name": name, "rate": rate, "seed": seed} | found)
        write(done[-1])
        keras.backend.clear_session()


def trained(task: Task, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Trains once, and returns the scores and the number of trained values."""
    if name in PEERS:
        import learning_peers

        return learning_peers.train(task, name, rate, seed)
    sets, model = task.sets(), prepared(task, name, seed)
    compile_for(model, task, AdamWithHead(rate, task.head_rate, task.steps))
    fit(model, task, sets, task.steps, [])
    found: dict[str, Any] = {
        part: task.measure(model, sets[part]) for part in ("validation", "test")
    }
    found["values"] = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return found


def measure_costs(task_name: str, name: str, done: Records, quick: bool) -> None:
    """Measures the median seconds of a step, and the most memory of the process."""
    if done:
        return
    task, ends = TASKS[task_name], []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    model = prepared(task, name, seed=0)
    rate = ALL[name].middle
    compile_for(model, task, AdamWithHead(rate, task.head_rate, task.steps))
    fit(model, task, task.sets(), TIMED, [note])
    step = float(np.median(np.diff(ends[WARM - 1 :])))
    write({"task": task_name, "name": name, "step": step, "memory": peak_memory()})


def peak_memory() -> int | None:
    """Returns the most bytes that this process held, if the system says so."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def find_rate(task_name: str, name: str, done: Records, quick: bool) -> None:
    """Asks `find_learning_rate`; the head has its own rate, as in the runs."""
    if done or name == HEAD:
        return
    task = TASKS[task_name]
    model = prepared(task, name, seed=0)
    compile_for(model, task, AdamWithHead(ALL[name].middle, task.head_rate, None))
    x, y = task.sets()["train"]
    found = ksa.find_learning_rate(model, x, y, batch_size=task.batch, high=1.0, verbose=0)
    write({"task": task_name, "name": name, "suggestion": found.suggestion})


PARTS: dict[str, Callable[[str, str, Records, bool], None]] = {
    "runs": run_rates,
    "costs": measure_costs,
    "finder": find_rate,
}
