"""Times training steps of four blocks of Gemma-2B on a GPU or TPU, with JAX or PyTorch.

Every variant is timed in turns with a model that has one adapter in its first block, so that
gradients pass through everything. `--tiny` tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import keras_hub
import numpy as np
from passes import compare

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd.accelerator import accelerator
from keras_svd_adapters.runtime.machine import seconds_of

BACKEND = keras.backend.backend()
ROUNDS = 12
SIZES = {"hidden_dim": 2048, "intermediate_dim": 32768, "num_query_heads": 8, "head_dim": 256}
TINY = {"hidden_dim": 64, "intermediate_dim": 256, "num_query_heads": 2, "head_dim": 32}
RATE, BASE = 3e-3, "base"

Adapt = Callable[[keras.Model], Any]


def adapted(method: ksa.Method, **where: Any) -> Adapt:
    return lambda backbone: ksa.enable(backbone, method, cache=False, verbose=0, **where)


VARIANTS: dict[str, Adapt] = {
    "full fine-tuning": lambda backbone: None,
    "Keras LoRA r=8, query and value": lambda backbone: backbone.enable_lora(8),
    "LoRA r=8, query and value": adapted(ksa.LoRA(rank=8), targets=["query", "value"]),
    "LoRA r=8": adapted(ksa.LoRA(rank=8)),
    "DoRA r=8": adapted(ksa.DoRA(rank=8)),
    "LoRA-XS r=32": adapted(ksa.LoRAXS(rank=32)),
    "SVF": adapted(ksa.SVF()),
    "SVF factored": adapted(ksa.SVF(formulation="factored")),
    "SVFT d=2": adapted(ksa.SVFT(pattern="banded", d=2)),
    "SVFT d=2 factored": adapted(ksa.SVFT(pattern="banded", d=2, formulation="factored")),
}


def backbone_of(sizes: dict[str, int]) -> keras.Model:
    """Four blocks of Gemma in bfloat16, with a small vocabulary."""
    keras.utils.set_random_seed(0)
    return keras_hub.models.GemmaBackbone(
        vocabulary_size=512,
        num_layers=4,
        num_key_value_heads=1,
        query_head_dim_normalize=True,
        dtype="bfloat16",
        **sizes,
    )


def prepared(adapt: Adapt, sizes: dict[str, int]) -> tuple[Any, float]:
    """Returns a compiled model, and the seconds of its adaptation."""
    backbone = backbone_of(sizes)
    seconds = seconds_of(lambda: adapt(backbone))
    backbone.compile(optimizer=keras.optimizers.Adam(RATE), loss="mse")
    return backbone, seconds


def batch(sizes: dict[str, int], tokens: int) -> tuple[Any, Any]:
    ids = np.random.default_rng(0).integers(0, 512, (4, tokens))
    x = {"token_ids": ids, "padding_mask": np.ones(ids.shape, "int32")}
    return x, np.zeros((*ids.shape, sizes["hidden_dim"]), "float32")


def cuda() -> Any:
    """Returns PyTorch's interface to the GPU, if it computes there."""
    if BACKEND != "torch":
        return None
    import torch

    return torch.cuda if torch.cuda.is_available() else None


def held() -> int | None:
    """Returns the bytes in use on the device, if it has a memory of its own."""
    gc.collect()
    if BACKEND == "torch":
        return cuda().memory_allocated() if cuda() else None
    import jax

    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats["bytes_in_use"]


def peak(work: Callable[[], Any]) -> int | None:
    """Runs work, and returns the most bytes in use meanwhile; PyTorch alone can tell."""
    if cuda():
        cuda().reset_peak_memory_stats()
    work()
    return cuda().max_memory_allocated() if cuda() else None


def device() -> str:
    """Returns the name of the device that computes."""
    if BACKEND == "torch":
        return cuda().get_device_name() if cuda() else "cpu"
    import jax

    return str(jax.devices()[0].device_kind)


def difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def measure(name: str, base: keras.Model, data: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Seconds to enable, of the first step and of a step, the latter to the base's; bytes."""
    before = held()
    model, enabling = prepared(VARIANTS[name], sizes)
    first = seconds_of(lambda: model.train_on_batch(*data))
    most = difference(peak(lambda: model.train_on_batch(*data)), before)
    steps = {each: partial(of.train_on_batch, *data) for each, of in ((BASE, base), (name, model))}
    found = {"enable": enabling, "first": first} | compare(steps, ROUNDS)[name]
    return found | {"held": difference(held(), before), "peak": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small blocks, to try the script")
    is_tiny = parser.parse_args().tiny
    if accelerator() is None and not is_tiny:
        return print(json.dumps(None))
    sizes = TINY if is_tiny else SIZES
    data = batch(sizes, 32 if is_tiny else 1024)
    base, _ = prepared(adapted(ksa.SVF(), layers=[0], targets="query"), sizes)
    base.train_on_batch(*data)
    found: dict[str, Any] = {"device": device(), "variants": {}}
    for name in VARIANTS:
        found["variants"][name] = measure(name, base, data, sizes)
        print(name, found["variants"][name], file=sys.stderr)
    return print(json.dumps(found))


if __name__ == "__main__":
    main()
