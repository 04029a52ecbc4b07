"""A callback that reports after a few steps which adapters do not learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.runtime.host_values import to_float_array
from keras_svd_adapters.runtime.plots import plot_moves
from keras_svd_adapters.runtime.tables import Table, TableReport
from keras_svd_adapters.runtime.warnings import warn
from keras_svd_adapters.training.rules import ruled_optimizer
from keras_svd_adapters.training.steps import batches_per_update

SHOWN = 3


@dataclass(frozen=True)
class ArrayHealth:
    """Movement of one trained array.

    Args:
        path: The names of the layers from the model to the adapted one.
        name: Name of the array.
        moved: Largest distance of a value from its start of training.
        ratio: Norm of the move, relative to the norm of the values.
        finite: Whether no value is NaN or infinite.
    """

    path: str
    name: str
    moved: float
    ratio: float
    finite: bool


@keras.saving.register_keras_serializable("keras_svd_adapters")
class AdapterHealth(TableReport, keras.callbacks.Callback):
    """Callback that warns if adapters do not move or are not finite, and records the figures.

    The callback checks once after `steps` batches and at the end of every epoch.
    It finds a learning rate near zero, a loss that does not depend on a layer, or
    interrupted gradients. These faults show within seconds instead of after the run.

    Args:
        steps: Integer, the number of batches before the first check.

    Raises:
        ValueError: If `steps` is not positive.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.SVF())
    >>> model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
    >>> health = ksa.AdapterHealth(steps=1)
    >>> x, y = keras.ops.ones((4, 8)), keras.ops.ones((4, 2))
    >>> _ = model.fit(x, y, epochs=2, verbose=0, callbacks=[health])
    >>> len(health.history)
    3
    """

    def __init__(self, steps: int = 10):
        super().__init__()
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"`steps` must be a positive integer. Received: steps={steps!r}")
        self.steps = steps
        self.history: list[tuple[ArrayHealth, ...]] = []
        self._seen, self._before = 0, 0
        self._start: dict[tuple[str, str], np.ndarray] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        self._seen, self._before, self.history = 0, 0, []
        self._start = self._values()
        if not self._start:
            raise ValueError(
                "The model has no active adapter to watch: `enable` one before `fit`, or leave "
                f"`AdapterHealth` out. Received: {self.model!r}"
            )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras may run several batches at a time; `batch` is then the number of the last one.
        self._seen = self._before + batch + 1
        if not self.history and self._updates() >= self.steps:
            self._look(f"after {self._seen} step{'s' * (self._seen > 1)}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._before = self._seen
        self._look(f"after epoch {epoch + 1}")

    def _updates(self) -> int:
        """Return the number of updates by the optimizer so far."""
        return self._seen // batches_per_update(self.model.optimizer)

    def _look(self, when: str) -> None:
        paths = {site.key: site.path for site in adapted_sites(self.model)}
        found = tuple(
            array_health(paths[key], name, self._start[key, name], value)
            for (key, name), value in self._values().items()
        )
        held = self._held()
        self.history.append(found)
        broken = [f"{each.path}/{each.name}" for each in found if not each.finite]
        still = [
            f"{each.path}/{each.name}"
            for each in found
            if each.finite and not each.moved and (each.path, each.name) not in held
        ]
        if self._updates() <= 1 and (not self._updates() or len(still) < len(found)):
            still = []  # an array that is multiplied by 0 has gradient 0 at the first update
        if broken:
            warn(
                f"{when}, {len(broken)} of {len(found)} arrays of adapters hold NaN or infinity: "
                "lower the learning rate, or give the optimizer a `global_clipnorm`. "
                f"Received: {_listed(broken)}"
            )
        if still:
            warn(
                f"{when}, {len(still)} of {len(found)} arrays of adapters have not moved at all: "
                "raise the learning rate, and check that the loss depends on these layers. "
                f"Received: {_listed(still)}"
            )

    def _held(self) -> set[tuple[str, str]]:
        """Return the arrays that a rule of the optimizer may leave as they are."""
        ruled = ruled_optimizer(self.model.optimizer)
        if ruled is None:
            return set()
        return {
            (site.path, name)
            for site in adapted_sites(self.model)
            for holder in adapters_of(site.layer).values()
            for name, variable in holder.trained.items()
            if variable.trainable and ruled.may_hold(variable)
        }

    def _values(self) -> dict[tuple[str, str], np.ndarray]:
        """Return the values that train, by key of the layer and name of the array."""
        if sync := getattr(self.model, "jax_state_sync", None):
            sync()  # during training, Keras on JAX holds the values outside the variables
        return {
            (site.key, name): to_float_array(variable)
            for site in adapted_sites(self.model)
            for adapter, holder in adapters_of(site.layer).items()
            if adapter in site.layer.trained_adapters
            for name, variable in holder.trained.items()
        }

    def as_table(self) -> Table:
        """Return the last check as a table."""
        head = ("layer", "array", "largest move", "move / values", "finite")
        if not self.history:
            return Table(head, (), "AdapterHealth has not checked the adapters yet.")
        rows = [
            (each.path, each.name, f"{each.moved:.2g}", f"{each.ratio:.2g}", str(each.finite))
            for each in self.history[-1]
        ]
        return Table(head, rows)

    def plot(self) -> Any:
        """Draw the distance that each array has moved, at each check; needs matplotlib.

        Returns:
            A matplotlib `Figure`.
        """
        panels: dict[str, list[list[float]]] = {}
        for looks in zip(*self.history, strict=True):
            panels.setdefault(looks[0].name, []).append([look.moved for look in looks])
        return plot_moves(panels)

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdapterHealth:
        return cls(**config)


def array_health(path: str, name: str, start: np.ndarray, value: np.ndarray) -> ArrayHealth:
    """Measure the distance of an array from its start."""
    start, value = start.astype("float64"), value.astype("float64")
    finite = bool(np.isfinite(value).all())
    move = np.where(np.isfinite(value), value - start, np.inf)
    size = float(np.linalg.norm(value)) if finite else 1.0
    ratio = float(np.linalg.norm(move)) / size if size else 0.0
    return ArrayHealth(path, name, float(np.abs(move).max()), ratio, finite)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
