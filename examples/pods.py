"""Which models fit which devices, adapted by which method: planned by shapes alone, in seconds.

python examples/pods.py            # the table of guides/distribution.md
"""

from __future__ import annotations

import keras_hub
from keras.distribution import DeviceMesh, ModelParallel

import keras_svd_adapters as ksa

DEVICES = {"v5e-8": 16e9, "v5p, 8 chips": 95e9, "8 H200": 141e9}
METHODS = [ksa.LoRA(rank=8), ksa.SVF(), ksa.SVFT(pattern="banded", d=2)]
GEMMA = {"vocabulary_size": 256000, "head_dim": 256, "dtype": "bfloat16"}
LLAMA = {"vocabulary_size": 128256, "num_key_value_heads": 8, "dtype": "bfloat16"}
SIZES = {
    "Gemma-2B": GEMMA
    | {
        "num_layers": 18,
        "num_query_heads": 8,
        "num_key_value_heads": 1,
        "hidden_dim": 2048,
        "intermediate_dim": 32768,
    },
    "Gemma-7B": GEMMA
    | {
        "num_layers": 28,
        "num_query_heads": 16,
        "num_key_value_heads": 16,
        "hidden_dim": 3072,
        "intermediate_dim": 49152,
    },
    "Gemma-2-27B": GEMMA
    | {
        "num_layers": 46,
        "num_query_heads": 32,
        "num_key_value_heads": 16,
        "hidden_dim": 4608,
        "intermediate_dim": 73728,
        "head_dim": 128,
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
    },
    "Llama-3-70B": LLAMA
    | {
        "num_layers": 80,
        "num_query_heads": 64,
        "hidden_dim": 8192,
        "intermediate_dim": 28672,
    },
}


def class_of(name: str) -> str:
    return "GemmaBackbone" if name.startswith("Gemma") else "Llama3Backbone"


def spread(name: str, shape: tuple[int, int]) -> ModelParallel:
    """A model over devices that need not exist: only their names count."""
    mesh = DeviceMesh(shape, ("batch", "model"), [f"tpu:{i}" for i in range(shape[0] * shape[1])])
    backbone = keras_hub.models.GemmaBackbone
    if not name.startswith("Gemma"):
        backbone = keras_hub.models.LlamaBackbone
    return ModelParallel(layout_map=backbone.get_layout_map(mesh), batch_dim_name="batch")


def total(name: str, method: ksa.Method, shape: tuple[int, int]) -> int | None:
    """Bytes on each device, without activations; `None` where the mesh does not divide a kernel."""
    model = {"class_name": class_of(name), "config": SIZES[name]}
    try:
        return ksa.plan(model, method, distribution=spread(name, shape)).device.total
    except ValueError as error:
        if "choose a mesh that divides it" not in str(error):
            raise
        return None


def rows(name: str) -> list[str]:
    """One row per method: GB on each device, and what they leave of three kinds."""
    lines = []
    for method in METHODS:
        totals = [total(name, method, shape) for shape in ((1, 8), (8, 1))]
        least = min(size for size in totals if size is not None)
        verdicts = [
            f"{(memory - least) / 1e9:.0f} GB left" if least < memory else "no"
            for memory in DEVICES.values()
        ]
        sizes = ["-" if size is None else f"{size / 1e9:.1f} GB" for size in totals]
        lines.append(f"| {' | '.join([name, str(method), *sizes, *verdicts])} |")
    return lines


def markdown() -> str:
    """The table of all models."""
    head = ["model", "method", "mesh (1, 8)", "mesh (8, 1)", *DEVICES]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(row for name in SIZES for row in rows(name))])


if __name__ == "__main__":
    print(markdown())
