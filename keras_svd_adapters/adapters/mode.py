"""How adapted layers compute: each thread, and each asynchronous task, has a mode of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from keras_svd_adapters.adapters.per_sample import AdapterIds, Mixture
from keras_svd_adapters.runtime.threads.context_values import with_value


@dataclass(frozen=True, eq=False)
class Mode:
    """The layers that do not compute with their active adapter; others do.

    Args:
        base: Identities of layers that compute with their own kernels.
        per_sample: The adapters of layers, by identity, in which each sample has its own.
        ids: The adapter of each sample, or its weights of several adapters.
        chosen: Names of the adapters of layers, by identity, that do not compute with their active
            adapter but with this one.
        notice: Function that gets the input of each layer that computes with an adapter.
        held: Effective kernels, by the identity of their layer, that were computed already.
        router: Model that weighs the adapters of each token while the model generates.
        has_prompts: Whether the inputs hold the prompts of the adapters already.
    """

    base: frozenset[int] = frozenset()
    per_sample: Mapping[int, Mixture] = field(default_factory=dict)
    ids: AdapterIds | None = None
    chosen: Mapping[int, str] = field(default_factory=dict)
    notice: Callable[[Any], None] | None = None
    held: Mapping[int, Any] = field(default_factory=dict)
    router: Any = None
    has_prompts: bool = False

    def key(self, layers: frozenset[int]) -> tuple[Any, ...]:
        """Return what a function that is compiled for a model with these layers depends on."""
        if self.router is not None:
            return self.base & layers, self.router, ()
        if self.ids is None or not layers & self.per_sample.keys():
            return self.base & layers, True, ()
        return self.base & layers, self.ids.chooses, self.ids.names


_mode: ContextVar[Mode | None] = ContextVar("_mode", default=None)
_of_all_threads = [Mode()]


def current_mode() -> Mode:
    """Return the mode of the running thread."""
    return _mode.get() or _of_all_threads[-1]


def in_mode(mode: Mode, in_all_threads: bool = False) -> AbstractContextManager[None]:
    """Context manager: adapted layers compute in a mode, in this thread or in all threads.

    TensorFlow's replicas run in threads of their own: a strategy with several needs
    `in_all_threads`, while no other thread uses the model.
    """
    return _in_all_threads(mode) if in_all_threads else with_value(_mode, mode)


@contextmanager
def _in_all_threads(mode: Mode) -> Iterator[None]:
    _of_all_threads.append(mode)
    try:
        with with_value(_mode, mode):
            yield
    finally:
        _of_all_threads.remove(mode)


@contextmanager
def with_own_kernels(layers: frozenset[int], in_all_threads: bool = False) -> Iterator[None]:
    """Context manager: layers, given by identity, compute with their own kernels."""
    mode = current_mode()
    with in_mode(replace(mode, base=mode.base | layers), in_all_threads):
        yield
