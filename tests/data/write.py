"""Writes the golden files of format version 2: `python tests/data/write.py`.

Files of a format version are written once and must load for ever. Version 1 holds one file for each
method; version 2 differs from it in the storage of the values alone.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / name) for name in ("support", "files")]

from test_golden import base, batch, numpy, values  # noqa: E402

import keras_svd_adapters as ksa  # noqa: E402
from keras_svd_adapters.files.archive import FORMAT_VERSION  # noqa: E402

folder = HERE / f"v{FORMAT_VERSION}"
folder.mkdir(exist_ok=True)
model = base()
ksa.enable(model, ksa.SVFT("banded", d=11), targets="square", name="whole")
for weight in model.trainable_weights:
    weight.assign_add(0.1 * values(weight.shape, 4))
ksa.compress(model, "whole", into="small", density=0.1)
ksa.save_adapter(model, folder / "compressed.keras", name="small")
np.savez_compressed(folder / "outputs.npz", compressed=numpy(model(batch())))
