"""Learning rates by array, as in LoRA+.

    w' = w + ratio (step(w) - w)

Hayou et al. 2024, arXiv:2402.12354. The ratio multiplies the update. A factor of the gradient would
have no effect with Adam, which divides by the size of the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_svd_adapters.training.rule import ArrayStep, Rule, numbers_by_pattern, register_rule


@register_rule
class Rates(Rule):
    """Rule that multiplies the learning rate of some arrays: LoRA+ is `Rates({"*/lora_b": 16.0})`.

    The update is multiplied, weight decay included. An array that no pattern matches keeps its
    rate; if several patterns match, the first one counts. A ratio of 1 changes no bit.

    The paper's ratio is for the factor that starts at 0, with a rate of the other one of about half
    of LoRA's. It does not suit methods whose factors both start away from 0, such as PiSSA.

    Args:
        ratios: Dictionary of positive numbers by pattern for the paths of trained
            arrays.

    Raises:
        ValueError: If a ratio is not positive.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="up")])
    >>> _ = ksa.enable(model, ksa.LoRA(rank=2), targets="up")
    >>> lora_plus = ksa.rules(keras.optimizers.Adam(2e-3), [ksa.Rates({"*/lora_b": 16.0})])
    >>> model.compile(lora_plus, "mse")

    Reference:
        - [Hayou et al., 2024](https://arxiv.org/abs/2402.12354)
    """

    def __init__(self, ratios: Mapping[str, float]):
        self.ratios = numbers_by_pattern("ratios", ratios, "{'*/lora_b': 16.0}")
        super().__init__(list(ratios))

    def ratio(self, path: str) -> float:
        pattern = self.pattern_of(path)
        return 1.0 if pattern is None else self.ratios[pattern]

    def acts_on(self, path: str) -> bool:
        return self.ratio(path) != 1

    def change_value(self, value: Any, array: ArrayStep) -> Any:
        return array.before + self.ratio(array.path) * (value - array.before)

    def get_config(self) -> dict[str, Any]:
        return {"ratios": self.ratios}
