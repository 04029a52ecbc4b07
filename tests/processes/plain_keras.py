"""Loads merged models where this package is not there, and predicts."""

import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_svd_adapters":
            raise ImportError("a merged model must not need this package")


sys.meta_path.insert(0, Absent())

import keras  # noqa: E402
import keras_hub  # noqa: E402
import models  # noqa: E402
import numpy as np  # noqa: E402

folder = Path(sys.argv[1])
loaded = keras.saving.load_model(folder / "merged.keras")
preset = keras_hub.models.Backbone.from_preset(str(folder / "preset"))
plain, x = models.gemma3(num_layers=1)
plain.load_weights(folder / "merged.weights.h5")
outputs = [models.output(model(x)) for model in (loaded, preset, plain)]
np.savez(folder / "plain.npz", *outputs)
