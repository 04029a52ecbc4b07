"""Writes the golden files of the present format version: `python tests/data/write.py`.

Files of a format version are written once and must load for ever.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / name) for name in ("support", "files")]

from cases import METHODS  # noqa: E402
from test_golden import KINDS, base, batch, numpy  # noqa: E402

import keras_svd_adapters as ksa  # noqa: E402
from keras_svd_adapters.files.archive import FORMAT_VERSION  # noqa: E402

folder = HERE / f"v{FORMAT_VERSION}"
folder.mkdir(exist_ok=True)
outputs = {}
for name, case in METHODS.items():
    for basis in KINDS:
        model = base()
        ksa.enable(model, case.method, targets="square", train="norm")
        rng = np.random.default_rng(4)
        for weight in model.trainable_weights:
            weight.assign_add(0.1 * rng.normal(size=weight.shape))
        ksa.save_adapter(model, folder / f"{name}{basis}.keras", include_basis=bool(basis))
        outputs[f"{name}{basis}"] = numpy(model(batch()))
np.savez_compressed(folder / "outputs.npz", **outputs)
