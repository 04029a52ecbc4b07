"""Checks of an optimizer with rules, before its first step."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import Any

import keras

from keras_svd_adapters.runtime.live_models import live_models
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.steps import chain_of

SHOWN = 3


def check_request(optimizer: Any, rules: Any) -> None:
    """Raise an error if rules cannot be added to an optimizer."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "`optimizer` must be a Keras optimizer, such as `keras.optimizers.Adam(1e-3)`. "
            f"Received: optimizer={optimizer!r}"
        )
    if not isinstance(rules, list | tuple) or not rules or not all(_is_rule(x) for x in rules):
        raise ValueError(
            "`rules` must be a list of rules, such as `[ksa.Rates({'*/lora_b': 16.0})]`. "
            f"Received: rules={rules!r}"
        )
    if any(hasattr(each, "rules") for each in chain_of(optimizer)):
        raise ValueError(
            "The optimizer has rules already: pass all rules in one list, with the plain "
            f"optimizer. Received: optimizer={optimizer!r}"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Rules must see gradients without the loss scale: type `keras.optimizers."
            "LossScaleOptimizer(ksa.rules(inner_optimizer, [...]))`. "
            f"Received: optimizer={optimizer!r}"
        )
    if optimizer.built:
        raise ValueError(
            "The optimizer was built before: pass a new one, such as "
            "`type(optimizer).from_config(optimizer.get_config())`. "
            f"Received: optimizer={optimizer!r}"
        )


def _is_rule(value: Any) -> bool:
    return isinstance(value, Rule)


def check_patterns(rules: tuple[Rule, ...], variables: list[keras.Variable]) -> None:
    """Raise an error if a pattern matches no array that trains."""
    paths = [variable.path for variable in variables]
    for rule in rules:
        for pattern in rule.patterns:
            if not any(fnmatchcase(path, pattern) for path in paths):
                _refuse(rule, pattern, variables)


def _refuse(rule: Rule, pattern: str, variables: list[keras.Variable]) -> None:
    frozen = [path for path in _frozen_paths(variables) if fnmatchcase(path, pattern)]
    if frozen:
        raise ValueError(
            f"Pattern {pattern!r} matches only arrays that do not train, such as {frozen[0]!r}, "
            "and a rule acts on trained arrays: activate their adapter, or leave the pattern "
            f"out. Received: {rule}"
        )
    near = _nearest(pattern, [variable.path for variable in variables])
    raise ValueError(
        f"Pattern {pattern!r} matches no array that trains. The nearest ones: "
        f"{', '.join(map(repr, near))}. Received: {rule}"
    )


def _frozen_paths(variables: list[keras.Variable]) -> list[str]:
    """Return the paths of the variables that do not train, of the models that hold these."""
    wanted = set(map(id, variables))
    models = [m for m in live_models() if m.built and wanted & set(map(id, m.trainable_variables))]
    return [v.path for model in models for v in model.non_trainable_variables]


def _nearest(pattern: str, paths: list[str]) -> list[str]:
    """Return the paths whose end is most similar to the end of a pattern."""
    end = pattern.rpartition("/")[2].strip("*")
    ends = {path.rpartition("/")[2]: path for path in paths}
    close = difflib.get_close_matches(end, ends, SHOWN, cutoff=0.4)
    return [f"*/{name}" for name in close] or list(ends.values())[:SHOWN]


def check_strategy() -> None:
    """Raise an error if several replicas of TensorFlow train."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "Rules do not act in several replicas of TensorFlow: train on one device, or with "
            f"JAX or PyTorch. Received: {strategy.num_replicas_in_sync} replicas"
        )
