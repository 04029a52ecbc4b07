"""Schedules of methods in `fit`: continued after a break, missing, unfit for the model."""

import warnings

import keras
import numpy as np
import pytest
from cases import numpy
from experts import EXPERTS, TOKENS, WIDTH, model_of_experts
from numpy_training import LAYERS, SGD, Adam, X, Y, adapted, arrays_of, fit, optimizer

import keras_svd_adapters as ksa
from keras_svd_adapters import methods
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

CASES = {
    "rose": (methods.RoseLoRA(rank=2, share=0.5), lambda: ksa.RoseLoRASchedule(1, 8, 2)),
    "sparse": (methods.SparseAdapter(rank=2), lambda: ksa.SparseAdapterSchedule(3, "random", 2, 4)),
    "ada": (methods.AdaLoRA(rank=2), lambda: ksa.AdaLoRASchedule(1, 1, 8, 2)),
    "dynamic": (methods.DynamicDoRA(rank=2), lambda: ksa.DynamicDoRASchedule(1, 1, 8, 3)),
    "auto": (methods.AutoLoRA(rank=2), lambda: ksa.AutoLoRASchedule(7)),
    "allocating": (
        methods.AllocatingLoRA(rank=2, spare=2),
        lambda data=(X, Y): ksa.AllocatingLoRASchedule(data, 1, 8, 3, count=1),
    ),
    "af": (methods.AFLoRA(rank=2), lambda: ksa.AFLoRASchedule(1, 8, 2)),
    "lora_prune": (methods.LoRAPrune(rank=2), lambda: ksa.LoRAPruneSchedule(1, 8, 2)),
    "pri": (methods.PRILoRA(rank=2), lambda: ksa.PRILoRASchedule(1, 8, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_continued_as_if_never_stopped(name, tmp_path):
    method, make = CASES[name]

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 4

    def compiled():
        model = adapted(method, optimizer(Adam, make(), 1e-2), layers=LAYERS)
        model.compile(model.optimizer, "mse")
        return model

    straight, model = compiled(), compiled()
    fit(straight, 10, make())
    fit(model, 10, keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"), make(), Stop())
    again = keras.saving.load_model(tmp_path / "m.keras")
    fit(again, 10, make(), first=5)
    for one, other in zip(again.weights, straight.weights, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other), err_msg=one.path)
    ksa.save_adapter(again, tmp_path / "a.keras")
    fresh = adapted(ksa.LoRA(rank=1), "sgd", layers=LAYERS)
    ksa.delete_adapter(fresh, "default")
    ksa.load_adapter(fresh, tmp_path / "a.keras", verbose=0)
    for layer in LAYERS:
        for array, value in arrays_of(again, layer).items():
            np.testing.assert_array_equal(arrays_of(fresh, layer)[array], value)


@pytest.mark.parametrize("name", CASES)
def test_a_method_says_once_that_its_schedule_is_missing(name):
    method, make = CASES[name]
    schedule = make()
    model = adapted(method, optimizer(SGD, schedule, 1e-3))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*trains without")
        fit(model, 10, schedule)
    model = adapted(method, optimizer(SGD, schedule, 1e-3))
    with pytest.warns(UserWarning, match=f"trains without its `{type(schedule).__name__}`"):
        fit(model, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*trains without")
        fit(model, 1)


def test_a_rule_can_be_what_a_method_needs():
    model = adapted(methods.SoRA(rank=2), "sgd")
    with pytest.warns(UserWarning, match="SoRA trains without its `Proximal`"):
        fit(model, 1)


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_that_does_not_fit(name):
    method, make = CASES[name]
    schedule = make()
    lora = adapted(ksa.LoRA(rank=2), "sgd")
    with pytest.raises(ValueError, match=f"Schedule` serves {type(method).__name__}, and no.*Rec"):
        fit(lora, 10, schedule)
    model = adapted(method, optimizer(SGD, schedule, 1e-3))
    before = [numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match=f"ends at step {schedule.last_step}.*Received: {{"):
        fit(model, schedule.last_step, schedule)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert (type(again), again.get_config()) == (type(schedule), schedule.get_config())


@pytest.mark.parametrize("name", ["rose", "ada", "dynamic", "af", "auto", "lora_prune"])
def test_an_optimizer_without_the_rule(name):
    method, make = CASES[name]
    with pytest.raises(ValueError, match=r"schedule.rules\(\).*Received: optimizer"):
        fit(adapted(method, "sgd"), 10, make())


def test_several_shares_of_one_budget():
    schedule = ksa.SparseAdapterSchedule(3)
    each = {"up": methods.SparseAdapter(rank=2), "side": methods.SparseAdapter(rank=2, share=0.25)}
    model = adapted(each["up"], optimizer(SGD, schedule, 1e-3), layers=LAYERS)
    ksa.delete_adapter(model, "default")
    ksa.enable(model, targets=each)
    model.compile(optimizer(SGD, schedule, 1e-3), "mse")
    with pytest.raises(ValueError, match="the same `share`.*Received: .* and .*share=0.25"):
        fit(model, 10, schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ksa.AdaLoRASchedule(0, 1, 2), "`rank` must be a positive.*Received: rank=0"),
        (lambda: ksa.AdaLoRASchedule(1, -1, 2), "`begin` must be an integer from 0"),
        (lambda: ksa.RoseLoRASchedule(3, 3), "later step.*Received: begin=3, end=3"),
        (lambda: ksa.AFLoRASchedule(3, 5, 0), "`every` must be.*Received: every=0"),
        (lambda: ksa.SparseAdapterSchedule(0, "synflow"), "from 1, since all.*step=0"),
        (lambda: ksa.SparseAdapterSchedule(3, "grasp"), "must be one of.*Received: score='grasp'"),
        (lambda: ksa.SparseAdapterSchedule(3, rounds=0), "`rounds` must be.*Received: rounds=0"),
        (lambda: ksa.AllocatingLoRASchedule((X, Y), 0, 2, count=0), "Received: count=0"),
        (lambda: ksa.AllocatingLoRASchedule(X, 0, 2), "a tuple.*or a dataset.*Received: data="),
        (lambda: ksa.AutoLoRASchedule(0), "positive integer. Received: step=0"),
    ],
)
def test_requests_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("spare", [0, 1])
def test_ranks_that_cannot_move(spare):
    model = adapted(methods.AllocatingLoRA(rank=2, spare=spare), "sgd")
    schedule = ksa.AllocatingLoRASchedule((X, Y), 1, 3)
    if spare:
        schedule = type(schedule).from_config(schedule.get_config())
    match = "make it again, with `data" if spare else "no kernel has a rank to spare"
    with pytest.raises(ValueError, match=f"{match}.*Received: AllocatingLoRA"):
        fit(model, 5, schedule)


@pytest.mark.parametrize("rank", [0.1, 3.0])
def test_a_budget_that_the_model_does_not_have(rank):
    schedule = ksa.AdaLoRASchedule(rank, 1, 3)
    model = adapted(methods.AdaLoRA(rank=2), optimizer(SGD, schedule, 1e-3), layers=LAYERS)
    with pytest.raises(
        ValueError, match=f"4 ranks in 2 kernels.*from 0.5 to 2.*Received: rank={rank}"
    ):
        fit(model, 5, schedule)


@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "pri"]
)  # which reads the inputs of a layer
def test_each_expert_of_a_stack(name):
    """Masks of a stack have its axis, and shares and budgets count its kernels."""
    method, make = CASES[name]
    x = np.random.default_rng(3).normal(size=(TOKENS, WIDTH)).astype("float32")
    model, schedule = model_of_experts(), make((x, x)) if name == "allocating" else make()
    ksa.enable(model, method, targets="experts/*")
    model.compile(optimizer(Adam, schedule, 1e-2), "mse")
    model.fit(x, x, batch_size=TOKENS, epochs=9, shuffle=False, verbose=0, callbacks=[schedule])
    masks = {
        (site.path, k): numpy(variable)
        for site in adapted_sites(model)
        for k, variable in adapters_of(site.layer)["default"].arrays.items()
        if k.startswith("mask")
    }
    assert all(len(mask) == EXPERTS for mask in masks.values())
    if name == "rose":  # half of each column of A and of each row of B
        for (_, k), mask in masks.items():
            assert np.all(
                mask.sum(-2 if k == "mask_a" else -1) * 2 == mask.shape[1 + (k[-1] == "b")]
            )
    elif name in ("ada", "dynamic"):  # a rank for each of the kernels
        assert sum(mask.sum() for mask in masks.values()) == 2 * EXPERTS
    elif name == "allocating":  # ranks move between them
        assert sum(mask.sum() for mask in masks.values()) == 2 * EXPERTS * len(masks)
        assert any(np.any(mask.sum(-1) != 2) for mask in masks.values())
    elif name == "sparse":
        kept, size = (sum(f(mask) for mask in masks.values()) for f in (np.sum, np.size))
        assert kept * 2 == size
    elif name == "lora_prune":
        assert all((mask.sum(1) * 2 == mask.shape[1]).all() for mask in masks.values())
    elif name == "af":
        assert not any(mask.any() for mask in masks.values())
