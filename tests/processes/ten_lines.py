"""A first run on a model that needs no download; KerasHub is not needed."""

import keras
import numpy as np

import keras_svd_adapters as ksa

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [keras.Input((32,)), keras.layers.Dense(64, "gelu"), keras.layers.Dense(2, name="head")]
)
x = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
svft = ksa.SVFT(pattern="banded", d=2)
print(ksa.plan(model, svft, train="head"))
print(ksa.enable(model, svft, train="head"))
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
model.fit(x, x[:, :2], epochs=2, verbose=0)
ksa.save_adapter(model, "pirate.keras")
before = model.predict(x, verbose=0)
print(ksa.merge(model))
np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=1e-5)
print(keras.__version__, keras.backend.backend())
