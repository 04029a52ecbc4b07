"""The equations of LoRA's starts in float64.

A0 and B0 are the values at the start, as the file has them: K' = K + c (A B - A0 B0).
"""

import numpy as np
from closed_forms_of_updates import differentiated


@differentiated
def lora_from_start(K, method, v):
    A, B = v["lora_a"], v["lora_b"]
    A0, B0 = start_of(v, "a"), start_of(v, "b")
    return K + method.scale * (A @ B - A0 @ B0)


def start_of(v, side):
    """A factor at the start: stored, frozen, or zero because the product starts at zero."""
    if f"start_{side}" in v:
        return v[f"start_{side}"]
    both = any(name.startswith("start_") for name in v)
    return v[f"lora_{side}"] if both else np.zeros_like(v[f"lora_{side}"])


@differentiated
def lora_sb(K, method, v):
    return K + v["U"] @ v["latent"] @ v["Vt"]
