"""Measures schedules and rules: how LoRA+ and ReLoRA learn, and the cost of what does nothing.

MiniLM judges movie sentences, in 96 steps of 32 sentences. `python benchmarks/mechanisms.py` runs
what is missing in `benchmarks/mechanisms.json`, on `KERAS_BACKEND`, and writes the tables of
`guides/schedules_and_rules.md`. The costs need a run on each backend: `--part costs`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")

import keras
import mechanism_results as results
import numpy as np
from learning_tasks import TASKS, Sets, accuracy

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

HERE = Path(__file__).resolve().parent
KEPT = HERE / "mechanisms.json"
PAGE = HERE.parent / "guides" / "schedules_and_rules.md"
TASK = TASKS["sentences"]
STEPS, EPOCHS, RESTARTS, RATIO = 96, 3, 3, 16.0
ROUNDS, TIMED, WARM, FEW = 9, 10, 3, 8  # of a cost: rounds, steps, those that warm up, sentences
RATES = {"LoRA": (1e-3, 3e-3, 1e-2), "LoRA+": (3e-4, 1e-3, 3e-3), "ReLoRA": (1e-3, 3e-3, 1e-2)}


def adapted(method: ksa.Method) -> keras.Model:
    """Returns MiniLM with a fresh head, adapted."""
    keras.utils.set_random_seed(0)
    model, _ = TASK.build()
    ksa.enable(model, method, train="head", verbose=0)
    return model


def learn(name: str, rate: float, sets: Sets) -> dict[str, Any]:
    """Trains at one rate, with the same rate of the head for all."""
    every, method = STEPS, ksa.LoRA(rank=8)
    callbacks, ratios = [], {"head/*": TASK.head_rate / rate}
    if name == "LoRA+":
        ratios["*/lora_b"] = RATIO
    if name == "ReLoRA":
        every = STEPS // (RESTARTS + 1)
        method = ksa.methods.RestartedLoRA(rank=8, restarts=RESTARTS)
        callbacks = [ksa.Restarts(every=every)]
    model = adapted(method)
    shape = ksa.JaggedCosine(rate, steps=STEPS, every=every, warmup=4)
    optimizer = ksa.rules(keras.optimizers.Adam(shape), [ksa.Rates(ratios)])
    model.compile(optimizer, TASK.loss())
    how = {"batch_size": TASK.batch, "epochs": EPOCHS, "steps_per_epoch": STEPS // EPOCHS}
    model.fit(*sets["train"], verbose=0, callbacks=callbacks, **how)
    return {
        "name": name,
        "rate": rate,
        "loss": float(model.evaluate(*sets["validation"], batch_size=100, verbose=0)),
        "validation": accuracy(model, sets["validation"]),
        "test": accuracy(model, sets["test"]),
        "rank": int(median(ranks(model))),
    }


def ranks(model: keras.Model) -> list[int]:
    """Returns the rank of the change of each kernel."""
    found = []
    for site in adapted_sites(model):
        (adapter,) = adapters_of(site.layer).values()
        change = keras.ops.convert_to_numpy(adapter.delta(site.layer.base_kernel_value()))
        found.append(int(np.linalg.matrix_rank(site.view.to_matrix(change))))
    return found


class Never(ksa.Schedule):
    """A schedule that is due in no step."""

    def due(self, step: int) -> bool:
        return False


def ruled(*rules: ksa.Rule) -> Callable[[], keras.optimizers.Optimizer]:
    """Returns a function that makes Adam with rules."""
    return lambda: ksa.rules(adam(), list(rules))


def adam() -> keras.optimizers.Optimizer:
    """Returns the plain optimizer."""
    return keras.optimizers.Adam(3e-3)


BOTH = ["*/lora_a", "*/lora_b"]
COSTS: dict[str, tuple[Callable[[], Any], Callable[[], list[Any]]]] = {
    "nothing": (adam, list),
    "`AdapterHealth`, after its check": (adam, lambda: [ksa.AdapterHealth(steps=1)]),
    "a schedule that is not due": (adam, lambda: [Never()]),
    "`Rates`, all ratios 1": (ruled(ksa.Rates(dict.fromkeys(BOTH, 1.0))), list),
    "`Rates`, one ratio of 16": (ruled(ksa.Rates({"*/lora_b": RATIO})), list),
    "`Sensitivity`": (ruled(ksa.Sensitivity(BOTH)), list),
    "`KeepZeros` of A": (ruled(ksa.KeepZeros("*/lora_a")), list),
    "`Proximal`, threshold near 0": (ruled(ksa.Proximal(dict.fromkeys(BOTH, 1e-12))), list),
    "`DropBP(0.0)`": (
        adam,
        lambda: [ksa.DropBP(0.0, ["attention_output", "feedforward_output_dense"])],
    ),
}


def costs(sets: Sets) -> list[dict[str, Any]]:
    """Returns the ratio of each step to a plain one, in time of the processor.

    This is the median over rounds in which each has its turn.
    """
    x, y = sets["train"]
    x = {key: value[: FEW * TIMED] for key, value in x.items()}
    taken: dict[str, list[float]] = {name: [] for name in COSTS}
    models = {}
    for name, (optimizer, _) in COSTS.items():
        models[name] = adapted(ksa.LoRA(rank=8))
        models[name].compile(optimizer(), TASK.loss())
    for turn in range(ROUNDS + 1):
        for name in np.random.default_rng(turn).permutation(list(COSTS)):
            ends: list[float] = []
            note = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, ends=ends: ends.append(time.process_time())
            )
            callbacks = [*COSTS[name][1](), note]
            models[name].fit(
                x, y[: FEW * TIMED], batch_size=FEW, verbose=0, shuffle=False, callbacks=callbacks
            )
            if turn:  # the first one compiles
                taken[name].append((ends[-1] - ends[WARM]) / (len(ends) - 1 - WARM))
    plain = taken.pop("nothing")
    return [
        {
            "backend": keras.backend.backend(),
            "name": name,
            "ratio": float(median(np.divide(values, plain))),
            "step": median(values),
        }
        for name, values in taken.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="*", choices=results.KINDS, default=results.KINDS)
    parser.add_argument("--training", nargs="*", choices=list(RATES), default=list(RATES))
    options = parser.parse_args()
    sets = TASK.sets()

    def add(kind: str, *records: dict[str, Any]) -> None:
        found = results.load(KEPT)  # another backend may have added to it
        found[kind] += records
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        print(*records, sep="\n", flush=True)

    found = results.load(KEPT)
    done = {(run["name"], run["rate"]) for run in found["learning"]}
    for name in options.training if "learning" in options.part else ():
        for rate in RATES[name]:
            if (name, rate) not in done:
                add("learning", learn(name, rate, sets))
                keras.backend.clear_session()
    measured = {cost["backend"] for cost in found["costs"]}
    if "costs" in options.part and keras.backend.backend() not in measured:
        add("costs", *costs(sets))
    PAGE.write_text(results.with_tables(PAGE.read_text(), results.load(KEPT)))


if __name__ == "__main__":
    main()
