"""Private Keras API for how a model is called or traced (Keras 3.10 to 3.15).

- `in_symbolic_scope`: Keras calls layers for their shapes before it loads their weights.
- `current_call_ctx`: convolutions take no `training`, but the dropout of an adapter needs it.
- `uninitialized_variables`: a model built for its shapes must not receive values later.
- `_jax_state`: the values of a loop on JAX, in the order of variables that train before a change.
- `compute_output_spec`: its public form changes errors. `get_keras_mask`: Dense gets no `mask`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.src.backend import compute_output_spec, get_keras_mask
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

trace_shapes, only_shapes_matter, mask_of = compute_output_spec, in_symbolic_scope, get_keras_mask


def is_training() -> bool:
    """Return whether a layer without a `training` argument is called for training."""
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(context and context.get_value("training"))


@contextmanager
def shapes_only() -> Iterator[list[keras.Variable]]:
    """Context manager: build models without values; afterwards, the list holds their variables."""
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    made: list[keras.Variable] = []
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield made
            made += global_state.get_global_attribute("uninitialized_variables") or []
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def end_loop_state(model: keras.Model) -> None:
    """Return the values that a loop of Keras holds on JAX to the variables, for good."""
    if getattr(model, "_jax_state", None):
        model.jax_state_sync()
        model._jax_state = None


def record_loop_sharding(model: keras.Model) -> None:
    """Let a loop of Keras before 3.12 know how the variables are sharded from now on (JAX)."""
    if getattr(model, "_trainable_variable_shardings", None):
        model._record_training_state_sharding_spec()
