"""Loads presets of adapted models in a fresh process, and prints what came."""

import sys
from pathlib import Path

import keras_svd_adapters as ksa  # isort: skip (before KerasHub, which it must join then)
import keras_hub
import models
import numpy as np

assert hasattr(keras_hub.models.Backbone, "enable_svft")
folder = Path(sys.argv[1])
_, x = models.bert()
backbone = keras_hub.models.Backbone.from_preset(str(folder / "backbone"))
task = keras_hub.models.TextClassifier.from_preset(str(folder / "task"))
for name, model in {"backbone": backbone, "task": task}.items():
    (folder / f"{name}.txt").write_text(str(ksa.status(model)))
    np.save(folder / f"{name}.npy", models.output(model(x)))
