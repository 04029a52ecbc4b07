"""The equations of the methods with gates in float64, at inference, and their penalties."""

import numpy as np
from closed_forms_of_updates import differentiated, scale


def gated(K, method, v):
    """One rank after the other, each times its gate."""
    changed = K.copy()
    for mask, e, a, b in zip(v["mask"], v["gate"], v["lora_a"].T, v["lora_b"], strict=True):
        changed += mask * scale(method) * e * np.outer(a, b)
    return changed


plain = differentiated(gated)


@differentiated
def autolora(K, method, v):
    powers = np.exp(v["gate"])
    return gated(K, method, {**v, "gate": powers / powers.sum()})


@differentiated
def dylora(K, method, v):
    alpha = method.rank if method.alpha is None else method.alpha
    b = int(v["mask"].sum())
    return K + alpha / b * v["lora_a"][:, :b] @ v["lora_b"][:b]


@differentiated
def diff_pruning(K, method, v):
    z, g = (np.clip(3 / (1 + np.exp(-v[name])) - 1.5, 0, 1) for name in ("log_alpha", "group"))
    return K + v["mask"] * g * z * v["diff"]


def orthogonality(array):
    """`|A^T A - I|_F` and its gradient."""
    difference = array.T @ array - np.eye(array.shape[1])
    norm = np.sqrt((difference**2).sum())
    return norm, 2 * array @ difference / norm


def variance(array):
    """The mean of the unbiased variances of the columns, and its gradient."""
    (m, r), centred = array.shape, array - array.mean(0)
    return (centred**2).sum() / (m - 1) / r, 2 * centred / (m - 1) / r


def open_gates(logits):
    """The sum of the sigmoids, and its gradient."""
    chances = 1 / (1 + np.exp(-logits))
    return chances.sum(), chances * (1 - chances)
