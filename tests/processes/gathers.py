"""Which weights a compiled step of JAX gathers whole from the devices that hold their parts."""

import re
from collections import Counter

import jax
import keras

LINE = re.compile(
    r"^\s*(?:ROOT )?%?([\w.-]+) = \(?\w+\[[\d,]*\][^=]*? ([\w-]+)\(([^)]*)\)", re.MULTILINE
)
MOVES = {"copy", "bitcast", "transpose", "reshape", "convert", "fusion", "wrapped"}


def gathered_weights(model, x):
    """How often each weight is gathered by the gradient of what trains."""

    def loss(trained, rest, x):
        y, _ = model.stateless_call(trained, rest, x, training=True)
        return keras.ops.mean(keras.ops.square(y))

    weights = [*model.trainable_variables, *model.non_trainable_variables]
    values = [v.value for v in weights]
    count = len(model.trainable_variables)
    step = jax.jit(jax.grad(loss), keep_unused=True)
    text = step.lower(values[:count], values[count:], x).compile().as_text()
    found = Counter()
    for source in _gathered(text[text.index("ENTRY ") :]):
        if source < len(weights):
            found[weights[source].path] += 1
    return found


def _gathered(entry):
    """The number of the parameter that each `all-gather` has, where that was moved alone."""
    made = {name: (operation, inputs) for name, operation, inputs in LINE.findall(entry)}
    gathers = [name for name, (operation, _) in made.items() if operation.startswith("all-gather")]
    for name in gathers:
        while name in made:
            operation, inputs = made[name]
            if operation == "parameter":
                yield int(inputs)
                break
            fused = set(re.split(r"[_.\d]+", name)) - {""}
            moves = operation in MOVES and (operation != "fusion" or fused <= MOVES)
            if not moves and name not in gathers:
                break
            name = re.findall(r"%([\w.-]+)", inputs)[0]
