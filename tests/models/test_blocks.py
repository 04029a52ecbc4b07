"""Some of the repeated blocks, by number or the last ones."""

import keras
import models
import numpy as np
import pytest
from target_paths import paths

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("patterns are matched with names")


def deep(count=12):
    @keras.saving.register_keras_serializable("tests")
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.attention_dense, self.dense = keras.layers.Dense(4), keras.layers.Dense(4)

        def call(self, x):
            return self.dense(self.attention_dense(x))

    @keras.saving.register_keras_serializable("tests")
    class Deep(keras.Model):
        def __init__(self):
            super().__init__()
            for i in range(count):
                setattr(self, f"block_{i}", Block())
                getattr(self, f"block_{i}").name = f"block_{i}"
            self.head = keras.layers.Dense(2, name="head")

        def call(self, x):
            for i in range(count):
                x = getattr(self, f"block_{i}")(x)
            return self.head(x)

    model = Deep()
    model(keras.ops.ones((2, 4)))
    return model


@pytest.mark.parametrize(
    ("how", "blocks"),
    [
        ({"last": np.int64(2)}, {10, 11}),
        ({"layers": range(1, 3)}, {1, 2}),
        ({"layers": np.array([11, 0])}, {0, 11}),
    ],
)
def test_some_of_the_blocks(how, blocks):
    model = deep()
    found = paths(model, **how)
    assert {int(path.split("/")[0].removeprefix("block_")) for path in found} == blocks
    assert len(found) == 2 * len(blocks)
    assert len(paths(model, targets=["head", "*dense*"], **how)) == 2 * len(blocks) + 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"last": 0}, "2 at most. Received: layers=None, last=0"),
        ({"last": 3}, "2 at most"),
        ({"last": "one"}, "2 at most"),
        ({"last": 1, "layers": [0]}, "`layers` or `last`, not both"),
        ({"layers": [2]}, "numbers of the 2 repeated blocks"),
        ({"layers": [-1]}, "numbers of the 2 repeated blocks"),
        ({"layers": []}, "numbers of the 2 repeated blocks"),
        ({"layers": 1}, "numbers of the 2 repeated blocks"),
        ({"layers": 3.5}, "numbers of the 2 repeated blocks"),
        ({"layers": [True]}, "numbers of the 2 repeated blocks"),
        ({"last": True}, "2 at most"),
        ({"targets": "pooled_dense", "exclude": "pooled_dense", "last": 1}, "No layer is left"),
    ],
)
def test_blocks_that_are_not_there(how, message):
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match=message):
        ksa.enable(backbone, ksa.SVF(), **how)
    assert not ksa.status(backbone).adapters
