"""The steps of a reinforcement, with validation and callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.runtime.host_values import to_host_exact
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.runtime.warnings import warn
from keras_svd_adapters.training.reinforcement.policy import Policy
from keras_svd_adapters.training.reinforcement.report import (
    ReinforcedStep,
    Reinforcement,
    Validation,
    best_of,
)
from keras_svd_adapters.training.reinforcement.request import rewards_of
from keras_svd_adapters.training.reinforcement.rollouts import Sampler

STEPS, VALIDATION = 0, 1  # two streams of random numbers


class Loop:
    """A run of `reinforce`; its arguments have the same names."""

    def __init__(
        self,
        policy: Policy,
        sampler: Sampler,
        reward: Callable[[Sequence[Any], Sequence[Any]], Any],
        prompts: list[Any],
        validation_prompts: list[Any],
        batch_size: int,
        samples: int,
        seed: int,
    ):
        self.policy, self.sampler, self.reward = policy, sampler, reward
        self.prompts, self.validation_prompts = prompts, validation_prompts
        self.batch_size, self.samples, self.seed = batch_size, samples, seed
        self._steps: list[ReinforcedStep] = []
        self._validations: list[Validation] = []
        self._best: list[tuple[keras.Variable, Any]] = []

    @property
    def report(self) -> Reinforcement:
        """The steps and validations so far."""
        return Reinforcement(tuple(self._steps), tuple(self._validations))

    def run(self, steps: int, validate_every: int, calls: Any, bar: KernelProgress) -> None:
        """Take some steps, and end with the values of the best validation."""
        task, logs = self.policy.task, {}
        task.stop_training = False
        calls.on_train_begin()
        self._validate()
        for number in range(steps):
            epoch, batch = divmod(number, validate_every)
            if not batch:
                calls.on_epoch_begin(epoch)
            calls.on_train_batch_begin(batch)
            logs = self._step()
            calls.on_train_batch_end(batch, logs)
            bar.step("  ".join(f"{name} {value:.3g}" for name, value in logs.items()))
            if batch + 1 == validate_every or number + 1 == steps:
                logs |= self._validate()
                calls.on_epoch_end(epoch, logs)
            if task.stop_training:
                break
        calls.on_train_end(logs)
        for variable, value in self._best:
            variable.assign(value)

    def _step(self) -> dict[str, float]:
        number = self.policy.step
        chosen = batch_of(self.prompts, number, self.batch_size, self.seed)
        repeated = [prompt for prompt in chosen for _ in range(self.samples)]
        rollout = self.sampler.sample(repeated, self._random(STEPS, number))
        rewards = rewards_of(self.reward, rollout)
        done, loss = self.policy.update(rollout, rewards, self.samples)
        if done.is_uniform and not any(each.is_uniform for each in self._steps):
            warn(
                f"At step {done.step}, all completions of each prompt have the same reward, so "
                "the gradient is 0: use a reward with more values, more `samples`, or a higher "
                f"`temperature`. Received: rewards {np.unique(rewards)[:4].tolist()}, for example "
                f"for {rollout.completions[0]!r}"
            )
        self._steps.append(done)
        return {
            "loss": loss,
            "reward": done.reward,
            **({} if done.kl is None else {"kl": done.kl}),
        }

    def _validate(self) -> dict[str, float]:
        """Sample a completion of each validation prompt; note the values if they are the best."""
        if not self.validation_prompts:
            return {}
        rewards, divergences = [], []
        size = self.batch_size * self.samples  # the shape of a step: nothing is traced again
        for start in range(0, len(self.validation_prompts), size):
            part = self.validation_prompts[start : start + size]
            filled = part + part[-1:] * (size - len(part))
            rollout = self.sampler.sample(filled, self._random(VALIDATION, start))
            divergences.append(self.policy.divergences(rollout)[: len(part), 0])
            rewards.append(rewards_of(self.reward, rollout.first(len(part))))
        reward, count = np.concatenate(rewards), len(self.validation_prompts)
        error = float(reward.std(ddof=1)) / count**0.5 if count > 1 else 0.0
        divergence = float(np.concatenate(divergences).mean())
        found = Validation(self.policy.step, float(reward.mean()), error, divergence)
        self._validations.append(found)
        if best_of(self._validations) is found:
            trained = self.policy.task.trainable_variables
            self._best = [(variable, to_host_exact(variable)) for variable in trained]
        return {"val_reward": found.reward, "val_kl": found.kl}

    def _random(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, number])


def batch_of(prompts: list[Any], step: int, batch_size: int, seed: int) -> list[Any]:
    """Return the prompts of a step; each round visits every prompt once, in an order of its own."""
    places = range(step * batch_size, (step + 1) * batch_size)
    rounds = {place // len(prompts) for place in places}
    orders = {r: np.random.default_rng([seed, 2, r]).permutation(len(prompts)) for r in rounds}
    return [prompts[orders[place // len(prompts)][place % len(prompts)]] for place in places]
