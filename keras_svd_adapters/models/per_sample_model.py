"""A model around a model, whose inputs include the adapter of each sample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import kernel_layer
from keras_svd_adapters.adapters.mode import Mode, in_mode
from keras_svd_adapters.adapters.own_values import own_values
from keras_svd_adapters.adapters.own_values_layer import refuse_reads_outside
from keras_svd_adapters.adapters.per_sample import (
    AdapterIds,
    Group,
    Mixture,
    PerSampleAdapters,
)
from keras_svd_adapters.adapters.pooled.pooled_adapters import (
    PooledAdapters,
    PooledKernel,
    PooledWeights,
)
from keras_svd_adapters.adapters.refusals import PerSampleError
from keras_svd_adapters.adapters.weighted.sample_weights import SampleWeights, WeightedPerSample
from keras_svd_adapters.kernels.quantized import holds_integers
from keras_svd_adapters.models.sample_requests import SampleRequests
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.compiled_functions import KEPT, store_of
from keras_svd_adapters.models.state.weight_owners import place_mixins, weights_of
from keras_svd_adapters.runtime.keras_private.tracing import trace_shapes

PRIMES = (11, 13)
Groups = dict[int, list[Group] | tuple[str, ...] | PooledKernel]


class PerSampleModel(keras.Model):
    """Model that predicts with one adapter per sample; nothing of the inner model changes.

    The adapters of the samples are an input of its compiled function. Threads with other samples
    and other adapters therefore share the function.

    Args:
        model: The adapted model.
        asked: The adapters of a batch, or their weights.
        groups: The adapters of each adapted layer, by its identity.
    """

    is_internal = True

    def __init__(self, model: keras.Model, asked: SampleRequests, groups: Groups):
        super().__init__(name="per_sample", dtype=model.dtype_policy, autocast=False)
        self.model = model
        self.names = asked.names
        self.kind = SampleWeights if asked.are_weights else AdapterIds
        self.jit_compile = model.jit_compile
        self.run_eagerly = model.run_eagerly
        self.groups = groups
        self.per_sample = {
            id(site.layer): _mixture(site, groups[id(site.layer)], asked.are_weights)
            for site in adapted_sites(model)
            if groups[id(site.layer)]
        }
        self.base = frozenset(groups.keys() - self.per_sample.keys())
        self.built = True

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """No variable: the order of the variables must not depend on the active adapter."""
        return []

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        return self.model.variables

    def mode(self, ids: Any, probe_rows: int | None = None) -> Mode:
        """Return the mode for a batch, given the rows of its `SampleRequests`."""
        return Mode(self.base, self.per_sample, self.kind(self.names, ids, probe_rows))

    def call(self, data: Any) -> Any:
        with in_mode(self.mode(data["ids"])):
            return self.model(data["x"], training=False)

    def predict_batch(self, x: Any, asked: np.ndarray) -> Any:
        """Return the outputs of a batch, which may have more samples than `asked`, as NumPy."""
        more = keras.tree.flatten(x)[0].shape[0] - len(asked)
        filled = np.concatenate([asked, np.repeat(asked[-1:], more, axis=0)])
        return self.predict_on_batch({"x": x, "ids": filled})

    def probe(self, inputs: Any) -> None:
        """Raise an error if an adapted layer is called without the batch in front.

        The rows of such a layer are not samples. A prime number of samples reveals this.
        """
        several = [weight for weight in weights_of([self.model]) if own_values(weight)]
        place_mixins([self.model])  # layers may have joined since the last change
        try:
            for rows in PRIMES:
                specs = keras.tree.map_structure(lambda x: _of_rows(x, rows), inputs)  # noqa: B023
                with in_mode(self.mode(None, probe_rows=rows)), refuse_reads_outside(several):
                    trace_shapes(lambda x: self.model(x, training=False), specs)
        except PerSampleError:
            raise
        except Exception:  # a model that cannot be traced is not checked
            pass


def per_sample_model(model: keras.Model, asked: SampleRequests, inputs: Any) -> PerSampleModel:
    """Return a model for the adapters of some samples; it is reused until adapters change.

    Args:
        model: The adapted model.
        asked: The adapters of the samples, or their weights.
        inputs: Inputs, symbolic or not, that show the shape of a sample.
    """
    groups: Groups = {
        id(site.layer): asked.group(adapters_of(site.layer)) for site in adapted_sites(model)
    }
    store = store_of(model)
    waiting = store.per_sample
    variables = [weights for *_, weights in store.active if weights is not None]
    how = model.jit_compile, model.run_eagerly
    key = (asked.names, asked.are_weights, store.held, tuple(dict.fromkeys(variables)), how)
    found = waiting.get(key)
    if found is None or found.groups != groups:
        found = PerSampleModel(model, asked, groups)
        found.probe(inputs)
        waiting[key] = found
        while len(waiting) > KEPT:
            waiting.popitem(last=False)
    return found


def _mixture(site: Site, group: Any, has_weights: bool) -> Mixture:
    """Return how a layer computes, given what `SampleRequests.group` returned for it."""
    if isinstance(group, PooledKernel):
        return PooledWeights(group) if has_weights else PooledAdapters(group, _maps(site))
    return WeightedPerSample(group) if has_weights else PerSampleAdapters(group, _maps(site))


def _maps(site: Site) -> bool:
    if holds_integers(kernel_layer(site.layer)):
        return False
    return keras.backend.backend() != "torch" or site.host.has_row_inputs or site.host.is_lookup


def _of_rows(value: Any, rows: int) -> keras.KerasTensor:
    """Return the shape of an input with `rows` samples; any other open size becomes 8."""
    shape = tuple(8 if size is None else size for size in value.shape[1:])
    return keras.KerasTensor((rows, *shape), keras.backend.standardize_dtype(value.dtype))
