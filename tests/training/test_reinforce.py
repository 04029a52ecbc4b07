"""`reinforce` climbs the expected reward; on a tiny model, all completions are known."""

import keras
import numpy as np
import policies
import pytest
from keras.optimizers import Adam
from policies import ALL, END, LENGTH, PROMPT

import keras_svd_adapters as ksa
from keras_svd_adapters.training.reinforcement.advantages import advantages
from keras_svd_adapters.training.reinforcement.loop import batch_of
from keras_svd_adapters.training.reinforcement.policy import Policy
from keras_svd_adapters.training.reinforcement.rollouts import Sampler

REWARDS = np.random.default_rng(1).standard_normal(len(ALL))
RUN = {"max_length": LENGTH, "stop_token_ids": (END,), "verbose": 0}


def reward(prompts, completions):
    return [REWARDS[ALL.index(tuple(row.tolist()))] for row in completions]


def run(model, steps, **how):
    settings = {"batch_size": 2, "samples": 4} | RUN | how
    return ksa.reinforce(model, [PROMPT, [0, 3]], reward, steps, **settings)


def assert_near(found, wanted, tolerance):
    assert np.linalg.norm(wanted) > 1e-2
    assert np.linalg.norm(found - wanted) < tolerance * np.linalg.norm(wanted)


def test_the_gradient_is_that_of_the_expected_reward():
    model, temperature = policies.task(), 0.7
    expected = lambda m: policies.probabilities(m, temperature) @ REWARDS  # noqa: E731
    assert np.isclose(policies.probabilities(model).sum(), 1, atol=1e-6)
    wanted = policies.gradient(expected, model)
    weights = policies.probabilities(model, temperature) * REWARDS
    (found,) = policies.moves(
        model, policies.enumerated(), weights[None, :, None], temperature=temperature
    )
    assert_near(found, wanted, 1e-3)


def test_the_gradient_of_the_divergence():
    model, rollout = policies.task(moved=0.2), policies.enumerated()
    with ksa.disabled(model):
        base = policies.probabilities(model)

    def divergence(m):
        p = policies.probabilities(m)
        return p @ np.log(p / base)

    found = Policy(model, 1.0, 1.0, "none").divergences(rollout)
    p = policies.probabilities(model)
    np.testing.assert_allclose(found[:, 0], np.log(p / base), atol=2e-6)
    wanted, variances = policies.gradient(divergence, model), []
    for weights in (np.repeat(found[:, :1], found.shape[1], axis=1), found):
        alone = np.eye(len(p))[:, :, None] * weights  # each completion by itself
        gradients = policies.moves(model, rollout, alone)
        assert_near(p @ gradients, wanted, 1e-3)
        variances.append(p @ ((gradients - wanted) ** 2).sum(axis=1))
    assert variances[1] < 0.9 * variances[0], "a token pays for itself and later tokens alone"


def test_the_divergence_is_0_at_the_start():
    assert not Policy(policies.task(), 1.0, 1.0, "none").divergences(policies.enumerated()).any()


def test_samples_follow_the_probabilities_and_end_with_the_end_token():
    model = policies.task()
    sampler, prompts = Sampler(model, LENGTH, (END,)), [PROMPT] * 2000
    with sampler.sampling(1.0):
        rollout = sampler.sample(prompts, np.random.default_rng(0))
        again = sampler.sample(prompts, np.random.default_rng(0))
    np.testing.assert_array_equal(rollout.token_ids, again.token_ids)
    counts = np.array([sum(tuple(c) == each for c in rollout.completions) for each in ALL])
    assert counts.sum() == 2000
    p = policies.probabilities(model)
    assert np.abs(counts / 2000 - p).max() < 4 * np.sqrt(p * (1 - p) / 2000).max()


@pytest.mark.backend_free("NumPy alone")
@pytest.mark.parametrize("by_token", [False, True], ids=["samples", "tokens"])
def test_baselines(by_token):
    rewards = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    own = np.array([[1 - 4, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3]])
    wanted = {"none": rewards, "batch": rewards - 2, "leave_one_out": own}
    factors = np.array([1.0, -2.0, 0.0]) if by_token else np.ones(())  # of each token
    for baseline, values in wanted.items():
        found = advantages(np.multiply.outer(rewards, factors), baseline)
        np.testing.assert_allclose(found, np.multiply.outer(values, factors))


