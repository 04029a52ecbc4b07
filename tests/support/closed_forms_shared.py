"""The equations of methods with shared and random bases in float64, as the papers write them."""

import numpy as np
from closed_forms_of_updates import differentiated, scale


@differentiated
def tied_lora(K, method, v):
    A, B = v["lora_a"], v["lora_b"]
    return K + scale(method) * A @ np.diag(v["u"]) @ B @ np.diag(v["v"])
