"""The equations of the multiplicative methods in float64, independent of the package.

As in `closed_forms`: each returns K' and a function from G = dL/dK' to the gradients. Rotations are
whole (m, m) matrices here, and permutations are matrices as well.
"""

import numpy as np


def hra(K, method, v):
    u = v["u"]
    if method.orthogonal:
        return of_orthonormal(K, u, v["u_start"])
    R = product([reflection(u[:, i]) for i in range(u.shape[1])])

    def gradients(G):
        Q = G @ K.T  # dL/dR
        return {"u": np.stack([of_vector(i, u, Q) for i in range(u.shape[1])], axis=1)}

    return R @ K, gradients


def reflection(u):
    return np.eye(len(u)) - 2 * np.outer(u, u) / (u @ u)


def product(factors):
    """The last factor is the leftmost."""
    R = np.eye(len(factors[0]))
    for factor in factors:
        R = factor @ R
    return R


def of_vector(i, u, Q):
    """The gradient of one vector: of I - 2 v v^T with v = u / |u|."""
    later = [reflection(u[:, j]) for j in range(i + 1, u.shape[1])]
    earlier = [reflection(u[:, j]) for j in range(i)]
    eye = [np.eye(len(u))]
    of_one = product(eye + later).T @ Q @ product(eye + earlier).T
    length = np.linalg.norm(u[:, i])
    v = u[:, i] / length
    dv = -2 * (of_one + of_one.T) @ v
    return (dv - v * (v @ dv)) / length


def of_orthonormal(K, u, start):
    def multiplied(u):
        return (np.eye(len(u)) - 2 * projection(u)) @ (np.eye(len(u)) - 2 * projection(start)) @ K

    def gradients(G):
        P = projection(u)
        Q = -2 * G @ ((np.eye(len(u)) - 2 * projection(start)) @ K).T  # dL/dP
        outside = np.eye(len(u)) - P
        return {"u": outside @ (Q + Q.T) @ u @ np.linalg.inv(u.T @ u)}

    return multiplied(u), gradients


def projection(u):
    """Onto the span of the columns: Gram-Schmidt does not change it."""
    return u @ np.linalg.inv(u.T @ u) @ u.T


def oft(K, method, v):
    b, skew = method.block_size, v["skew"]
    each = np.repeat(skew, len(K) // b, axis=0) if method.shared_blocks else skew

    def gradients(G):
        found = of_triangles(each, b, G @ K.T)
        return {"skew": found.sum(axis=0, keepdims=True) if method.shared_blocks else found}

    return rotation(each, b) @ K, gradients


def boft(K, method, v):
    m, b, skew, scale = len(K), method.block_size, v["skew"], v["scale"]
    orders = [order(m, b, i) for i in range(method.factors)]
    factors = [P.T @ rotation(of_one, b) @ P for P, of_one in zip(orders, skew, strict=True)]
    R = product(factors)

    def gradients(G):
        Q = G @ np.diag(scale) @ K.T
        found = []
        for i, P in enumerate(orders):
            after = product([np.eye(m), *factors[i + 1 :]])
            before = product([np.eye(m), *factors[:i]])
            found.append(of_triangles(skew[i], b, P @ after.T @ Q @ before.T @ P.T))
        return {"skew": np.stack(found), "scale": (G * (R @ K)).sum(axis=0)}

    return R @ K @ np.diag(scale), gradients


def order(m, b, i):
    """The permutation that puts half blocks at a distance of 2^i half blocks side by side."""
    half, distance = b // 2, 2**i
    places = []
    for first in range(m // half):
        if first // distance % 2 == 0:
            for start in (first, first + distance):
                places += range(start * half, (start + 1) * half)
    return np.eye(m)[places]


def rotation(skew, b):
    """The block-diagonal R of the Cayley map, one block for each row."""
    R = np.zeros((len(skew) * b,) * 2)
    for i, values in enumerate(skew):
        S = skew_of(values, b)
        R[i * b : (i + 1) * b, i * b : (i + 1) * b] = (np.eye(b) - S) @ np.linalg.inv(np.eye(b) + S)
    return R


def skew_of(values, b):
    S, rest = np.zeros((b, b)), iter(values)
    for i in range(b):
        for j in range(i + 1, b):
            S[i, j] = next(rest)
            S[j, i] = -S[i, j]
    return S


def of_triangles(skew, b, Q):
    """The gradients of the triangles for Q = dL/dR: dR = -2 (I + S)^-1 dS (I + S)^-1."""
    found = []
    for i, values in enumerate(skew):
        inverse = np.linalg.inv(np.eye(b) + skew_of(values, b)).T
        dS = -2 * inverse @ Q[i * b : (i + 1) * b, i * b : (i + 1) * b] @ inverse
        found.append((dS - dS.T)[np.triu_indices(b, 1)])
    return np.stack(found)
