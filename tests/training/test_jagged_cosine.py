"""The cosine that restarts."""

import keras
import numpy as np
import pytest

import keras_svd_adapters as ksa


def test_closed_form():
    schedule = ksa.JaggedCosine(2e-3, steps=60, every=20, warmup=5, floor=0.25)
    found = [float(schedule(step)) for step in range(80)]
    for step, rate in enumerate(found):
        cosine = 0.25 + 0.75 * 0.5 * (1 + np.cos(np.pi * min(step / 60, 1)))
        rise = min((step % 20 + 1) / 5, 1)
        np.testing.assert_allclose(rate, 2e-3 * cosine * rise, rtol=1e-6)
    assert min(found) > 0


def test_saved_with_its_optimizer():
    schedule = ksa.JaggedCosine(1e-2, steps=60, every=20)
    optimizer = keras.optimizers.Adam(schedule)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive integer"),
        ({"every": 61}, "comes after the last step"),
        ({"warmup": 20}, "must end before the next restart"),
        ({"floor": 1.5}, "`floor` must be in"),
    ],
)
def test_bad_numbers(given, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        ksa.JaggedCosine(1e-2, **({"steps": 60, "every": 20} | given))
