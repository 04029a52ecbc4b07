"""Schedules that come with methods, step by step against NumPy loops in float64."""

import keras
import numpy as np
import pytest
from cases import numpy
from numpy_training import (
    LAYERS,
    SGD,
    Adam,
    Loop,
    adapted,
    aflora,
    arrays_of,
    fit,
    gated,
    masked,
    optimizer,
)

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

STEPS = 14


def cubic(t, begin, end):
    return (1 - (t - begin) / (end - begin)) ** 3


def top(scores, count):
    """1 for the highest scores of a vector."""
    return np.isin(np.arange(len(scores)), np.argsort(-scores, kind="stable")[:count]).astype(float)


KINDS = pytest.mark.parametrize("kind", [SGD, Adam])


@KINDS
def test_rose_lora(kind):
    method = methods.RoseLoRA(rank=2, alpha=4, share=0.3)
    schedule = ksa.RoseLoRASchedule(begin=2, end=10, every=2)
    rate = 3e-4 if kind is SGD else 1e-2
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    loop = Loop(model, LAYERS, masked(2.0), kind(rate))

    def prune(t):
        if t not in (4, 6, 8, 10):
            return
        share = 0.3 + 0.7 * cubic(t, 2, 10)
        for layer, v in loop.v.items():
            S = loop.S[layer]
            count_a, count_b = (max(1, round(share * size)) for size in (6, 5))
            v["mask_a"] = np.stack([top(column, count_a) for column in S["lora_a"].T], axis=1)
            v["mask_b"] = np.stack([top(row, count_b) for row in S["lora_b"]])
            v["lora_a"], v["lora_b"] = v["lora_a"] * v["mask_a"], v["lora_b"] * v["mask_b"]

    loop.run(STEPS, before=prune)
    fit(model, STEPS, schedule)
    loop.check()
    for layer in LAYERS:
        arrays = arrays_of(model, layer)
        assert list(arrays["mask_a"].sum(0)) == [2, 2]  # 0.3 of 6
        assert list(arrays["mask_b"].sum(1)) == [2, 2]  # 0.3 of 5, rounded


@pytest.mark.parametrize("score", ["snip", "magnitude", "random"])
def test_sparse_adapter(score):
    method = methods.SparseAdapter(rank=2, share=0.25)
    schedule = ksa.SparseAdapterSchedule(4, score, rounds=2, every=3, seed=1)
    model = adapted(method, optimizer(Adam, schedule, 1e-2), layers=LAYERS)
    loop = Loop(model, LAYERS, masked(1.0), Adam(1e-2))

    def prune(t):
        if t not in (4, 7):
            return
        rng = np.random.Generator(np.random.Philox(key=np.array([1, t], "uint64")))
        parts = [(layer, k) for layer in LAYERS for k in ("lora_a", "lora_b")]
        scores = []
        for layer, k in parts:
            v, mask = loop.v[layer], loop.v[layer][k.replace("lora", "mask")]
            found = {"snip": loop.S[layer][k], "magnitude": np.abs(v[k])}
            found = rng.random(mask.shape) if score == "random" else found[score]
            scores.append(np.where(mask > 0, found, -1).ravel())
        kept = top(np.concatenate(scores), round(44 * 0.25 ** (1 / 2 if t == 4 else 1)))
        for (layer, k), part in zip(parts, np.split(kept, np.cumsum([12, 10, 12]))):
            v = loop.v[layer]
            v[k.replace("lora", "mask")] = part.reshape(v[k].shape)
            v[k] = v[k] * part.reshape(v[k].shape)

    loop.run(STEPS, before=prune)
    fit(model, STEPS, schedule)
    loop.check()
    kept = sum(arrays_of(model, layer)[k].sum() for layer in LAYERS for k in ("mask_a", "mask_b"))
    assert kept == 11  # of 44


@pytest.mark.parametrize("score", ["snip", "magnitude"])
def test_scores_at_the_start_of_lora(score):
    """`|w g|` is 0 everywhere, and `|w|` alone prunes all of B."""
    method = methods.SparseAdapter(rank=2)
    schedule = ksa.SparseAdapterSchedule(2 if score == "snip" else 0, score)
    model = adapted(method, optimizer(SGD, ksa.SparseAdapterSchedule(2), 1e-3), shaken=False)
    arrays = model.get_layer("up").adapter().arrays
    fit(model, 1)
    for name in ("lora_a", "lora_b"):
        assert not numpy(model.optimizer.statistic(arrays[name], "sensitivity")).any()
    if score == "snip":
        with pytest.raises(ValueError, match="from 2, since all scores are 0.*Received: step=1"):
            ksa.SparseAdapterSchedule(1)
    else:
        model = adapted(method, "sgd", shaken=False)
        fit(model, 1, schedule)
        assert numpy(model.get_layer("up").adapter().mask_b).sum() == 0


@KINDS
def test_ada_lora(kind):
    method = methods.AdaLoRA(rank=3, orthogonality=0.0)
    schedule = ksa.AdaLoRASchedule(rank=1, begin=2, end=11, every=3)
    rate = 1e-3 if kind is SGD else 1e-2
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    loop = Loop(model, LAYERS, gated, kind(rate), (0.85, 0.85))

    def prune(t):
        if t not in (5, 8, 11):
            return
        s = {x: {k: loop.S[x][k] * loop.U[x][k] for k in loop.S[x]} for x in LAYERS}
        scores = [x["gate"] + x["lora_a"].mean(0) + x["lora_b"].mean(1) for x in s.values()]
        kept = top(np.concatenate(scores), int(2 + 4 * cubic(t, 2, 11)))
        for v, mask in zip(loop.v.values(), np.split(kept, 2)):
            v["mask"], v["gate"] = mask, v["gate"] * mask

    loop.run(STEPS, before=prune)
    fit(model, STEPS, schedule)
    loop.check()
    assert sum(arrays_of(model, layer)["mask"].sum() for layer in LAYERS) == 2


