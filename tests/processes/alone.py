"""Adapts, trains, saves and loads where only keras, numpy, safetensors and one backend exist."""

import os
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class Absent(MetaPathFinder):
    """Makes packages unimportable."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in os.environ["ABSENT"].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_svd_adapters as ksa  # noqa: E402

folder = Path(sys.argv[1])
assert Path(ksa.__file__).is_relative_to(folder), ksa.__file__
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
ksa.enable(model, ksa.SVFT(pattern="banded", d=1))
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse")
x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
model.fit(x, x[:, :2], epochs=3, verbose=0)
y = model.predict(x, verbose=0)
ksa.save_adapter(model, folder / "a.keras")
ksa.delete_adapter(model, "default")
ksa.load_adapter(model, folder / "a.keras")
np.testing.assert_array_equal(model.predict(x, verbose=0), y)
for name in os.environ["ABSENT"].split(","):
    assert name not in sys.modules, name
