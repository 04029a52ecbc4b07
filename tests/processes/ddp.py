"""One of two processes of PyTorch's own data parallelism; as one process alone would train."""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

import keras_svd_adapters as ksa

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import models

METHODS = [ksa.LoRA(rank=2), ksa.DoRA(rank=2), ksa.SVFT("banded", d=1), ksa.VeRA(rank=8)]
IDS = np.random.default_rng(0).integers(1, models.TOKENS, size=(8, 8))
X = {"token_ids": IDS, "padding_mask": np.ones_like(IDS), "segment_ids": np.zeros_like(IDS)}
Y = np.arange(8) % 3
FOLDER, PLACE, COUNT, PORT = Path(sys.argv[1]), *map(int, sys.argv[2:])


def trained(model):
    """The losses of three steps."""
    part = slice(PLACE * 8 // COUNT, (PLACE + 1) * 8 // COUNT)
    x = {name: keras.ops.array(value[part]) for name, value in X.items()}
    inner = model
    if COUNT > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(x), keras.ops.array(Y[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses)
    if COUNT > 1:
        torch.distributed.all_reduce(losses)
    return (losses / COUNT).cpu().numpy(), inner


def main():
    if COUNT > 1:
        where = f"tcp://127.0.0.1:{PORT}"
        torch.distributed.init_process_group(
            "gloo", init_method=where, rank=PLACE, world_size=COUNT
        )
    results = {}
    for number, method in enumerate(METHODS):
        keras.utils.set_random_seed(0)
        model, _, _ = models.classifier()
        keras.utils.set_random_seed(1 + PLACE)  # DDP gives all the values of the first
        ksa.enable(model, method, verbose=0)
        results[f"{number} losses"], model = trained(model)
        results |= {f"{number} {w.path}": w.numpy() for w in model.trainable_weights}
        ksa.save_adapter(model, FOLDER / f"{COUNT} {PLACE} {number}.keras")
    np.savez(FOLDER / f"{COUNT} {PLACE}.npz", **results)


main()
