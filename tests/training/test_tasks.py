"""One LoRA per task, orthogonal to the earlier ones: O-LoRA."""

import keras
import numpy as np
import pytest
from autodiff import loss_gradients
from cases import numpy
from restarting import NAMES, X, adapted, arrays, fit

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.training.steps import state_of

METHOD = methods.TaskLoRA(rank=2, alpha=4, tasks=3, orthogonality=0.7, norm_weight=0.2)
DRAWN = ("lora_a", "lora_b")


def after_a_task(method=METHOD, epochs=2, tasks=1):
    model = adapted(method, keras.optimizers.Adam(1e-2))
    for task in range(tasks):
        fit(model, epochs)
        ksa.begin_task(model, seed=task)
    return model


def penalty(v, l1, l2):
    """In float64, with its slopes."""
    A, B, P = v["lora_a"], v["lora_b"], v["past_a"]
    sizes = [np.sqrt((array**2).sum() + 1e-14) for array in (A, B)]
    value = l1 * np.abs(P.T @ A).sum() + l2 * sum(sizes)
    return value, {
        "lora_a": l1 * P @ np.sign(P.T @ A) + l2 * A / sizes[0],
        "lora_b": l2 * B / sizes[1],
    }


def test_value_and_gradient_of_the_penalty():
    model = after_a_task()
    for name in NAMES[:2]:  # B of the third stays 0
        b = model.get_layer(name).adapter().lora_b
        b.assign(np.random.default_rng(3).normal(size=b.shape))
    found = dict(zip([w.path for w in model.trainable_weights], loss_gradients(model), strict=True))
    expected = 0.0
    for name in NAMES:
        value, slopes = penalty(arrays(model, name), 0.7, 0.2)
        expected += value
        for key, slope in slopes.items():
            path = model.get_layer(name).adapter().arrays[key].path
            np.testing.assert_allclose(found[path], slope, rtol=1e-4, atol=1e-6)
            assert name == "down" or np.abs(slope).max() > 0.1
    np.testing.assert_allclose(sum(map(numpy, model.losses)), expected, rtol=1e-5)


def test_the_first_task_is_lora_bit_for_bit():
    orthogonal = methods.TaskLoRA(rank=2, alpha=4, orthogonality=5.0)
    models = [
        adapted(method, keras.optimizers.Adam(1e-2))
        for method in (orthogonal, ksa.LoRA(rank=2, alpha=4))
    ]
    for name in NAMES:
        start = arrays(models[0], name)["lora_a"]
        models[1].get_layer(name).adapter().lora_a.assign(start.astype("float32"))
    for model in models:
        fit(model, 2)
    for name in NAMES:
        for key in DRAWN:
            np.testing.assert_array_equal(
                arrays(models[0], name)[key], arrays(models[1], name)[key]
            )


def test_the_next_task_keeps_the_function_and_the_earlier_factors():
    model = adapted(METHOD, keras.optimizers.Adam(1e-2))
    kept, starts = [], []
    for task in range(3):
        fit(model, 2)
        for name in NAMES:
            v = arrays(model, name)
            for number, (A, B) in enumerate(kept):
                place = slice(2 * number, 2 * number + 2)
                np.testing.assert_array_equal(v["past_a"][:, place], A[name])
                np.testing.assert_array_equal(v["past_b"][place], B[name])
            assert not v["past_b"][2 * task :].any()
        if task == 2:
            break
        before = numpy(model(X))
        kept.append([{name: arrays(model, name)[key] for name in NAMES} for key in DRAWN])
        assert "TaskLoRA" in str(ksa.begin_task(model))
        np.testing.assert_allclose(numpy(model(X)), before, atol=2e-6)
        starts += [arrays(model, name)["lora_a"] for name in NAMES[1:]]
        for name in NAMES:
            assert not arrays(model, name)["lora_b"].any()
            for key in DRAWN:
                slots = state_of(model.optimizer, model.get_layer(name).adapter().arrays[key])
                assert len(slots) == 2
                assert not any(numpy(slot).any() for slot in slots)
    assert len({start.tobytes() for start in starts}) == 4, "each is drawn on its own"
    v = arrays(model)
    assert np.linalg.matrix_rank(v["past_a"] @ v["past_b"] + v["lora_a"] @ v["lora_b"], 1e-5) == 6


def test_past_factors_are_in_files_conversions_and_mixed_batches(tmp_path):
    model = after_a_task()
    fit(model, 1)
    expected = numpy(model(X))
    ksa.save_adapter(model, tmp_path / "tasks.keras")
    mixed = ksa.predict(model, X, ["default"] * 20 + [None] * 4)
    np.testing.assert_allclose(mixed[:20], expected[:20], atol=1e-5)
    ksa.delete_adapter(model, "default")
    base = numpy(model(X))
    np.testing.assert_allclose(mixed[20:], base[20:], atol=1e-5)
    assert np.abs(base - expected).max() > 1e-2
    ksa.load_adapter(model, tmp_path / "tasks.keras")
    np.testing.assert_array_equal(numpy(model(X)), expected)
    assert ksa.to_lora(model, into="plain").error < 1e-6
    ksa.delete_adapter(model, "default")
    ksa.set_adapter(model, "plain")
    np.testing.assert_allclose(numpy(model(X)), expected, atol=1e-5)
    ksa.merge(model)
    np.testing.assert_allclose(numpy(model(X)), expected, atol=1e-5)


def test_the_penalty_makes_tasks_orthogonal():
    overlaps = []
    for weight in (0.0, 2.0):
        model = after_a_task(methods.TaskLoRA(rank=2, orthogonality=weight))
        fit(model, 10)
        v = arrays(model)
        overlaps.append(np.abs(v["past_a"].T @ v["lora_a"]).sum())
    assert overlaps[1] < 0.2 * overlaps[0]


def test_resumed_as_uninterrupted(tmp_path):
    models = [after_a_task(), after_a_task()]
    fit(models[0], 4)
    fit(models[1], 2)
    models[1].save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    fit(again, 2)
    ksa.begin_task(again)
    ksa.begin_task(models[0])
    for name in NAMES:
        for key, value in arrays(models[0], name).items():
            np.testing.assert_array_equal(arrays(again, name)[key], value)


def test_a_task_that_learned_nothing_takes_no_place():
    model = after_a_task()
    before = arrays(model)
    ksa.begin_task(model, seed=5)
    after = arrays(model)
    for key in ("past_a", "past_b"):
        np.testing.assert_array_equal(after[key], before[key])
    assert not np.array_equal(after["lora_a"], before["lora_a"])


def test_refusals():
    full = after_a_task(tasks=2)
    fit(full, 1)
    plain = adapted(ksa.LoRA(rank=2), "sgd")
    for model, message in ((full, "has no place left for what"), (plain, "has no place for what")):
        before = [numpy(w) for w in model.weights]
        with pytest.raises(ValueError, match=f"{message}.*Received: .*LoRA.*on `up`"):
            ksa.begin_task(model)
        assert all(np.array_equal(numpy(w), b) for w, b in zip(model.weights, before, strict=True))
    with pytest.raises(ValueError, match="`seed` must not be negative"):
        ksa.begin_task(full, seed=-1)
    with pytest.raises(ValueError, match="no such adapter"):
        ksa.begin_task(full, "other")


@pytest.mark.parametrize(
    "bad", [{"tasks": 1}, {"tasks": 2.5}, {"orthogonality": -1}, {"norm_weight": float("nan")}]
)
def test_bad_hyperparameters(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must.*Received"):
        methods.TaskLoRA(**bad)
