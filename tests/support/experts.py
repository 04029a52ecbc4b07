"""A layer that reads stacked kernels."""

import keras
import numpy as np
from keras import ops

EXPERTS, TOKENS, WIDTH, INNER = 3, 6, 10, 14


class TinyExperts(keras.layers.Layer):
    """As the experts of KerasHub: all of them see all tokens."""

    def build(self, shape):
        self._up_proj = self.add_weight(shape=(EXPERTS, shape[-1], INNER), name="up_proj")
        self._down_proj = self.add_weight(shape=(EXPERTS, INNER, shape[-1]), name="down_proj")
        self.up_bias = self.add_weight(shape=(EXPERTS, INNER), name="up_bias")

    def call(self, x):
        up = ops.einsum("th,ehm->etm", x, self._up_proj) + self.up_bias[:, None]
        return ops.einsum("etm,emh->eth", ops.gelu(up), self._down_proj)

    def compute_output_shape(self, shape):
        return (EXPERTS, *shape)


def experts(dtype="float32"):
    layer = TinyExperts(dtype=dtype)
    layer.build((TOKENS, WIDTH))
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(0.4 * rng.normal(size=weight.shape))
    return layer


def model_of_experts():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((WIDTH,), batch_size=TOKENS)
    x = keras.layers.Dense(WIDTH, name="first")(inputs)
    x = TinyExperts(name="experts")(x)
    return keras.Model(inputs, ops.mean(x, axis=0))