@KINDS
def test_dynamic_dora(kind):
    method = methods.DynamicDoRA(rank=3, alpha=3)
    schedule = ksa.DynamicDoRASchedule(rank=1.5, begin=2, end=10, every=4)
    rate = 1e-3 if kind is SGD else 1e-2
    model = adapted(method, optimizer(kind, schedule, rate), layers=LAYERS)
    for layer in LAYERS:
        model.get_layer(layer).adapter().penalty_weight.assign([0.0])  # the loop has no penalty
    loop = Loop(model, LAYERS, gated, kind(rate))
    shares = {layer: np.zeros(3) for layer in LAYERS}

    def prune(t):
        if t in (6, 10):
            on = [v["mask"] > 0 for v in loop.v.values()]
            scores = np.concatenate([np.where(m, x, -1) for m, x in zip(on, shares.values())])
            kept = top(scores, int(3 + 3 * cubic(t, 2, 10)))
            for v, mask in zip(loop.v.values(), np.split(kept, 2)):
                v["mask"], v["gate"] = mask, v["gate"] * mask
        for layer, v in loop.v.items():
            norms = [np.linalg.norm(e * np.outer(a, b)) for e, a, b in _ranks(v)]
            whole = np.linalg.norm(v["lora_a"] * v["gate"] @ v["lora_b"])
            shares[layer] = 0.9 * shares[layer] + 0.1 * np.array(norms) / whole

    loop.run(STEPS, before=prune)
    fit(model, STEPS, schedule)
    loop.check()
    assert sum(arrays_of(model, layer)["mask"].sum() for layer in LAYERS) == 3


def _ranks(v):
    return zip(v["gate"], v["lora_a"].T, v["lora_b"])


def test_dynamic_doras_penalty_ends_with_the_pruning():
    schedule = ksa.DynamicDoRASchedule(rank=1, begin=0, end=3)
    model = adapted(methods.DynamicDoRA(rank=3), optimizer(Adam, schedule, 1e-3))
    fit(model, 4, schedule)
    assert arrays_of(model)["penalty_weight"] == [0.0]


def test_sora():
    """The gates are the soft thresholding of what the optimizer made of them."""
    method, rule = methods.SoRA(rank=4, alpha=4), ksa.Proximal({"*/gate": 60.0})
    model = adapted(method, ksa.rules(keras.optimizers.SGD(1e-3), [rule]))
    loop = Loop(model, ("up",), gated, SGD(1e-3))

    def shrink(t):
        gate = loop.v["up"]["gate"]
        loop.v["up"]["gate"] = np.sign(gate) * np.maximum(np.abs(gate) - 0.06, 0)

    loop.run(STEPS, after=shrink)
    fit(model, STEPS)
    loop.check()
    assert 0 < (arrays_of(model)["gate"] == 0).sum() < 4


def test_bi_lora_and_auto_lora():
    for method in (methods.BiLoRA(rank=2, orthogonality=0.0), methods.AutoLoRA(rank=2)):
        model = adapted(method, ksa.rules(keras.optimizers.Adam(1e-2), [ksa.Alternate()]))
        for step in range(4):
            before = arrays_of(model)
            fit(model, 1)
            moved = {k for k, v in arrays_of(model).items() if np.any(v != before[k])}
            assert moved == ({"gate"} if step % 2 == 0 else {"lora_a", "lora_b"})


def test_auto_lora_chooses_its_ranks():
    schedule = ksa.AutoLoRASchedule(step=2)
    model = adapted(methods.AutoLoRA(rank=4), optimizer(SGD, schedule, 1e-6))
    arrays = model.get_layer("up").adapter().arrays
    arrays["gate"].assign([0.5, 0.5, -1.0, 2.0])  # softmax 0.15, 0.15, 0.03, 0.67
    fit(model, 3, schedule)
    assert list(numpy(arrays["mask"])) == [0, 0, 0, 1]
    arrays["gate"].assign([1.0, 1.0, 1.0, 1.0])
    schedule.on_step(2)
    assert list(numpy(arrays["mask"])) == [1, 1, 1, 1]


@KINDS
def test_aflora(kind):
    schedule = ksa.AFLoRASchedule(begin=2, end=10, every=2)
    rate = 1e-3 if kind is SGD else 1e-2
    model = adapted(methods.AFLoRA(rank=2), optimizer(kind, schedule, rate), layers=LAYERS)
    loop = Loop(model, LAYERS, aflora, kind(rate), (0.85, 0.85))
    parts = [(layer, name) for layer in LAYERS for name in ("lora_a", "lora_b")]
    frozen = []

    def freeze(t):
        if t in (4, 6, 8, 10):
            score = {(x, k): (loop.S[x][k] * loop.U[x][k]).mean() for x, k in parts}
            left = sorted(set(parts) - set(frozen), key=lambda part: score[part])
            count = int(4 * (1 - cubic(t, 2, 10)) + 1e-9)
            frozen.extend(left[: count - len(frozen)])
            for layer, name in frozen:
                loop.v[layer][name.replace("lora", "mask")] = np.zeros(1)

    loop.run(STEPS, before=freeze, trains=lambda *part: part not in frozen)
    fit(model, STEPS, schedule)
    loop.check()
    assert set(frozen) == set(parts)
    before = [arrays_of(model, layer) for layer in LAYERS]
    fit(model, 3)
    for layer, then in zip(LAYERS, before):
        now = arrays_of(model, layer)
        moved = {name for name in now if np.any(now[name] != then[name])}
        assert moved == {"d", "v"}  # the others bit for bit, whatever the momentum
