"""Methods of the learning study, and the optimizer with one rate for the head."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras

import keras_svd_adapters as ksa

FULL, KERAS_LORA, HEAD = "full fine-tuning", "Keras enable_lora(8)", "head only"


class Entry(NamedTuple):
    """A method, and the rate in the middle of its grid."""

    method: ksa.Method | None
    middle: float


def entries(*rows: tuple[ksa.Method, float]) -> dict[str, Entry]:
    """Returns methods with the middles of their grids, by name."""
    return {str(method): Entry(method, middle) for method, middle in rows}


ENTRIES = {
    HEAD: Entry(None, 1e-2),
    FULL: Entry(None, 1e-4),
    KERAS_LORA: Entry(None, 3e-3),
} | entries(
    (ksa.LoRA(rank=8), 3e-3),
    (ksa.DoRA(rank=8), 3e-3),
    (ksa.PiSSA(rank=8), 1e-3),
    (ksa.MiLoRA(rank=8), 3e-3),
    (ksa.LoRAXS(rank=32), 3e-3),
    (ksa.VeRA(rank=256), 3e-2),
    (ksa.SVF(), 1e-2),
    (ksa.SVFT(pattern="plain"), 3e-2),
    (ksa.SVFT(pattern="banded", d=2), 1e-2),
    (ksa.SVFT(pattern="random", d=2), 1e-2),
    (ksa.SVFT(pattern="banded", d=8), 3e-3),
)

M = ksa.methods
STARTS = ("gaussian", "init_b", "orthonormal", "orthogonal", "olora", "nystrom", "corda")
STARTS += ("corda_kpm", "eva", "lora_ga")
FURTHER = entries(  # on the first task alone
    (M.TriLoRA(rank=8), 1e-2),
    (M.AdaLoRA(rank=8), 1e-2),
    (M.BiLoRA(rank=8), 1e-2),
    (M.SoRA(rank=8), 3e-3),
    (M.DynamicDoRA(rank=8), 1e-2),
    (M.DyLoRA(rank=8), 3e-3),
    (M.AutoLoRA(rank=8), 1e-2),
    (M.AllocatingLoRA(rank=8), 3e-3),
    (M.RoseLoRA(rank=8), 3e-3),
    (M.SparseAdapter(rank=16), 3e-3),
    (M.AFLoRA(rank=8), 3e-3),
    (M.DiffPruning(), 1e-3),
    (M.SparseDelta(share=0.05), 3e-3),
    (M.FLoRA(rank_in=8, rank_out=8), 3e-3),
    (M.MELoRA(rank=8, groups=4), 1e-2),
    (M.LoHa(rank=8), 1e-2),
    (M.ABBA(rank1=8, rank2=8), 1e-3),
    (M.LoKr(rank=8), 1e-2),
    (M.LoRETTA(rank=8), 1e-2),
    (M.MiSS(rank=16), 3e-3),
    (M.FourierFT(count=500), 1e-1),
    (M.SVDiff(), 1e-1),
    (M.SpectralAdapterA(rank=8), 3e-3),
    (M.SpectralAdapterR(rank=16), 3e-2),
    (M.PSOFT(rank=32), 3e-2),
    (M.LoRAX(rank=32), 3e-2),
    (M.NestedLoRAXS(rank=32, inner_rank=8), 1e-2),
    (M.PMSS(rank=32), 1e-2),
    (M.LoRASB(rank=32), 1e-3),
    (M.EDoRA(rank=32), 1e-2),
    (M.DuDe(rank=8), 1e-2),
    (M.OFT(block_size=8), 3e-3),
    (M.BOFT(block_size=8), 3e-3),
    (M.HRA(rank=8), 1e-2),
    (M.IA3(), 3e-2),
    (M.TinyLoRA(rank=4, values=64), 3e-2),
    (M.TiedLoRA(rank=8), 1e-2),
    (M.LoTR(rank=8), 3e-3),
    (M.RandLoRA(rank=32), 3e-3),
    (M.NOLA(rank=8, bases=512), 1e-2),
    (M.VBLoRA(vectors=90, vector_length=16), 1e-2),
    (M.IntrinsicDimension(size=1000), 3e-2),
    (M.SerialAdapter(size=16), 3e-3),
    (M.ParallelAdapter(size=16), 3e-3),
    (M.LoRETTAAdapter(), 3e-3),
    (M.HydraLoRA(rank=8), 3e-3),
    (M.MoLoRA(rank=8), 3e-3),
    (M.MoLA(rank=8), 3e-3),
    (M.MoV(), 3e-2),
    (M.LoRAPool(rank=8), 3e-3),
    (M.QALoRA(rank=8, group=8), 3e-3),
    (M.BitFit(), 1e-2),
    (M.LNTuning(), 1e-2),
    *((ksa.LoRA(rank=8, start=start), 3e-3) for start in STARTS),
    (ksa.LoRA(rank=8, start="orthonormal", freeze="a"), 3e-3),
    (ksa.LoRA(rank=8, start="eva", rho=2.0), 3e-3),
)
PEERS = {  # of HF PEFT, on the tasks whose model it has
    "PEFT LoRA r=8": Entry(None, 3e-3),
    "PEFT DoRA r=8": Entry(None, 3e-3),
    "PEFT PiSSA r=8": Entry(None, 1e-3),
    "PEFT VeRA r=256": Entry(None, 3e-2),
}
ALL = ENTRIES | FURTHER | PEERS


def methods_of(is_first: bool, has_peer: bool) -> list[str]:
    """Returns the methods that run on a task: all of ours on the first, the core elsewhere."""
    return [*ENTRIES, *(FURTHER if is_first else {}), *(PEERS if has_peer else {})]


def adapt(
    name: str, model: keras.Model, backbone: keras.Model, has_head: bool, data: Any = None
) -> None:
    """Prepares a model for a method: freezes what does not train, adapts the rest.

    A start that reads data gets it.
    """
    method = ALL[name].method
    if name == HEAD:
        backbone.trainable = False
    elif name == KERAS_LORA:
        backbone.enable_lora(8)
    elif method is not None:
        head = "head" if has_head else None
        ksa.enable(model, method, train=head, verbose=0, calibrate=data)


@keras.saving.register_keras_serializable("learning")
class AdamWithHead(keras.optimizers.Adam):
    """Adam with a rate of its own for the head, and with warm-up and cosine decay.

    The rate is a variable and the decay part of the step, so that all rates share one compilation.

    Args:
        learning_rate: Peak learning rate.
        head_rate: Peak learning rate of the weights of layer `head`; `None` for that of all.
        steps: Steps of training; the first tenth warms up. `None` for constant rates.
    """

    def __init__(
        self, learning_rate: float, head_rate: float | None, steps: int | None, **kwargs: Any
    ):
        super().__init__(learning_rate, **kwargs)
        self.head_rate, self.steps, self.shape = head_rate, steps, None
        if steps is not None:
            warm = max(steps // 10, 1)
            self.shape = keras.optimizers.schedules.CosineDecay(
                0.0, steps - warm, warmup_target=1.0, warmup_steps=warm
            )

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        is_head = self.head_rate is not None and "head/" in variable.path
        rate = self.head_rate if is_head else learning_rate
        if self.shape is not None:
            rate = rate * self.shape(self.iterations)
        super().update_step(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"head_rate": self.head_rate, "steps": self.steps}
