"""A language model as a policy: its update, and its divergence from the model without adapter."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_svd_adapters.models.routing.token_likelihood import TokenLikelihood, next_tokens
from keras_svd_adapters.models.state.locked_model import running
from keras_svd_adapters.training.reinforcement.advantages import advantages
from keras_svd_adapters.training.reinforcement.report import ReinforcedStep
from keras_svd_adapters.training.reinforcement.rollouts import Rollout
from keras_svd_adapters.training.steps import batch_counter


class NegativeSum(keras.losses.Loss):
    """Loss that is minus the sum of the outputs, each times its sample weight."""

    def __init__(self) -> None:
        super().__init__(reduction="sum")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return -y_pred


class Policy:
    """A task that the gradient of its expected reward trains.

    Args:
        task: A compiled KerasHub `CausalLM` with an active adapter.
        temperature: Float, by which logits are divided.
        kl: Float, weight of the divergence from the model without its adapter.
        baseline: Name of the baseline.
    """

    def __init__(self, task: Any, temperature: float, kl: float, baseline: str):
        self.task, self.temperature = task, temperature
        self.kl, self.baseline = kl, baseline
        self._model: Any = None
        self._base = TokenLikelihood(task, temperature, of_base=True)
        self._trained: list[int] = []

    @property
    def step(self) -> int:
        """The number of batches that the optimizer has seen."""
        return int(keras.ops.convert_to_numpy(batch_counter(self.task.optimizer)))

    @property
    def model(self) -> TokenLikelihood:
        """The model that trains; made again if a callback changed what trains."""
        trained = [id(self.task.optimizer), *map(id, self.task.trainable_variables)]
        if self._model is None or trained != self._trained:
            self._trained = trained
            self._model = TokenLikelihood(self.task, self.temperature)
            self._model.compile(
                optimizer=self.task.optimizer,
                loss=NegativeSum(),
                jit_compile=self.task.jit_compile,
                run_eagerly=self.task.run_eagerly,
            )
        return self._model  # type: ignore[no-any-return]

    def divergences(self, rollout: Rollout) -> np.ndarray:
        """Return `log pi - log pi_0` from each token to the end of its completion, in nats.

        The first column is that of the whole completion. Only the actions from a token on depend
        on it, so that the expected gradient is that of the whole, and varies less.

        Returns:
            Array `(samples, length - 1)`.
        """
        data = next_tokens(rollout.token_ids, rollout.padding_mask)
        with running(self.task, alone=True):
            difference = self.model.predict_on_batch(data) - self._base.predict_on_batch(data)
        of_tokens = (difference * rollout.is_sampled[:, 1:]).astype("float64")
        return np.flip(np.cumsum(np.flip(of_tokens, axis=1), axis=1), axis=1)

    def update(
        self, rollout: Rollout, rewards: np.ndarray, samples: int
    ) -> tuple[ReinforcedStep, float]:
        """Take one step; return its report and its loss.

        Args:
            rollout: Completions; those of one prompt stand in a row.
            rewards: The reward of each completion.
            samples: Number of completions of a prompt.
        """
        step, divergence, goals = self.step, None, rewards[:, None]
        if self.kl:
            divergences = self.divergences(rollout)
            divergence = float(divergences[:, 0].mean())
            goals = goals - self.kl * divergences
        by_prompt = goals.reshape(-1, samples, goals.shape[1])
        gains = advantages(by_prompt, self.baseline).reshape(goals.shape)
        loss = self.train(rollout, gains / len(gains))
        report = ReinforcedStep(
            step,
            float(rewards.mean()),
            divergence,
            float(rollout.is_sampled.sum(axis=1).mean()),
            not (gains * rollout.is_sampled[:, 1:]).any(),
        )
        return report, loss

    def train(self, rollout: Rollout, weights: np.ndarray) -> float:
        """Take one step up the sum of `log pi` of the sampled tokens, each times its weight.

        Args:
            rollout: Completions.
            weights: Array `(samples, length - 1)`, or `(samples, 1)` for whole completions.
        """
        data = next_tokens(rollout.token_ids, rollout.padding_mask)
        by_token = (weights * rollout.is_sampled[:, 1:]).astype("float32")
        with running(self.task, alone=True):
            logs = self.model.train_on_batch(
                data, data["targets"], sample_weight=by_token, return_dict=True
            )
        return float(logs["loss"])
