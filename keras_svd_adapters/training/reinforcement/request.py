"""Checks before a reinforcement touches anything, and of its rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_svd_adapters.methods.hyperparameters import check_choice, check_positive_integers
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.weights_request import is_weight
from keras_svd_adapters.training.reinforcement.advantages import BASELINES
from keras_svd_adapters.training.reinforcement.rollouts import Rollout


def check_task(task: Any) -> None:
    """Raise an error if a model is no compiled `CausalLM` with an active adapter."""
    if not hasattr(task, "generate"):
        raise ValueError(
            "Rewards need generated text: pass a KerasHub `CausalLM`, such as a `GemmaCausalLM`; "
            f"its backbone cannot generate. Received: {task!r}"
        )
    if not any(site.layer.active_adapters for site in require_adapter(task)):
        raise ValueError(
            "No adapter is active: `set_adapter(task, name)` activates one. Received: "
            f"{task.name!r}"
        )
    require_values(task, "reinforce")
    if getattr(task, "optimizer", None) is None:
        raise ValueError(
            "The task has no optimizer: call `task.compile(optimizer=...)`. Received: "
            f"{task.name!r}"
        )


def check_numbers(baseline: Any, kl: Any, temperature: Any, **counts: Any) -> None:
    """Raise an error if a setting is wrong."""
    check_positive_integers(**counts)
    check_choice("baseline", baseline, BASELINES)
    if baseline == "leave_one_out" and counts["samples"] < 2:
        raise ValueError(
            "The baseline 'leave_one_out' compares the samples of a prompt: use samples=2 or "
            f"more, or baseline='batch'. Received: samples={counts['samples']}"
        )
    if not is_weight(kl) or kl < 0:
        raise ValueError(f"`kl` must be a number of at least 0. Received: kl={kl!r}")
    if not is_weight(temperature) or temperature <= 0:
        raise ValueError(
            f"`temperature` must be a positive number. Received: temperature={temperature!r}"
        )


def listed_prompts(task: Any, name: str, prompts: Any) -> list[Any]:
    """Return prompts as a list; raise an error if they do not suit the task."""
    of_texts = task.preprocessor is not None
    what = "texts" if of_texts else "arrays of token ids, since the task has no preprocessor"
    listed = [] if isinstance(prompts, str) else list(prompts)
    if not listed or any(isinstance(each, str) != of_texts or not len(each) for each in listed):
        raise ValueError(f"`{name}` is a list of {what}. Received: {name}={prompts!r}")
    return listed


def rewards_of(
    reward: Callable[[Sequence[Any], Sequence[Any]], Any], rollout: Rollout
) -> np.ndarray:
    """Return the reward of each completion; raise an error if one is missing or not finite."""
    if full := np.flatnonzero(~rollout.is_sampled.any(axis=1)).tolist():
        raise ValueError(
            "A prompt leaves no room for a completion: raise `max_length`, or shorten it. "
            f"Received: {rollout.prompts[full[0]]!r}"
        )
    found = np.asarray(reward(rollout.prompts, rollout.completions))
    if found.shape != (len(rollout.prompts),) or found.dtype.kind not in "biuf":
        raise ValueError(
            f"`reward(prompts, completions)` must return {len(rollout.prompts)} numbers, one for "
            f"each completion. Received: {found.dtype} of shape {found.shape}"
        )
    found = found.astype("float64")
    if not np.isfinite(found).all():
        place = int(np.flatnonzero(~np.isfinite(found))[0])
        raise ValueError(
            "`reward` must return finite numbers. Received: "
            f"{found[place]} for the completion {rollout.completions[place]!r}"
        )
    return found
