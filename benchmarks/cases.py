"""The models that are timed, and the ways to adapt them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_svd_adapters as ksa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

Model = keras.Model
SVFT = ksa.SVFT
FACTORED = {"formulation": "factored"}


@dataclass(frozen=True)
class Case:
    """A model to time.

    Args:
        name: As the table shows it.
        build: Makes the model and a batch for it.
        targets: Which layers are adapted.
        first: Name of a layer before all others whose weights train in every
            variant, so that the gradient passes through the whole model; none
            if the batch itself gets a gradient.
    """

    name: str
    build: Callable[[], tuple[Model, Any]]
    targets: str
    first: str | None = None


def dense(m: int, n: int, tokens: int) -> Callable[[], tuple[Model, Any]]:
    """One layer."""

    def build() -> tuple[Model, Any]:
        model = keras.Sequential([keras.Input((m,)), keras.layers.Dense(n, name="kernel")])
        return model, batch(tokens, m)

    return build


def stack(tokens: int = 1024, dtype: str = "float32") -> tuple[Model, Any]:
    """Twice an attention-like square kernel and an MLP, 768-768-6144-768."""
    layers = [keras.Input((768,))]
    for i in range(2):
        layers += [
            keras.layers.Dense(768, name=f"kernel_{i}_a", activation="tanh", dtype=dtype),
            keras.layers.Dense(6144, name=f"kernel_{i}_b", activation="relu", dtype=dtype),
            keras.layers.Dense(768, name=f"kernel_{i}_c", dtype=dtype),
        ]
    return keras.Sequential(layers), batch(tokens, 768)


def square() -> tuple[Model, Any]:
    """Four square kernels and many tokens, as in the blocks of a small vision transformer."""
    names = [f"kernel_{i}" for i in range(4)]
    layers = [keras.layers.Dense(384, name=name, activation="tanh") for name in names]
    return keras.Sequential([keras.Input((384,)), *layers]), batch(4096, 384)


def minilm() -> tuple[Model, Any]:
    """all-MiniLM-L6-v2 with its own weights, on 32 sentences of 40 tokens."""
    import data
    import keras_hub

    directory = str(data.minilm_directory())
    backbone = keras_hub.models.BertBackbone.from_preset(directory, dropout=0.0)
    ids = np.random.default_rng(0).integers(1000, 20000, (32, 40)).astype("int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids), "segment_ids": ids * 0}
    return keras.Model(backbone.input, backbone.output["sequence_output"]), inputs


def batch(tokens: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(tokens, width)).astype("float32")


CASES = {
    "1024x1024": Case("1024 x 1024, 2048 tokens", dense(1024, 1024, 2048), "kernel*"),
    "512x4096": Case("512 x 4096, 2048 tokens", dense(512, 4096, 2048), "kernel*"),
    "4096x512": Case("4096 x 512, 2048 tokens", dense(4096, 512, 2048), "kernel*"),
    "stack": Case("2 x (768-768-6144-768), 1024 tokens", stack, "kernel*"),
    "further": Case("2 x (768-768-6144-768), 1024 tokens, further methods", stack, "kernel*"),
    "stack bfloat16": Case(
        "2 x (768-768-6144-768), 256 tokens, bfloat16", partial(stack, 256, "bfloat16"), "kernel*"
    ),
    "square": Case("4 x (384-384), 4096 tokens", square, "kernel*"),
    "minilm": Case("MiniLM, 32 x 40 tokens", minilm, "*", "embeddings_layer_norm"),
    "one token": Case("2048 x 8192, one token, forward", dense(2048, 8192, 1), "kernel*"),
}


def frozen(model: Model, case: Case) -> None:
    for layer in leaves(model):
        layer.trainable = layer.name == case.first


def leaves(model: Model) -> list[keras.layers.Layer]:
    layers = list(model._flatten_layers(include_self=False))
    return [x for x in layers if not list(x._flatten_layers(include_self=False))]


def full(model: Model, case: Case) -> None:
    """Everything trains."""


def keras_lora(model: Model, case: Case) -> None:
    frozen(model, case)
    for layer in leaves(model):
        if isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense) and (
            "pooled" not in layer.name
        ):
            layer.trainable = True
            layer.enable_lora(8)
            layer.bias.trainable = False


def adapted(method: ksa.Method) -> Callable[[Model, Case], None]:
    def adapt(model: Model, case: Case) -> None:
        targets = None if case.first else case.targets
        data = calibration(model) if method.needs else None
        ksa.enable(model, method, targets, train=case.first, verbose=0, calibrate=data)

    return adapt


def calibration(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Some data for a start, and a loss."""
    model.compile(loss="mse")
    return batch(64, model.input_shape[-1]), batch(64, model.output_shape[-1])


def merged(model: Model, case: Case) -> None:
    adapted(SVFT(pattern="banded", d=2))(model, case)
    ksa.merge(model)
    frozen(model, case)


