"""The equations of further methods in float64, as the papers write them.

Each takes the kernel K (m, n), the method and all arrays, and returns the adapted kernel K'.
Central differences give the gradient of each trained array, exact to about 1e-9.
"""

from functools import wraps

import numpy as np
from closed_forms import svd

STEP = 1e-5


def differentiated(equation):
    """The closed form of an equation: K', and a function from dL/dK' to all gradients."""

    @wraps(equation)
    def closed_form(K, method, v):
        form = method.form(*K.shape)
        trained = [k for k, array in method.arrays(*K.shape, form).items() if array.trainable]

        def gradients(G):
            return {name: slope(name, G) for name in trained}

        def slope(name, G):
            found = np.zeros_like(v[name])
            for place in np.ndindex(found.shape):
                ends = []
                for step in (STEP, -STEP):
                    moved = v[name].copy()
                    moved[place] += step
                    ends.append((equation(K, method, {**v, name: moved}) * G).sum())
                found[place] = (ends[0] - ends[1]) / (2 * STEP)
            return found

        return equation(K, method, v), gradients

    return closed_form


def scale(method):
    return 1.0 if method.alpha is None else method.alpha / method.rank


@differentiated
def ia3(K, method, v):
    m, n = K.shape
    of_inputs = method.side == "input" or (method.side == "auto" and m > n)
    return np.diag(v["scaling"]) @ K if of_inputs else K @ np.diag(v["scaling"])


@differentiated
def tri_lora(K, method, v):
    return K + scale(method) * v["lora_a"] @ np.diag(v["gate"]) @ v["lora_b"]


@differentiated
def flora(K, method, v):
    return K + method.scale * v["lora_a"] @ v["core"] @ v["lora_b"]


@differentiated
def melora(K, method, v):
    (m, n), g, changed = K.shape, method.groups, K.copy()
    for i in range(g):
        rows, columns = slice(i * m // g, (i + 1) * m // g), slice(i * n // g, (i + 1) * n // g)
        changed[rows, columns] += scale(method) * v["lora_a"][rows] @ v["lora_b"][:, columns]
    return changed


@differentiated
def qa_lora(K, method, v):
    rows = [v["lora_a"][i // method.group] / method.group for i in range(len(K))]
    return K + scale(method) * np.stack(rows) @ v["lora_b"]


@differentiated
def loha(K, method, v):
    first, second = v["loha_a1"] @ v["loha_b1"], v["loha_a2"] @ v["loha_b2"]
    return K + scale(method) * first * second


@differentiated
def abba(K, method, v):
    first, second = v["abba_a1"] @ v["abba_b1"], v["abba_a2"] @ v["abba_b2"]
    return K + np.sqrt(method.alpha1 * method.alpha2) * first * second


@differentiated
def miss(K, method, v):
    return K + np.stack([v["shards"][i % method.rank] for i in range(len(K))])


@differentiated
def lokr(K, method, v):
    second = v["w2"] if "w2" in v else v["w2_a"] @ v["w2_b"]
    return K + scale(method) * np.kron(v["w1"], second)


@differentiated
def fourier_ft(K, method, v):
    spectrum = np.zeros(K.shape)
    q, p = v["places"].T
    spectrum[q, p] = v["coefficients"]
    return K + method.scale * np.fft.ifft2(spectrum).real


@differentiated
def loretta(K, method, v):
    def train(side, shape):
        found = np.ones((1, 1))
        for i in range(len([name for name in v if name.startswith(f"tt_{side}_")])):
            found = np.einsum("xa,asb->xsb", found, v[f"tt_{side}_{i}"])
            found = found.reshape(-1, found.shape[-1])
        return found.reshape(shape)

    (m, n), r = K.shape, method.rank
    return K + scale(method) * train("a", (m, r)) @ train("b", (r, n))


@differentiated
def svdiff(K, method, v):
    U, s, Vt = svd(K)
    return U @ np.diag(np.maximum(s + method.scale * v["shift"], 0)) @ Vt


@differentiated
def spectral_adapter_a(K, method, v):
    U, s, Vt = part_of_svd(K, method.first, method.rank)
    changed = (U + v["x"]) @ np.diag(s) @ (Vt.T + v["y"]).T
    return K - U @ np.diag(s) @ Vt + changed


@differentiated
def spectral_adapter_r(K, method, v):
    U, s, Vt = part_of_svd(K, method.first, method.rank)
    X, Y = rotation(v["skew_x"], method.rank), rotation(v["skew_y"], method.rank)
    return K - U @ np.diag(s) @ Vt + U @ X @ np.diag(s * v["scaling"]) @ Y.T @ Vt


@differentiated
def psoft(K, method, v):
    U, s, Vt = part_of_svd(K, 0, method.rank)
    turned = np.diag(v["vec_a"]) @ rotation(v["skew"], method.rank) @ np.diag(v["vec_b"])
    return K + U @ (turned - np.eye(method.rank)) @ np.diag(s) @ Vt


@differentiated
def lora_x(K, method, v):
    U, _, Vt = part_of_svd(K, 0, method.rank)
    return K + U @ (v["latent"] if method.core == "full" else np.diag(v["latent"])) @ Vt


@differentiated
def nested_lora_xs(K, method, v):
    U, s, Vt = part_of_svd(K, 0, method.rank)
    return K + U @ np.diag(s) @ v["latent_a"] @ v["latent_b"] @ Vt


@differentiated
def tiny_lora(K, method, v):
    U, s, Vt = part_of_svd(K, 0, method.rank)
    R = (v["random"] @ v["latent"]).reshape(method.rank, method.rank)
    return K + U @ np.diag(np.sqrt(s)) @ R @ np.diag(np.sqrt(s)) @ Vt


@differentiated
def pmss(K, method, v):
    return K + K[:, v["columns"]] @ v["latent"] @ K[v["rows"]]


def detached(equation):
    """The closed form of `V f` whose norm has no gradient; `equation` returns V."""

    @wraps(equation)
    def closed_form(K, method, v):
        norm = np.linalg.norm(equation(K, method, v), axis=0)

        @differentiated
        def whole(K, method, v):
            return equation(K, method, v) * v["magnitude"] / norm

        return whole(K, method, v)

    return closed_form


@detached
def edora(K, method, v):
    U, s, Vt = part_of_svd(K, 0, method.rank)
    return K + scale(method) * U @ np.diag(s) @ v["latent"] @ Vt


@detached
def dude(K, method, v):
    U, s, Vt = part_of_svd(K, 0, method.rank)
    return K + scale(method) * v["lora_a"] @ v["lora_b"] - U @ np.diag(s) @ Vt


def part_of_svd(K, first, rank):
    U, s, Vt = svd(K)
    which = slice(first, first + rank)
    return U[:, which], s[which], Vt[which]


def rotation(triangle, size):
    S = np.zeros((size, size))
    S[np.triu_indices(size, 1)] = triangle
    S -= S.T
    return (np.eye(size) - S) @ np.linalg.inv(np.eye(size) + S)
