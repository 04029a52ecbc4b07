"""An optimizer that follows rules in each step, compiled with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_svd_adapters.training.optimizers import rates_multiplied_by
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.rule_checks import check_patterns, check_request, check_strategy
from keras_svd_adapters.training.ruled_arrays import RuledArrays, where
from keras_svd_adapters.training.steps import batch_counter, batches_per_update, chain_of

TAKEN_OVER = ("loss_scale_factor", "use_ema", "ema_momentum", "ema_overwrite_frequency")


def rules(optimizer: keras.optimizers.Optimizer, rules: Sequence[Rule]) -> RuledOptimizer:
    """Return an optimizer that takes the steps of another one and follows rules in each of them.

    A rule may change gradients, change what the step made of an array, and keep statistics, which
    are saved with the optimizer. Rules act in the order of the list, and in nothing but what they
    say: clipping, weight decay, gradient accumulation, moving averages, loss scaling and learning
    rate schedules stay those of the optimizer.

    Args:
        optimizer: A Keras optimizer that is not built yet. The new one uses it from now on.
        rules: List of rules: `Rates`, `Sensitivity`, `Proximal`, `KeepZeros`,
            `Alternate`, or subclasses of `Rule`.

    Returns:
        A `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is wrong, or, when it is built before the first step, if a
            pattern matches no array that trains.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2))
    >>> optimizer = ksa.rules(keras.optimizers.Adam(2e-3), [ksa.Rates({"*/lora_b": 16.0})])
    >>> model.compile(optimizer, "mse")
    """
    check_request(optimizer, rules)
    return RuledOptimizer(optimizer, rules)


@keras.saving.register_keras_serializable("keras_svd_adapters")
class RuledOptimizer(keras.optimizers.Optimizer):
    """Optimizer that `rules` returns."""

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        rules: Sequence[Rule],
        name: str = "rules",
        **settings: Any,
    ):
        super().__init__(learning_rate=0.0, name=name)
        for setting in TAKEN_OVER:  # what must come before or after the rules
            setattr(self, setting, settings.get(setting, getattr(inner_optimizer, setting)))
        inner_optimizer.loss_scale_factor, inner_optimizer.use_ema = None, False
        self.inner_optimizer = inner_optimizer
        self.is_for_others = False
        self._ruled = RuledArrays(tuple(rules))
        self._averages = _Averages()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in their order."""
        return self._ruled.rules

    def build(self, variables: Any) -> None:
        check_strategy()
        if not self.is_for_others:
            check_patterns(self.rules, variables)
        with rates_multiplied_by(self._ruled.ratio):
            self._ruled.build(self, variables)
        count = len(super().variables)
        super().build(variables)
        kept = [v for v in variables if not getattr(v, "overwrite_with_gradient", False)]
        self._averages.pairs = list(zip(kept, super().variables[count:]))

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, *self.inner_optimizer.variables]

    def statistic(self, variable: keras.Variable, name: str) -> keras.Variable | None:
        """Return a statistic that a rule keeps of an array, or `None`."""
        return self._ruled.statistic(variable, name)

    def may_hold(self, variable: keras.Variable) -> bool:
        """Whether a rule may leave an array as it is for many steps."""
        return any(rule.may_hold and rule.pattern_of(variable.path) for rule in self.rules)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        gradients = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                with keras.name_scope(self.name):
                    self.build(trainable_variables)
        if self.loss_scale_factor is not None:
            gradients = [None if g is None else g / self.loss_scale_factor for g in gradients]
        inner = self.inner_optimizer
        every, is_update = batches_per_update(inner), None
        if every > 1:
            is_update = ops.equal(ops.mod(batch_counter(inner) + 1, every), 0)
        step = inner.iterations + 0  # a copy: PyTorch counts on in place
        changed = self._ruled.before_step(
            gradients, trainable_variables, step, inner.learning_rate, every, is_update
        )
        inner.apply(changed, trainable_variables)
        self._ruled.after_step(is_update)
        if self.use_ema:
            self._averages.update(step, self.ema_momentum, self.ema_overwrite_frequency)

    def with_inner(self, inner_optimizer: keras.optimizers.Optimizer) -> RuledOptimizer:
        """Return an unbuilt copy, for variables that the patterns need not match."""
        settings = {setting: getattr(self, setting) for setting in TAKEN_OVER}
        copy = type(self)(inner_optimizer, self.rules, self.name, **settings)
        copy.is_for_others = True
        return copy

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "rules": [keras.saving.serialize_keras_object(rule) for rule in self.rules],
            **{setting: getattr(self, setting) for setting in TAKEN_OVER},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RuledOptimizer:
        def read(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects)

        config = dict(config)
        inner, listed = config.pop("inner_optimizer"), config.pop("rules")
        return cls(read(inner), [read(rule) for rule in listed], **config)


class _Averages:
    """The moving averages of an optimizer, of what the rules left."""

    pairs: list[tuple[keras.Variable, keras.Variable]]

    def update(self, step: Any, momentum: float, frequency: int | None) -> None:
        kept = ops.cast(ops.not_equal(step, 0), "float32") * momentum
        for variable, average in self.pairs:
            part = ops.cast(kept, variable.dtype)
            average.assign(ops.add(ops.multiply(part, average), (1 - part) * variable))
        if frequency:
            now = ops.equal(ops.mod(step + 1, frequency), 0)
            for variable, average in self.pairs:
                variable.assign(where(now, average, variable))


def ruled_optimizer(optimizer: Any) -> RuledOptimizer | None:
    """Return the optimizer with rules in a chain of optimizers, if there is one."""
    return next((each for each in chain_of(optimizer) if isinstance(each, RuledOptimizer)), None)
