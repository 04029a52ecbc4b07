"""A method that PEFT and this package have in the same form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_svd_adapters.files.peft.turns import TRANSPOSED, Turn
from keras_svd_adapters.methods.method import Method


@dataclass(frozen=True)
class Twin:
    """A method that PEFT and this package have in the same form.

    Args:
        method: The class here.
        arrays: The array here of each array in PEFT.
        settings: The hyperparameter here of each setting in PEFT.
        fixed: Further settings, with the only value that has the same form here.
        turns: How PEFT stores some arrays here, if not as the others.
        turn: How PEFT stores the others.
        module_lists: The hyperparameter here of each list of modules in PEFT, with its values in
            and out of the list.
        resolve: Function from a method and the shape of its kernel to an equal method whose
            hyperparameters depend on no shape.
        with_bias: Function from a method and the shape of its kernel to the method whose form is
            that of PEFT for a layer with a bias.
        patterns: The setting of PEFT with values by module, of each setting that has one.
        whole_paths: Whether the keys of these are paths of modules, and no regular expressions.
        needed: Further settings that PEFT does not read an adapter without.
        equal_arrays: Function from the arrays here to equal ones of the form in PEFT.
        common: The arrays in PEFT that a directory holds once for all modules.
        form: Hyperparameters here that have this value in PEFT's form.
    """

    method: type[Method]
    arrays: Mapping[str, str]
    settings: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    turns: Mapping[str, Turn] = field(default_factory=dict)
    turn: Turn = TRANSPOSED
    module_lists: Mapping[str, tuple[str, Any, Any]] = field(default_factory=dict)
    resolve: Callable[[Any, int, int], Method] = lambda method, m, n: method
    with_bias: Callable[[Any, int, int], Method] = lambda method, m, n: method
    patterns: Mapping[str, str] = field(default_factory=dict)
    whole_paths: bool = False
    needed: Mapping[str, Any] = field(default_factory=dict)
    equal_arrays: Callable[[dict[str, Any]], dict[str, Any]] = lambda v: v
    common: tuple[str, ...] = ()
    form: Mapping[str, Any] = field(default_factory=dict)
