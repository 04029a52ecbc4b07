"""REINFORCE: an adapter learns from rewards for the text that its model generates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from keras_svd_adapters.methods.hyperparameters import check_seed
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.training.reinforcement.loop import Loop
from keras_svd_adapters.training.reinforcement.policy import Policy
from keras_svd_adapters.training.reinforcement.report import Reinforcement
from keras_svd_adapters.training.reinforcement.request import (
    check_numbers,
    check_task,
    listed_prompts,
)
from keras_svd_adapters.training.reinforcement.rollouts import Sampler


def reinforce(
    task: keras.Model,
    prompts: Iterable[Any],
    reward: Callable[[Sequence[Any], Sequence[Any]], Any],
    steps: int,
    batch_size: int = 8,
    samples: int = 2,
    max_length: int = 64,
    kl: float = 0.0,
    baseline: str = "leave_one_out",
    temperature: float = 1.0,
    validation_prompts: Iterable[Any] | None = None,
    validate_every: int = 10,
    stop_token_ids: Any = "auto",
    seed: int = 0,
    callbacks: Any = None,
    verbose: int | str = "auto",
) -> Reinforcement:
    """Train the active adapter of a language model on rewards for generated text (REINFORCE).

    Each step samples completions of some prompts with the task's own generate function, and
    raises the probability of those whose reward exceeds the baseline. The token ids are those
    that were sampled; texts serve the reward alone. The optimizer of the task trains: give it a
    `global_clipnorm` to clip gradients.

    Prompts and random numbers follow from the seed and the number of updates that the
    optimizer has made. Two calls of 20 steps are therefore the same as one of 40, also if the
    model was saved and loaded between them.

    Args:
        task: A KerasHub `CausalLM` with an active adapter, compiled with an
            optimizer. Its loss and metrics are not used.
        prompts: List of texts; or of arrays of token ids, if the task has no
            preprocessor.
        reward: Function of two lists, the prompts and their completions, that
            returns a finite number for each completion.
        steps: Integer, number of updates.
        batch_size: Integer, number of prompts of a step.
        samples: Integer, number of completions of each prompt.
        max_length: Integer, number of tokens of a prompt and its completion.
        kl: Float, weight of the divergence `E log(pi / pi_0)` from the model
            without its adapter, in rewards per nat. Each token pays for the divergence from
            itself to the end: its gradient has the same mean as that of the whole, and varies
            less. If it is positive, each step computes two more forward passes.
        baseline: What is subtracted from a reward: `"none"`, `"batch"` (the
            mean of the batch), or `"leave_one_out"` (the mean of the other samples of
            the prompt).
        temperature: Float, by which logits are divided for sampling and in the
            gradient.
        validation_prompts: List of prompts that do not train. The adapter ends
            with the values of the best validation.
        validate_every: Integer, number of steps between two validations, and
            of an epoch for callbacks.
        stop_token_ids: Ids that end a completion, `"auto"` for those of the
            tokenizer, or `None`.
        seed: Integer, the seed of prompts and completions.
        callbacks: Keras callbacks. Their logs have `reward`, `kl`, `loss` and
            `val_reward`.
        verbose: As in `enable`; the bar shows reward and divergence.

    Returns:
        `Reinforcement`, the rewards of each step; print it as a table.

    Raises:
        ValueError: If an argument is wrong, the task has no active adapter or
            no optimizer, a prompt leaves no room for a completion, or `reward` returns another
            number of values, or a value that is not finite. Updates before such a
            reward stay.

    Example:

    ```python
    task.backbone.enable_svf()
    task.compile(optimizer=keras.optimizers.Adam(2e-3, global_clipnorm=1.0))
    digits = lambda prompts, texts: [sum(c.isdigit() for c in t) / (len(t) or 1) for t in texts]
    print(ksa.reinforce(task, ["How many", "Count to ten:"], digits, steps=40, kl=0.1))
    ```

    Reference:
        - [Williams, 1992](https://doi.org/10.1007/BF00992696)
        - [Sun et al., 2025](https://arxiv.org/abs/2501.06252)
        - [Ahmadian et al., 2024](https://arxiv.org/abs/2402.14740), for leave-one-out
    """
    check_task(task)
    check_seed(seed)
    check_numbers(
        baseline,
        kl,
        temperature,
        steps=steps,
        batch_size=batch_size,
        samples=samples,
        max_length=max_length,
        validate_every=validate_every,
    )
    listed = listed_prompts(task, "prompts", prompts)
    held_out = []
    if validation_prompts is not None:
        held_out = listed_prompts(task, "validation_prompts", validation_prompts)
    sampler = Sampler(task, max_length, stop_token_ids)
    policy = Policy(task, temperature, kl, baseline)
    loop = Loop(policy, sampler, reward, listed, held_out, batch_size, samples, seed)
    calls = keras.callbacks.CallbackList(
        callbacks,
        model=task,
        epochs=-(-steps // validate_every),
        steps=min(steps, validate_every),
        verbose=0,
    )
    with sampler.sampling(temperature), KernelProgress([1.0] * steps, verbose, "steps") as bar:
        loop.run(steps, validate_every, calls, bar)
    return loop.report
