"""Writes the golden models: `KERAS_BACKEND=jax python tests/data/write_models.py`.

Written once, they load for ever. Not on PyTorch, whose optimizers Keras reads back there alone.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / name) for name in ("support", "files")]

from test_golden import MODELS, adapted, adapted_backbone, batch, numpy, tokens  # noqa: E402

MODELS.mkdir(exist_ok=True)
model, backbone = adapted(), adapted_backbone()
model.fit(batch(), np.zeros((5, 3)), verbose=0)
model.save(MODELS / "adapted.keras")
model.save_weights(MODELS / "adapted.weights.h5")
backbone.save_to_preset(MODELS / "preset")
outputs = {"model": numpy(model(batch())), "preset": numpy(backbone(tokens())["sequence_output"])}
np.savez_compressed(MODELS / "outputs.npz", **outputs)
