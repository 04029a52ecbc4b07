"""One gradient pass of a model on each backend.

A pass computes the outputs and the gradients for the inputs and the trainable weights.
It excludes the optimizer, which costs the same for every variant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

FREE = ("parameter", "constant", "bitcast", "tuple", "get-tuple-element")
Pass = tuple[Callable[[], Any], dict[str, float]]  # the function to time, and figures of XLA


def jax_pass(model: keras.Model, x: Any, forward: bool) -> Pass:
    """Compile one pass with XLA, which also reports its operations and temporary bytes."""
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
        "operations": operations(compiled.as_text()),
    }
    return lambda: jax.block_until_ready(compiled(trained, x, frozen)), told


def operations(text: str) -> int:
    """Returns how many operations a compiled program starts, without those that compute nothing."""
    lines = text[text.index("ENTRY ") :].splitlines()
    return sum(" = " in line and not any(f" {name}(" in line for name in FREE) for line in lines)


def tensorflow_pass(model: keras.Model, x: Any, forward: bool) -> Pass:
    """Trace one pass as a `tf.function`."""
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
    """Prepare one pass of a Keras model or of a PyTorch module."""
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
