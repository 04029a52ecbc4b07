"""A model around a model with adapters, which says how much of each adapter computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.mode import Mode, current_mode, in_mode
from keras_svd_adapters.adapters.per_sample import AdapterIds, Mixture
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.state.locked_model import running

CACHED = ("token_ids", "cache", "cache_update_index")


class AdapterRouter(keras.Model):
    """Base class of models that weigh several frozen adapters of a model.

    Args:
        model: A model with adapters.
        names: Names of the adapters.
        name: Name of this model.
    """

    is_internal = True

    def __init__(self, model: keras.Model, names: Sequence[str], name: str):
        listed = check_names(model, names, name)
        super().__init__(name=name, dtype=model.dtype_policy)
        self.model, self.names = model, listed

    @property
    def own_trainable(self) -> list[keras.Variable]:
        """The variables that train."""
        return []

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The weights of the router; the model and its adapters are frozen."""
        return self.own_trainable

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights of the router; the model and its adapters are frozen."""
        return self.own_trainable

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        trained = set(map(id, self.trainable_variables))
        return [variable for variable in self.variables if id(variable) not in trained]

    def values(self) -> Any:
        """Return the values that `call_with_cache` gets, as tensors in lists."""
        return []

    def generate(self, inputs: Any, **how: Any) -> Any:
        """Generate text as `model.generate(inputs)` of a KerasHub task, with this router.

        Args:
            inputs: A prompt, a list of prompts, or the output of the task's preprocessor.
            **how: Other arguments of `model.generate`, such as `max_length`.

        Returns:
            The result of `model.generate`.

        Raises:
            ValueError: If the model cannot generate, or the router cannot read the features
                of one new token.
        """
        call = getattr(type(self.model), "call_with_cache", None)
        if call is None or tuple(signature(call).parameters)[1:4] != CACHED:
            raise ValueError(
                "Only a KerasHub task whose `call_with_cache` takes the token ids, a cache and a "
                "position, such as a `LlamaCausalLM`, can generate with a router. Elsewhere, "
                "call the router on the whole sequence for each new token. "
                f"Received: {type(self.model).__name__} {self.model.name!r}"
            )
        self.check_generation()
        check_names(self.model, self.names, self.name)
        with running(self.model), in_mode(self.generation_mode()):
            return self.model.generate(inputs, **how)

    def check_generation(self) -> None:
        """Raise an error if the router cannot weigh one new token."""

    def generation_mode(self) -> Mode:
        """Return the mode in which the model generates."""
        layers = frozenset(id(site.layer) for site in adapted_sites(self.model))
        return Mode(layers, ids=AdapterIds(self.names, self.values()), router=self)

    def call_with_cache(
        self, plain: Callable[..., Any], values: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Compute the logits, the hidden states and the cache of some tokens.

        Args:
            plain: The `call_with_cache` of the model.
            values: Values of the router's variables, which are inputs of the compiled function.
            *args: Arguments of `plain`.
            **kwargs: Other arguments of `plain`.
        """
        raise NotImplementedError

    def own_kernels(self) -> list[tuple[Site, tuple[str, ...]]]:
        """Return the adapted kernels, each with the names of its adapters that have weights.

        Raises:
            ValueError: If the model lacks one of the adapters by now, or one is merged.
        """
        found = [
            (site, tuple(name for name in adapters_of(site.layer) if name in self.names))
            for site in adapted_sites(self.model)
        ]
        there = {name for _, names in found for name in names}
        if len(there) < len(self.names) or any(s.layer.is_merged for s, names in found if names):
            check_names(self.model, self.names, self.name)  # raises an error
        return found

    def mixed(
        self,
        kernels: list[tuple[Site, tuple[str, ...]]],
        mixture: Callable[[int, tuple[str, ...]], Mixture],
        ids: AdapterIds,
    ) -> Mode:
        """Return the mode in which kernels mix their adapters; those without any have none.

        Args:
            kernels: The result of `own_kernels`.
            mixture: Function from the place of a kernel, among those with adapters that have
                weights, and from the names of these adapters, to their mixture.
            ids: The weights.
        """
        mixing = [(site, names) for site, names in kernels if names]
        mixtures = {
            id(site.layer): mixture(place, names) for place, (site, names) in enumerate(mixing)
        }
        base = frozenset({id(site.layer) for site, _ in kernels} - mixtures.keys())
        return replace(current_mode(), base=base, per_sample=mixtures, ids=ids)


def check_names(model: keras.Model, names: Any, router: str) -> tuple[str, ...]:
    """Return the names of adapters as a tuple; raise an error if the model lacks one."""
    listed = [] if isinstance(names, str) else list(names)
    if len(listed) < 2 or not all(isinstance(name, str) for name in listed):
        raise ValueError(f"`names` has two adapters or more. Received: names={listed!r}")
    for name in listed:
        for site in require_adapter(model, name):
            if (method := adapters_of(site.layer)[name].method).prompt is not None:
                raise ValueError(
                    "A router weighs what adapters do with each token, and a prompt adds tokens of "
                    "its own: leave this adapter out, or weigh it by `set_adapter`. "
                    f"Received: {name!r}, {method}"
                )
    require_values(model, f"{router}({listed})")
    return tuple(listed)


def tensors(variables: Sequence[keras.Variable]) -> list[Any]:
    """Return the values of variables."""
    return [ops.convert_to_tensor(each) for each in variables]
