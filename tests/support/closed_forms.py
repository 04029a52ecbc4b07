"""The equations of the methods in float64, written down independently of the package.

Each takes the kernel K (m, n), the method and the trained arrays, and returns the adapted
kernel K' and a function from G = dL/dK' to the gradient of each trained array.
"""

import numpy as np


def svd(K):
    """LAPACK's; the largest entry of each singular vector on the smaller side made positive."""
    U, s, Vt = np.linalg.svd(K, full_matrices=False)
    smaller = U if len(U) <= Vt.shape[1] else Vt.T
    sign = np.sign(smaller[np.abs(smaller).argmax(axis=0), range(len(s))])
    return U * sign, s, Vt * sign[:, None]


def lora(K, method, v):
    A, B = v["lora_a"], v["lora_b"]
    alpha = method.rank if method.alpha is None else method.alpha
    c = alpha / np.sqrt(method.rank) if method.rslora else alpha / method.rank
    return K + c * A @ B, lambda G: {"lora_a": c * G @ B.T, "lora_b": c * A.T @ G}


def dora(K, method, v):
    A, B, m = v["lora_a"], v["lora_b"], v["magnitude"]
    c = method.scale
    V = K + c * A @ B
    norm = np.linalg.norm(V, axis=0)

    def gradients(G):
        dV = G * (m / norm)
        if not method.detach_norm:
            dV = dV - V * (m * (G * V).sum(axis=0) / norm**3)
        dm = (G * V).sum(axis=0) / norm
        return {"lora_a": c * dV @ B.T, "lora_b": c * A.T @ dV, "magnitude": dm}

    return V * (m / norm), gradients


def pissa(K, method, v, part=slice(0, 3)):
    U, s, Vt = svd(K)
    c = method.rank if method.alpha is None else method.alpha
    c = c / method.rank
    residual = K - U[:, part] @ np.diag(s[part]) @ Vt[part]
    A, B = v["lora_a"], v["lora_b"]
    return residual + c * A @ B, lambda G: {"lora_a": c * G @ B.T, "lora_b": c * A.T @ G}


def milora(K, method, v):
    return pissa(K, method, v, slice(min(K.shape) - method.rank, None))


def token_rows(K, method, v):
    merged = K.copy()
    for row, shift in zip(method.rows, v["shift"], strict=True):
        merged[row] += shift
    return merged, lambda G: {"shift": G[list(method.rows)]}


def lora_xs(K, method, v):
    U, s, Vt = svd(K)
    r = method.rank
    A, B = U[:, :r] * s[:r], Vt[:r]
    c = 1.0 if method.alpha is None else method.alpha / r
    return K + c * A @ v["latent"] @ B, lambda G: {"latent": c * A.T @ G @ B.T}


def vera(K, method, v):
    (m, n), d, b = K.shape, v["lambda_d"], v["lambda_b"]
    A, B = v["vera_a"][:m], v["vera_b"][:, :n]

    def gradients(G):
        return {
            "lambda_d": np.diag(A.T @ G @ np.diag(b) @ B.T),
            "lambda_b": ((A @ np.diag(d) @ B) * G).sum(axis=0),
        }

    return K + A @ np.diag(d) @ B @ np.diag(b), gradients


def svf(K, method, v):
    U, s, Vt = svd(K)
    return U @ np.diag(s * v["z"]) @ Vt, lambda G: {"z": s * np.diag(U.T @ G @ Vt.T)}


def svft(K, method, v):
    U, s, Vt = svd(K)
    k = len(s)
    i, j = svft_entries(method, v, k)
    M = np.zeros((k, k))
    M[i, j] = v["m"]
    return U @ (np.diag(s) + M) @ Vt, lambda G: {"m": (U.T @ G @ Vt.T)[i, j]}


def svft_entries(method, v, k):
    """The trained entries of M, row by row, with d diagonals on each side."""
    if "pairs" in v:
        return v["pairs"].T
    return np.array([(i, j) for i in range(k) for j in range(k) if abs(i - j) <= method.d]).T
