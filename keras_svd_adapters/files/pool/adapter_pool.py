"""A pool of adapters: all of them in host memory, some in slots on the device."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.pooled.slot_arrays import slots_of
from keras_svd_adapters.files.matching import KernelMarks
from keras_svd_adapters.files.pool.fitting import fitted
from keras_svd_adapters.files.pool.offers import (
    is_path,
    offers_of_arrays,
    offers_of_file,
    offers_of_model,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.assignment import Chosen, choose_methods
from keras_svd_adapters.models.named_adapters import require_adapter
from keras_svd_adapters.models.pool.slot_pool import SlotPool, check_pool
from keras_svd_adapters.models.sites.patterns import Targets
from keras_svd_adapters.models.sites.search import check_model
from keras_svd_adapters.models.state.changes import changing
from keras_svd_adapters.models.state.locked_model import running
from keras_svd_adapters.models.switching import delete_adapter


class AdapterPool(SlotPool):
    """Thousands of adapters for one model, a few of them on the device at a time.

    The adapters are in host memory. A batch of `predict` or `generate` that names some of them, by
    `adapter_ids` or `adapter_weights`, first copies those that are missing into slots on the
    device. The adapters that were used least recently make room. Nothing is traced when the
    names change. Several threads may use the pool.

    A pool has one method. A pool of `LoRA` also takes adapters of lower rank, filled up with
    zeros, of another `alpha`, and of each method whose update is a product of low rank. Any
    other method needs equal hyperparameters.

    Args:
        model: A built model. Its own adapters, and the active one, stay as they are.
        method: The method of the pool, such as `LoRA(rank=16)`, or the name of an adapter of the
            model, whose kernels and methods the pool then has.
        slots: Number of adapters on the device; at least the number of different adapters in a
            batch. `predict` computes a batch with more several times.
        targets: The kernels, as in `enable`.
        exclude: As in `enable`.
        layers: As in `enable`.
        last: As in `enable`.
        name: Name of the adapter that `status` shows for the pool.
        verbose: As in `enable`.

    Raises:
        ValueError: If the model has a pool, a kernel does not suit the method, or its layer
            cannot distinguish samples. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2))
    >>> pool = ksa.AdapterPool(model, ksa.LoRA(rank=4), slots=2)
    >>> for user in ("ada", "bob", "eve"):
    ...     pool.add(user, model, adapter="default")  # trained before, or the path of a file
    >>> ksa.predict(model, keras.ops.ones((3, 8)), ["ada", None, "eve"]).shape
    (3, 2)
    >>> pool.resident
    ('ada', 'eve')
    >>> pool.close()

    Reference:
        - [Chen et al., 2023 (Punica)](https://arxiv.org/abs/2310.18547)
        - [Sheng et al., 2023 (S-LoRA)](https://arxiv.org/abs/2311.03285)
    """

    def __init__(
        self,
        model: keras.Model,
        method: Method | str | None = None,
        slots: int = 32,
        targets: Targets = None,
        exclude: Targets = None,
        layers: Iterable[int] | None = None,
        last: int | None = None,
        name: str = "pool",
        verbose: int | str = "auto",
    ):
        check_model(model)
        self._marks = KernelMarks()
        with changing(model):
            if isinstance(method, str):
                chosen = _like(model, method, targets, exclude, layers, last)
            else:
                chosen = choose_methods(model, method, targets, exclude, layers, last)
            check_pool(model, chosen, slots, name)
            super().__init__(model, chosen, slots, name, verbose)

    def add(
        self,
        name: str,
        source: Any,
        adapter: str | None = None,
        method: Method | None = None,
    ) -> None:
        """Copy an adapter into host memory.

        Args:
            name: Name of the adapter in the pool, any text.
            source: A model that has the adapter; the path or address of a file of `save_adapter`;
                or arrays, as `{"path/of/layer": {"lora_a": ..., "lora_b": ...}}`. Kernels
                without arrays stay as they are.
            adapter: Name of the adapter in a model, if it differs.
            method: The method that arrays are of, if not the pool's.

        Raises:
            ValueError: If the name is taken, or the adapter does not fit the pool. The pool
                stays as it was.
            AdapterFileError: If the file is damaged or of another model, as in `load_adapter`.
        """
        self._check_open()
        if not isinstance(name, str) or not name:
            raise ValueError(f"The name of an adapter is a text. Received: name={name!r}")
        if name in self.rows:
            raise ValueError(
                f"The pool has an adapter of this name: `pool.remove({name!r})` first. "
                f"Received: name={name!r}"
            )
        with running(self.model):
            if isinstance(source, keras.layers.Layer):
                offers = offers_of_model(self, source, adapter or name, self._marks)
            elif is_path(source):
                offers = offers_of_file(self, source, self._marks)
            elif isinstance(source, Mapping):
                offers = offers_of_arrays(self, source, method)
            else:
                raise ValueError(
                    "An adapter comes from a model, a file of `save_adapter` or a dictionary of "
                    f"arrays. Received: source={source!r}"
                )
            arrays = fitted(self, offers, name)
            self.rows[name] = self.row({k: self.coefficients(k, a) for k, a in arrays.items()})

    def remove(self, name: str) -> None:
        """Remove an adapter from the pool; a batch that uses it now ends as if it were there.

        Raises:
            ValueError: If the pool has no such adapter.
        """
        if name not in self.rows:
            near = difflib.get_close_matches(str(name), self.rows, n=3)
            raise ValueError(
                f"The pool has no such adapter; nearest: {near}. Received: name={name!r}"
            )
        del self.rows[name]
        self.residency.discard(name)

    def close(self) -> None:
        """Remove the slots from the model, which is then as before, and all adapters."""
        if self.is_open:
            delete_adapter(self.model, self.name)
        for name in list(self.rows):
            self.remove(name)

    @property
    def is_open(self) -> bool:
        """Whether the slots are on the model."""
        site = next(iter(self.sites.values()))
        found = adapters_of(site.layer).get(self.name)
        slots = None if found is None else slots_of(found)
        return slots is not None and slots.pool is self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return tuple(self.rows)

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters that are on the device, the least recently used first."""
        return self.residency.names

    @property
    def loads(self) -> int:
        """How often an adapter was copied to the device."""
        return self.residency.loads

    @property
    def host_bytes(self) -> int:
        """Bytes of the adapters in host memory."""
        rows = list(self.rows.values())
        return sum(array.nbytes for row in rows for array in row.values())

    @property
    def device_bytes(self) -> int:
        """Bytes of the slots on the device, whatever the number of adapters."""
        return self._row_bytes * (self.residency.count + 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: Any) -> bool:
        return name in self.rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __enter__(self) -> AdapterPool:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<AdapterPool of {len(self)} adapters, {self.host_bytes / 1e6:,.1f} MB on the host; "
            f"{len(self.resident)} of {self.residency.count} slots in use, "
            f"{self.device_bytes / 1e6:,.1f} MB on the device; {self.loads} loads>"
        )

    def _check_open(self) -> None:
        if not self.is_open:
            raise ValueError(
                "The pool was closed, or its adapter was deleted from the model: make a new "
                f"`AdapterPool`. Received: {self!r}"
            )


def _like(model: keras.Model, name: str, *where: Any) -> Chosen:
    """Return the kernels of an adapter with their methods."""
    if any(each is not None for each in where):
        raise ValueError(
            "A pool like an adapter has its kernels: leave out `targets`, `exclude`, `layers` and "
            f"`last`, or give a method. Received: method={name!r} with some of these"
        )
    sites = require_adapter(model, name)
    return [(site, adapters_of(site.layer)[name].method) for site in sites]
