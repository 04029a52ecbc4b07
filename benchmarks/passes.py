"""Times one gradient pass of every variant of every case on one backend, taken in turns.

A pass is the forward computation, the gradient for the inputs, and that of what trains; the
optimizer is left out, since it is the same for all. Every round times each variant once, in
another order, and compares it with the frozen model of the same round.
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

Pass = tuple[Callable[[], Any], dict[str, float]]  # what runs, and what XLA tells of it
BACKEND = keras.backend.backend()
ROUNDS = int(os.environ.get("ROUNDS", "9"))
SECONDS = 0.15


def jax_pass(model: keras.Model, x: Any, forward: bool) -> Pass:
    import jax

    frozen = [v.value for v in model.non_trainable_variables]
    trained = [v.value for v in model.trainable_variables]
    x = jax.tree.map(jax.numpy.asarray, x)
    floats = not isinstance(x, dict)

    def output(trained: Any, x: Any, frozen: Any) -> Any:
        return model.stateless_call(trained, frozen, x, training=not forward)[0]

    def loss(trained: Any, x: Any, frozen: Any) -> Any:
        return jax.numpy.mean(output(trained, x, frozen).astype("float32") ** 2)

    run = output if forward else jax.grad(loss, argnums=(0, 1) if floats else 0)
    compiled = jax.jit(run).lower(trained, x, frozen).compile()
    told = {
        "flops": (compiled.cost_analysis() or {}).get("flops", 0.0),
        "temporary": getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0),
    }
    return lambda: jax.block_until_ready(compiled(trained, x, frozen)), told


def tensorflow_pass(model: keras.Model, x: Any, forward: bool) -> Pass:
    import tensorflow as tf

    x = tf.nest.map_structure(tf.constant, x)
    floats = not isinstance(x, dict)

    @tf.function
    def run(x: Any) -> Any:
        if forward:
            return model(x, training=False)
        with tf.GradientTape() as tape:
            if floats:
                tape.watch(x)
            loss = tf.reduce_mean(tf.cast(model(x, training=True), "float32") ** 2)
        weights = [v.value for v in model.trainable_variables]
        return tape.gradient(loss, [*weights, x] if floats else weights)

    return lambda: [tf.convert_to_tensor(y).numpy()[:1] for y in tf.nest.flatten(run(x))], {}


def torch_pass(model: Any, x: Any, forward: bool) -> Pass:
    import torch

    x = keras.tree.map_structure(torch.as_tensor, x)
    floats = not isinstance(x, dict)
    ours = isinstance(model, keras.Model)

    def run() -> Any:
        if forward:
            with torch.no_grad():
                return model(x)
        if floats:
            x.requires_grad_()
        y = model(x, training=True) if ours else model(x)
        weights = (
            [v.value for v in model.trainable_variables]
            if ours
            else [p for p in model.parameters() if p.requires_grad]
        )
        loss = (y.float() ** 2).mean()
        return torch.autograd.grad(loss, [*weights, x] if floats else weights)

    return run, {}


PASSES = {"jax": jax_pass, "tensorflow": tensorflow_pass, "torch": torch_pass}


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
        results[key] = compare(runs)
        for name, figures in told.items():
            results[key][name] |= figures
        print(key, {k: round(v["ratio"], 2) for k, v in results[key].items()}, file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
