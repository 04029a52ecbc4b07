"""Private Keras that tells how a model is called or traced. Checked on Keras 3.15.

- `in_symbolic_scope`: Keras calls layers before their weights are loaded, for their shapes.
- `current_call_ctx`: convolutions take no `training`, and the dropout of an adapter must know.
- `uninitialized_variables`: a model built for its shapes must not be filled with values later.
- `compute_output_spec`: the public methods of that name put another message on an error.
- `_compile_config`: the only trace of a call of `compile`, after which nothing traced before holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.symbolic_scope import in_symbolic_scope


def only_shapes_matter() -> bool:
    """Whether Keras is working out shapes, without values."""
    return bool(in_symbolic_scope())


def is_training() -> bool:
    """Whether a layer that takes no `training` argument is called to be trained."""
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(context is not None and context.get_value("training"))


@contextmanager
def shapes_only() -> Iterator[list[keras.Variable]]:
    """Within, models are built without values; afterwards, the list has their variables."""
    waiting = list(global_state.get_global_attribute("uninitialized_variables") or [])
    made: list[keras.Variable] = []
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield made
            made += global_state.get_global_attribute("uninitialized_variables") or []
    finally:
        global_state.set_global_attribute("uninitialized_variables", waiting)


def trace_shapes(function: Callable[..., Any], *specs: Any) -> None:
    """Calls a function, and the layers in it, with inputs that have shapes and no values."""
    compute_output_spec(function, *specs)


def compiled_as(model: keras.Model) -> Any:
    """An object that each call of `model.compile` replaces."""
    return getattr(model, "_compile_config", None)
