"""The equations of methods with shared and random bases in float64, as the papers write them."""

import numpy as np
from closed_forms_of_updates import differentiated, scale


@differentiated
def tied_lora(K, method, v):
    A, B = v["lora_a"], v["lora_b"]
    if not method.vectors:
        return K + scale(method) * A @ B
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


@differentiated
def vblora(K, method, v):
    (m, n), b = K.shape, method.vector_length

    def piece(logits, bank):
        largest = np.argsort(logits)[-method.top_k :]
        weights = np.exp(logits[largest])
        return weights @ bank[largest] / weights.sum()

    A, B = np.zeros((m, method.rank)), np.zeros((method.rank, n))
    for r in range(method.rank):
        for i in range(m // b):
            A[i * b : (i + 1) * b, r] = piece(v["logits_a"][r, i], v["bank"])
        for i in range(n // b):
            bank = v["bank" if method.one_bank else "bank_b"]
            B[r, i * b : (i + 1) * b] = piece(v["logits_b"][i, r], bank)
    return K + A @ B


@differentiated
def intrinsic_dimension(K, method, v):
    """Fastfood with whole matrices, and integers of any length in place of int32."""
    size, keys = K.size, [int(key) for key in v["keys"]]
    length = 1 << (size - 1).bit_length()
    H = np.ones((1, 1))
    while len(H) < length:
        H = np.block([[H, H], [H, -H]])
    theta = np.zeros(length)
    theta[: method.size] = v["theta"]
    signs = [1 - 2 * (hashed(i, keys[0]) & 1) for i in range(length)]
    places = [permuted(i, keys[1:5], length) for i in range(length)]
    g = np.array([sum(hashed(i, keys[5]).to_bytes(4, "big")) for i in range(length)])
    g = (g - 510) / np.sqrt((256**2 - 1) / 3)
    result = H @ (g * (H @ (signs * theta))[places])[:length]
    delta = result[:size].reshape(K.shape) / np.sqrt(length * size)
    return K + delta * v.get("layer_scale", 1.0)


def hashed(number, key):
    for factor, shift in ((0x9E3779B1, 16), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        number = ((number ^ key) * factor) % 2**32
        number ^= number >> shift
    return number


def permuted(number, keys, length):
    shift = max((length.bit_length() - 1) // 2, 1)
    for a, b in (keys[:2], keys[2:]):
        number = (number * (a | 1) + b) % length
        number ^= number >> shift
    return number
