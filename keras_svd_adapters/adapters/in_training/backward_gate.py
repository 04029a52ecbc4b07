"""A gate of the backward pass: what a layer returns stays, its gradient passes or is 0."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_svd_adapters.adapters.stored_arrays import StoredArrays


class BackwardGate(StoredArrays):
    """Layer that stops the gradient of the outputs of another layer while it is closed.

    Whether it is closed is a variable, so that a change traces nothing again. No file stores it.
    """

    has_values = True

    def __init__(self) -> None:
        super().__init__(name="backward_gate")
        self.closed = self.add_array("closed", (1,), "float32", 0.0)
        self.built = True
        self._is_closed = False

    def array_names(self) -> tuple[str, ...]:
        return ()

    def close(self, is_closed: bool) -> None:
        """Close or open the gate."""
        if is_closed != self._is_closed:
            self.closed.assign([float(is_closed)])
            self._is_closed = is_closed

    def outputs(self, y: Any) -> Any:
        """Return `y`, bit for bit."""
        return ops.where(ops.cast(self.closed, "bool"), ops.stop_gradient(y), y)
