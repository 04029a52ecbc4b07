"""Forty random images, instead of MNIST."""

import numpy as np

EPOCHS = 1


def digits():
    rng = np.random.default_rng(0)
    return rng.random((40, 28, 28, 1)).astype("float32"), np.arange(40, dtype="int32") % 10
