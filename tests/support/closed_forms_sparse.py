"""Closed forms of the methods with sparse updates, and of AFLoRA."""

import numpy as np


def masked_lora(K, method, v):
    c = 1 if method.alpha is None else method.alpha / method.rank
    A, B = v["lora_a"] * v["mask_a"], v["lora_b"] * v["mask_b"]

    def gradients(G):
        return {"lora_a": c * G @ B.T * v["mask_a"], "lora_b": c * A.T @ G * v["mask_b"]}

    return K + c * A @ B, gradients


def pri_lora(K, method, v):
    return masked_lora(K, method, v | {"mask_b": np.ones_like(v["lora_b"])})


def lora_prune(K, method, v):
    c, A, B, p = method.alpha / method.rank, v["lora_a"], v["lora_b"], v["mask"][:, None]

    def gradients(G):
        return {"lora_a": c * p * G @ B.T, "lora_b": c * A.T @ (p * G)}

    return p * (K + c * A @ B), gradients


def aflora(K, method, v):
    A, B, d, b = v["lora_a"], v["lora_b"], v["d"], v["v"]

    def gradients(G):
        return {
            "lora_a": v["mask_a"] * (G @ (B * b).T * d),
            "lora_b": v["mask_b"] * ((A * d).T @ G * b),
            "d": np.diag(A.T @ G @ (B * b).T),
            "v": np.diag(B.T @ (A * d).T @ G),
        }

    return K + (A * d) @ (B * b), gradients


def sparse_delta(K, method, v):
    places = np.unravel_index(v["places"].astype(int), K.shape)
    kernel = K.copy()
    kernel[places] += v["values"]
    return kernel, lambda G: {"values": G[places]}