VARIANTS: dict[str, Callable[[Model, Case], None]] = {
    "frozen": frozen,
    "full fine-tuning": full,
    "Keras LoRA r=8": keras_lora,
    "LoRA r=8": adapted(ksa.LoRA(rank=8)),
    "DoRA r=8": adapted(ksa.DoRA(rank=8)),
    "PiSSA r=8": adapted(ksa.PiSSA(rank=8)),
    "VeRA r=256": adapted(ksa.VeRA(rank=256)),
    "LoRA-XS r=16": adapted(ksa.LoRAXS(rank=16)),
    "SVF": adapted(ksa.SVF()),
    "SVF factored": adapted(ksa.SVF(**FACTORED)),
    "SVFT d=2": adapted(SVFT(pattern="banded", d=2)),
    "SVFT d=2 factored": adapted(SVFT(pattern="banded", d=2, **FACTORED)),
    "SVFT d=8 factored": adapted(SVFT(pattern="banded", d=8, **FACTORED)),
    "SVFT random d=2 factored": adapted(SVFT(pattern="random", d=2, **FACTORED)),
    "SVFT top-k d=2 factored": adapted(SVFT(pattern="top_k", d=2, **FACTORED)),
    "SVFT d=2 merged": merged,
}
M = ksa.methods
FURTHER: dict[str, ksa.Method] = {
    "OFT b=32": M.OFT(block_size=32),
    "BOFT b=4": M.BOFT(block_size=4),
    "BOFT b=4, two factors": M.BOFT(block_size=4, factors=2),
    "HRA r=8": M.HRA(rank=8),
    "(IA)3": M.IA3(),
    "MELoRA r=8": M.MELoRA(rank=8, groups=4),
    "MiSS r=64": M.MiSS(rank=64),
    "TriLoRA r=8": M.TriLoRA(rank=8),
    "AdaLoRA r=8": M.AdaLoRA(rank=8),
    "DyLoRA r=8": M.DyLoRA(rank=8),
    "RoseLoRA r=8": M.RoseLoRA(rank=8),
    "SparseAdapter r=16": M.SparseAdapter(rank=16),
    "AFLoRA r=8": M.AFLoRA(rank=8),
    "Diff pruning": M.DiffPruning(),
    "Sparse delta": M.SparseDelta(),
    "FLoRA r=8": M.FLoRA(rank_in=8, rank_out=8),
    "EDoRA r=32": M.EDoRA(rank=32),
    "PSOFT r=32": M.PSOFT(rank=32),
    "Spectral Adapter A r=8": M.SpectralAdapterA(rank=8),
    "Spectral Adapter R r=16": M.SpectralAdapterR(rank=16),
    "ABBA r=4, 4": M.ABBA(rank1=4, rank2=4),
    "LoHa r=8": M.LoHa(rank=8),
    "LoKr r=8": M.LoKr(rank=8),
    "LoRETTA r=8": M.LoRETTA(rank=8),
    "FourierFT 1000": M.FourierFT(),
    "SVDiff": M.SVDiff(),
    "LoRA-X r=32": M.LoRAX(rank=32),
    "NoRA r=32, 8": M.NestedLoRAXS(rank=32, inner_rank=8),
    "PMSS r=32": M.PMSS(rank=32),
    "LoRA-SB r=32": M.LoRASB(rank=32),
    "LoRA-FA r=8": ksa.LoRA(rank=8, freeze="a"),
    "LoRA r=8, EVA": ksa.LoRA(rank=8, start="eva"),
    "LoRA r=8, OLoRA": ksa.LoRA(rank=8, start="olora"),
    "LoRA r=8, CorDA": ksa.LoRA(rank=8, start="corda"),
    "LoRA r=8, LoRA-GA": ksa.LoRA(rank=8, start="lora_ga"),
    "DuDe r=8": M.DuDe(rank=8),
    "TinyLoRA": M.TinyLoRA(),
    "Tied-LoRA r=8": M.TiedLoRA(rank=8),
    "LoTR r=8": M.LoTR(rank=8),
    "RandLoRA r=32": M.RandLoRA(rank=32),
    "NOLA r=8": M.NOLA(rank=8, bases=512),
    "VB-LoRA r=4": M.VBLoRA(),
    "SAID 1000": M.IntrinsicDimension(),
    "BitFit": M.BitFit(),
}
VARIANTS |= {name: adapted(method) for name, method in FURTHER.items()}
LAYER = [
    name for name in VARIANTS if name not in FURTHER and "merged" not in name and "full" not in name
]
MODEL = [name for name in LAYER if "top-k" not in name and "random" not in name]
CHOSEN = {
    "1024x1024": LAYER,
    "512x4096": [name for name in LAYER if "top-k" not in name],
    "4096x512": [name for name in LAYER if "top-k" not in name],
    "stack": ["full fine-tuning", *MODEL],
    "further": list(FURTHER),
    "stack bfloat16": MODEL,
    "square": ["full fine-tuning", *MODEL],
    "minilm": ["full fine-tuning", *MODEL],
    "one token": [
        "frozen",
        "Keras LoRA r=8",
        "LoRA r=8",
        "SVF",
        "SVFT d=2",
        "SVFT d=2 factored",
        "SVFT d=2 merged",
    ],
}
