"""Measures what a quantized base costs and saves: loss, memory and seconds on real language models.

    python benchmarks/precisions.py --model gemma3 --steps 10

Each row is a process of its own. `kernels` is the size of the kernels of all Dense and EinsumDense,
`model` is the resident memory that loading and quantizing left, and `training` is the most that
the steps needed in all; the last two are above that of the process before.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import data
import keras
import language_models
import ml_dtypes  # noqa: F401  NumPy then knows bfloat16
import numpy as np
from peak_memory import PeakMemory, resident

import keras_svd_adapters as ksa

METHODS = {
    "LoRA(rank=8)": (ksa.LoRA(rank=8), 2e-3),
    "DoRA(rank=8)": (ksa.DoRA(rank=8), 2e-3),
    "SVF()": (ksa.SVF(), 1e-2),
    "SVFT(banded, d=2)": (ksa.SVFT(pattern="banded", d=2), 1e-2),
}
BASES = ("float32", "bfloat16", "int8", "int4", "nf4")
BATCH, TOKENS = 2, 32


def measure(name: str, base: str, method: str, steps: int) -> dict[str, float]:
    """One row."""
    start = resident()
    keras.config.set_dtype_policy("float32" if base == "float32" else "bfloat16")
    model = language_models.load(name)
    plays, hamlet = data.folio_pieces(characters=200)
    texts, unseen = tokens(model, plays[: BATCH * steps]), tokens(model, hamlet[: 4 * BATCH])
    model.preprocessor = None
    if base not in ("float32", "bfloat16"):
        ksa.quantize(model, base, verbose=0)
    kernels = sum(bytes_of_kernel(layer) for layer in model.backbone._flatten_layers())
    gc.collect()
    held = resident() - start
    chosen, rate = METHODS[method]
    keras.utils.set_random_seed(0)
    ksa.enable(model.backbone, chosen, verbose=0)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
    )
    before = model.evaluate(*unseen[:2], sample_weight=unseen[2], batch_size=BATCH, verbose=0)
    gc.collect()
    began = time.perf_counter()
    with PeakMemory() as memory:
        now = resident() - start
        model.fit(
            *texts[:2], sample_weight=texts[2], batch_size=BATCH, epochs=1, shuffle=False, verbose=0
        )
    seconds = (time.perf_counter() - began) / steps
    after = model.evaluate(*unseen[:2], sample_weight=unseen[2], batch_size=BATCH, verbose=0)
    return {
        "kernels": kernels,
        "before": before,
        "after": after,
        "model": held,
        "training": now + memory.bytes,
        "seconds": seconds,
    }


def bytes_of_kernel(layer: keras.layers.Layer) -> int:
    """Bytes of the kernel of a Dense or EinsumDense with its scales; 0 for other layers."""
    if not isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return 0
    weights = [weight for weight in layer.weights if weight.name != "bias"]
    return sum(math.prod(w.shape) * np.dtype(w.dtype).itemsize for w in weights)


def tokens(model: keras.Model, texts: list[str]) -> tuple:
    """Inputs, targets and weights."""
    texts = language_models.training_texts(model, texts)
    return keras.tree.map_structure(
        keras.ops.convert_to_numpy, model.preprocessor(texts, sequence_length=TOKENS)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(language_models.PACKAGES), default="gemma3")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--base", choices=BASES)
    parser.add_argument("--method", choices=list(METHODS), nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.base and len(arguments.method) == 1:
        row = measure(arguments.model, arguments.base, arguments.method[0], arguments.steps)
        return print(json.dumps(row))
    print(f"{arguments.model}, {arguments.steps} steps of {BATCH} x {TOKENS} tokens")
    print(
        "| base | method | loss before | after | kernels, MB | model, MB | training, MB | s/step |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for base in [arguments.base] if arguments.base else BASES:
        for method in arguments.method:
            command = [sys.executable, *sys.argv, "--base", base, "--method", method]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(out.splitlines()[-1])
            loss = [row["before"], row["after"]]
            memory = [row["kernels"], row["model"], row["training"]]
            cells = [f"{x:.3f}" for x in loss] + [f"{x / 1e6:.0f}" for x in memory]
            print(f"| {base} | {method} | {' | '.join(cells)} | {row['seconds']:.1f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
