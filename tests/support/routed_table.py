"""The table of the methods whose change depends on the input: they have no kernel `K'`."""

import closed_forms_routed as routed
from method_case import MethodCase

from keras_svd_adapters import methods

# closed form: (K, method, arrays, rows, number of samples) -> (outputs, gradients by theirs)
ROUTED = {
    "hydra_lora": MethodCase(
        methods.HydraLoRA(rank=3, experts=3, alpha=6, dropout=0.0), routed.routed_lora
    ),
    "molora": MethodCase(methods.MoLoRA(rank=2, experts=3, alpha=4), routed.routed_lora),
    "mola": MethodCase(methods.MoLA(rank=2, experts=4, alpha=4), routed.routed_lora),
    "mola_switch": MethodCase(
        methods.MoLA(rank=2, experts=3, top_k=1), routed.routed_lora, variant=True
    ),
    "mola_dense": MethodCase(
        methods.MoLA(rank=2, experts=2, balance=0.0), routed.routed_lora, variant=True
    ),
    "lora_pool": MethodCase(methods.LoRAPool(rank=2, pool=5, alpha=4), routed.lora_pool),
    "mov": MethodCase(methods.MoV(experts=3), routed.mov),
    "mov_output": MethodCase(methods.MoV(experts=3, side="output"), routed.mov, variant=True),
}
