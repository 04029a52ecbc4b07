"""The equations of the methods with past factors in float64."""

from closed_forms_of_updates import differentiated, scale


@differentiated
def restarted_lora(K, method, v):
    return K + scale(method) * (v["lora_a"] * v["mask"] @ v["lora_b"] + v["past_a"] @ v["past_b"])


@differentiated
def task_lora(K, method, v):
    return K + scale(method) * (v["lora_a"] @ v["lora_b"] + v["past_a"] @ v["past_b"])


def delta_lora(K, method, v):
    """The gradients are those of the product alone."""
    A, B, c, followed = v["lora_a"], v["lora_b"], scale(method), method.strength * v["follows"]
    past = v["past_a"] @ v["past_b"]

    def gradients(G):
        return {"lora_a": c * G @ B.T, "lora_b": c * A.T @ G}

    return K + c * A @ B + followed * c * (A @ B - past), gradients
