"""Float64 equations of the methods with a router: outputs for rows, and gradients by outputs."""

import numpy as np


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def probabilities(x, v):
    return softmax(x @ v["gate"] + v.get("gate_bias", 0.0))


def chosen(p, count):
    """1 for the largest of each row."""
    order = np.argsort(-p, axis=-1, kind="stable")[:, :count]
    mask = np.zeros(p.shape)
    np.put_along_axis(mask, order, 1.0, axis=-1)
    return mask


def gates(x, v, count=None):
    """The weights of the experts, all or some, and the gradients of the router by theirs."""
    p = probabilities(x, v)
    mask = chosen(p, count or p.shape[1])
    is_one = count == 1 < p.shape[1]  # of several: not divided by itself
    total = 1.0 if is_one else (p * mask).sum(axis=-1, keepdims=True)
    g = p * mask / total

    def gradients(dg):
        dp = mask * (dg - (0 if is_one else (g * dg).sum(axis=-1, keepdims=True))) / total
        logits = p * (dp - (p * dp).sum(axis=-1, keepdims=True))
        found = {"gate": x.T @ logits}
        return found | ({"gate_bias": logits.sum(axis=0)} if "gate_bias" in v else {})

    return g, gradients


def routed_lora(K, method, v, x, samples):
    k, r, c = method.experts, method.rank, method.scale
    B = np.split(v["lora_b"], k)
    A = [v["lora_a"]] * k if v["lora_a"].shape[1] == r else np.split(v["lora_a"], k, axis=1)
    g, of_router = gates(x, v, getattr(method, "top_k", None))
    outputs = [c * x @ a @ b for a, b in zip(A, B, strict=True)]
    y = x @ K + sum(g[:, [i]] * outputs[i] for i in range(k))

    def gradients(G):
        dA = [c * x.T @ (g[:, [i]] * (G @ B[i].T)) for i in range(k)]
        dB = [c * (x @ A[i]).T @ (g[:, [i]] * G) for i in range(k)]
        of_gates = np.stack([(G * output).sum(axis=-1) for output in outputs], axis=-1)
        one = v["lora_a"].shape[1] == r
        return {
            "lora_a": sum(dA) if one else np.concatenate(dA, axis=1),
            "lora_b": np.concatenate(dB),
            **of_router(of_gates),
        }

    return y, gradients


def mov(K, method, v, x, samples):
    m, n = K.shape
    g, of_router = gates(x, v)
    scale = g @ v["scaling"]
    is_input = method.side == "auto" and m > n
    y = (x * scale) @ K if is_input else (x @ K) * scale

    def gradients(G):
        of_scale = x * (G @ K.T) if is_input else G * (x @ K)
        return {"scaling": g.T @ of_scale, **of_router(of_scale @ v["scaling"].T)}

    return y, gradients


def lora_pool(K, method, v, x, samples):
    rows = len(x) // samples
    mean = np.kron(np.eye(samples), np.full((rows, rows), 1 / rows))
    g, of_router = gates(mean @ x, v, method.rank)
    A, B, c = v["lora_a"], v["lora_b"], method.scale * method.rank
    y = x @ K + c * (g * (x @ A)) @ B

    def gradients(G):
        back = c * G @ B.T
        return {
            "lora_a": x.T @ (g * back),
            "lora_b": c * (g * (x @ A)).T @ G,
            **of_router((x @ A) * back),
        }

    return y, gradients
