"""Measures what a quantized base costs and saves: loss, memory and seconds on real language models.

    python benchmarks/precisions.py --model gemma3 --steps 10

Each row is a process of its own. `model` is the resident memory that loading and quantizing left,
`training` the most that the steps needed in all; both above that of the process before.
"""

from __future__ import annotations

import argparse
import gc
import json
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
from peak_memory import PeakMemory, resident

import keras_svd_adapters as ksa

METHODS = {
    "LoRA(rank=8)": (ksa.LoRA(rank=8), 2e-3),
    "DoRA(rank=8)": (ksa.DoRA(rank=8), 2e-3),
    "SVF()": (ksa.SVF(), 1e-2),
    "SVFT(banded, d=2)": (ksa.SVFT(pattern="banded", d=2), 1e-2),
}
BASES = ("bfloat16", "int8", "int4")
BATCH, TOKENS = 2, 32


def measure(name: str, base: str, method: str, steps: int) -> dict[str, float]:
    """One row."""
    start = resident()
    keras.config.set_dtype_policy("bfloat16")
    model = language_models.load(name)
    plays, hamlet = data.folio_pieces(characters=200)
    texts, unseen = tokens(model, plays[: BATCH * steps]), tokens(model, hamlet[: 4 * BATCH])
    model.preprocessor = None
    if base != "bfloat16":
        model.quantize(base)
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
        "before": before,
        "after": after,
        "model": held,
        "training": now + memory.bytes,
        "seconds": seconds,
    }


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
    parser.add_argument("--method", choices=list(METHODS))
    arguments = parser.parse_args()
    if arguments.base and arguments.method:
        row = measure(arguments.model, arguments.base, arguments.method, arguments.steps)
        return print(json.dumps(row))
    print(f"{arguments.model}, {arguments.steps} steps of {BATCH} x {TOKENS} tokens")
    print("| base | method | loss before | after | model, MB | training, MB | s / step |")
    print("|---|---|---|---|---|---|---|")
    for base in [arguments.base] if arguments.base else BASES:
        for method in [arguments.method] if arguments.method else METHODS:
            command = [sys.executable, *sys.argv, "--base", base, "--method", method]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(out.splitlines()[-1])
            loss, memory = [row["before"], row["after"]], [row["model"], row["training"]]
            cells = [f"{x:.3f}" for x in loss] + [f"{x / 1e6:.0f}" for x in memory]
            print(f"| {base} | {method} | {' | '.join(cells)} | {row['seconds']:.1f} |", flush=True)
    return None


if __name__ == "__main__":
    main()
