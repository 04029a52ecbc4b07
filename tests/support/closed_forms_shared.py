"""The equations of methods with shared and random bases in float64, as the papers write them."""

import numpy as np
from closed_forms_of_updates import differentiated, scale


@differentiated
def tied_lora(K, method, v):
    A, B = v["lora_a"], v["lora_b"]
    return K + scale(method) * A @ np.diag(v["u"]) @ B @ np.diag(v["v"])


@differentiated
def lotr(K, method, v):
    return K + scale(method) * v["lora_a"] @ v["core"] @ v["lora_b"]


@differentiated
def randlora(K, method, v):
    """The paper's sum, term by term; the random matrices made again from the seed."""
    (m, n), r = K.shape, method.rank
    tall = K if m > n else K.T
    size, k = tall.shape
    small = v["basis_out"][:, :k] if m > n else v["basis_in"][:k].T
    delta = np.zeros_like(tall)
    for j in range(-(-k // r)):
        large = v["basis"][:size, j * r : (j + 1) * r]
        delta += large @ np.diag(v["lambdas"][j]) @ small @ np.diag(v["gammas"][j])
    return K + scale(method) * (delta if m > n else delta.T)


@differentiated
def nola(K, method, v):
    m, n = K.shape
    A = v["fixed_a"][:m] / np.sqrt(m)
    B = np.zeros((method.rank, n))
    for i in range(method.bases):
        A = A + v["coefficients_a"][i] * v["bases_a"][:m, :, i] / np.sqrt(method.bases)
        B = B + v["coefficients_b"][i] * v["bases_b"][:n, :, i].T / np.sqrt(method.bases)
    return K + scale(method) * A @ B