def test_each_round_visits_every_prompt_once():
    prompts = list("abcde")
    seen = [each for step in range(5) for each in batch_of(prompts, step, 2, seed=3)]
    assert sorted(seen[:5]) == sorted(seen[5:]) == prompts
    assert seen[:5] != seen[5:]


def test_training_raises_the_reward_and_resumes_bit_for_bit():
    whole, parts = (policies.task(Adam(1e-1)) for _ in range(2))
    before = policies.probabilities(whole) @ REWARDS
    report = run(whole, 8, kl=0.01)
    assert policies.probabilities(whole) @ REWARDS > before + 0.03
    assert [each.step for each in report.steps] == list(range(8))
    first, second = run(parts, 3, kl=0.01), run(parts, 5, kl=0.01)
    assert first.steps + second.steps == report.steps
    for one, other in zip(whole.trainable_variables, parts.trainable_variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


def test_equal_rewards_move_nothing_and_warn():
    model = policies.task(Adam(1e-1))
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    with pytest.warns(UserWarning, match="the gradient is 0"):
        report = ksa.reinforce(model, [PROMPT], lambda p, c: np.ones(len(c)), 2, **RUN)
    for value, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    assert "moved nothing" in str(report)


class Noting(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs = []

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        self.model.stop_training = epoch == 1


def test_validation_keeps_the_best_values_and_callbacks_can_stop():
    model, noting = policies.task(Adam(2.0)), Noting()
    sampler = model.sampler
    report = run(model, 9, validation_prompts=[PROMPT] * 20, validate_every=2, callbacks=[noting])
    assert len(report.steps) == 4
    assert [each.step for each in report.validations] == [0, 2, 4]
    assert [each["val_reward"] for each in noting.logs] == [
        each.reward for each in report.validations[1:]
    ]
    assert report.best.reward == max(each.reward for each in report.validations)
    again = run(model, 1, validation_prompts=[PROMPT] * 20)
    assert again.validations[0].reward == report.best.reward
    assert model.sampler is sampler


WRONG = {
    "too few": (lambda p, c: [1.0], "one for each completion"),
    "NaN": (lambda p, c: np.full(len(c), np.nan), "finite numbers"),
    "text": (lambda p, c: ["good"] * len(c), "one for each completion"),
}


@pytest.mark.parametrize(("wrong", "match"), WRONG.values(), ids=WRONG)
def test_rewards_that_are_refused(wrong, match):
    model = policies.task()
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.reinforce(model, [PROMPT], wrong, 1, **RUN)
    for value, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))


REFUSED = {
    "one sample": ({"samples": 1}, "samples=2"),
    "a baseline": ({"baseline": "mean"}, "`baseline` must be one of"),
    "no step": ({"steps": 0}, "`steps`"),
    "a negative weight": ({"kl": -1.0}, "`kl`"),
    "cold": ({"temperature": 0.0}, "`temperature`"),
    "texts": ({"prompts": ["How many"]}, "no preprocessor"),
    "one text": ({"prompts": "How many"}, "list of"),
    "no prompt": ({"validation_prompts": []}, "`validation_prompts`"),
    "no room": ({"prompts": [[1, 2, 3, 1]]}, "no room"),
}


@pytest.mark.parametrize(("changed", "match"), REFUSED.values(), ids=REFUSED)
def test_requests_that_are_refused(changed, match):
    request = {"prompts": [PROMPT], "reward": reward, "steps": 1, "samples": 2} | RUN | changed
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.reinforce(policies.task(), **request)


def test_models_that_are_refused():
    model = policies.task()
    with pytest.raises(ValueError, match=r"backbone cannot generate.*Received: "):
        ksa.reinforce(model.backbone, [PROMPT], reward, 1, **RUN)
    ksa.set_adapter(model, None)
    with pytest.raises(ValueError, match=r"No adapter is active.*Received: "):
        ksa.reinforce(model, [PROMPT], reward, 1, **RUN)
