"""Loads an adapter file on this backend and saves what the model then computes."""

import sys
from pathlib import Path

import keras
import models
import numpy as np

import keras_svd_adapters as ksa

folder = Path(sys.argv[1])
backbone, x = models.bert()
ksa.load_adapter(backbone, folder / "a.keras")
np.save(folder / f"{keras.backend.backend()}.npy", models.output(backbone(x)))
