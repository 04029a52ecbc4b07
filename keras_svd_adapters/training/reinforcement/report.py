"""The report of a reinforcement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_svd_adapters.runtime.tables import Table, TableReport

ROWS = 10


@dataclass(frozen=True)
class ReinforcedStep:
    """One update.

    Args:
        step: Number of updates before this one.
        reward: Mean reward of the sampled completions.
        kl: Mean of `log pi - log pi_0` over these completions, in nats; `None` if not measured.
        length: Mean number of sampled tokens.
        is_uniform: Whether all advantages were 0, so that the rewards moved nothing.
    """

    step: int
    reward: float
    kl: float | None
    length: float
    is_uniform: bool


@dataclass(frozen=True)
class Validation:
    """Completions of the validation prompts, before the update with a number.

    Args:
        step: Number of updates so far.
        reward: Mean reward.
        error: Standard error of this mean.
        kl: Mean of `log pi - log pi_0`, in nats.
    """

    step: int
    reward: float
    error: float
    kl: float


@dataclass(frozen=True, repr=False)
class Reinforcement(TableReport):
    """What `reinforce` did. Print it as a table.

    Args:
        steps: The updates.
        validations: The validations, if there were validation prompts.
    """

    steps: tuple[ReinforcedStep, ...]
    validations: tuple[Validation, ...] = ()

    @property
    def best(self) -> Validation | None:
        """The validation with the highest reward; the first one of several."""
        return best_of(self.validations)

    def as_table(self) -> Table:
        parts = np.array_split(np.arange(len(self.steps)), min(ROWS, max(1, len(self.steps))))
        rows = [_row([self.steps[i] for i in part]) for part in parts if len(part)]
        notes = [
            f"validation at step {each.step}: reward {each.reward:.4g} +- {each.error:.2g}, "
            f"KL {each.kl:.3g}" + (", the best" if each is self.best else "")
            for each in self.validations
        ]
        if uniform := sum(each.is_uniform for each in self.steps):
            notes.append(f"In {uniform} of {len(self.steps)} steps, the rewards moved nothing.")
        return Table(("steps", "reward", "KL", "tokens"), rows, "\n".join(notes))


def best_of(validations: Sequence[Validation]) -> Validation | None:
    """Return the validation with the highest reward; the first one of several."""
    return max(validations, key=lambda each: each.reward, default=None)


def _row(steps: list[ReinforcedStep]) -> tuple[str, str, str, str]:
    kl = [each.kl for each in steps if each.kl is not None]
    return (
        f"{steps[0].step}-{steps[-1].step}",
        f"{np.mean([each.reward for each in steps]):.4g}",
        f"{np.mean(kl):.3g}" if kl else "-",
        f"{np.mean([each.length for each in steps]):.1f}",
    )
