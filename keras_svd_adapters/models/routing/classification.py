"""Labels for prompts, by a language model: which adapter shall answer which prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.models.batches import as_array
from keras_svd_adapters.models.named_adapters import require_adapter, require_values
from keras_svd_adapters.models.predict import generate, predict
from keras_svd_adapters.models.routing.token_likelihood import likelihood_model, next_tokens
from keras_svd_adapters.models.state.locked_model import running

STEP = 16  # lengths are multiples of this, so that few functions are compiled


def classify(
    task: keras.Model,
    prompts: Iterable[str],
    labels: Iterable[str] | Mapping[str, str],
    template: str = "{prompt}",
    name: str | None = None,
    how: str = "likelihood",
    default: str | None = None,
    max_length: int = 256,
    batch_size: int = 16,
) -> list[str | None]:
    """Label prompts with a language model, for example to choose the adapter of each prompt.

    `generate(task, prompts, adapter_ids=[experts.get(label) for label in labels])` then
    answers each prompt with its expert.

    Args:
        task: A KerasHub `CausalLM` with a preprocessor and an adapter.
        prompts: List of texts.
        labels: List of labels, or a dictionary from each label to the text that
            stands for it in the answer, such as `{"math": " maths"}`.
        template: Text that contains `{prompt}` and asks for the label.
        name: Name of the adapter that classifies; `None` is the base model.
        how: `"likelihood"` takes the label whose tokens have the largest mean
            log probability after the template. `"generate"` generates text and takes the
            label that it names first.
        default: The label if the generated text has none.
        max_length: Integer, the largest number of tokens of template, prompt
            and label.
        batch_size: Integer, number of texts in a batch.

    Returns:
        A label for each prompt.

    Raises:
        ValueError: If a label has no tokens, a prompt is too long, a name is
            unknown, or an argument is wrong.

    Reference:
        - [Sun et al., 2025](https://arxiv.org/abs/2501.06252)
    """
    listed = list(labels)
    shown = dict(labels) if isinstance(labels, Mapping) else {each: each for each in listed}
    texts = [] if isinstance(prompts, str) else list(prompts)
    _check(task, texts, shown, template, how)
    require_adapter(task, name)
    require_values(task, "classify")
    asked = [template.replace("{prompt}", text) for text in texts]
    if how == "generate":
        return _by_text(task, asked, shown, name, default, max_length)
    scores = label_likelihoods(task, asked, list(shown.values()), name, max_length, batch_size)
    return [listed[place] for place in scores.argmax(axis=1)]


def label_likelihoods(
    task: Any,
    texts: list[str],
    labels: list[str],
    name: str | None,
    max_length: int,
    batch_size: int,
) -> np.ndarray:
    """Return the mean log probability of the tokens of each label after each text.

    Texts and labels have their tokens apart, so the end of a text does not change a label.
    """
    ends = [as_array(task.preprocessor.tokenizer(label)).ravel() for label in labels]
    if empty := [label for label, end in zip(labels, ends, strict=True) if not end.size]:
        raise ValueError(f"A label has no tokens: choose another text for it. Received: {empty}")
    found = task.preprocessor.generate_preprocess(texts, sequence_length=max_length)
    ids, mask = (as_array(found[key]) for key in ("token_ids", "padding_mask"))
    lengths = mask.astype(int).sum(axis=1)
    longest = int(lengths.max()) + max(end.size for end in ends)
    if longest > max_length:
        raise ValueError(
            "A prompt with its template and a label has too many tokens: raise `max_length`, or "
            f"shorten it. Received: {longest} tokens or more, max_length={max_length}"
        )
    width = min(-(-longest // STEP) * STEP, max_length)
    token_ids = np.repeat(ids[:, :width], len(ends), axis=0)
    padding_mask = np.repeat(mask[:, :width], len(ends), axis=0)
    is_label = np.zeros(token_ids.shape, bool)
    for row, (start, end) in enumerate((start, end) for start in lengths for end in ends):
        place = slice(start, start + end.size)
        token_ids[row, place], padding_mask[row, place], is_label[row, place] = end, True, True
    model = likelihood_model(task)
    with running(task, alone=True):
        found = predict(
            model, next_tokens(token_ids, padding_mask), [name] * len(is_label), batch_size
        )
    is_label = is_label[:, 1:]
    means = (found * is_label).sum(axis=1, dtype="float64") / is_label.sum(axis=1)
    return means.reshape(len(texts), len(labels))


def _by_text(
    task: Any,
    texts: list[str],
    labels: dict[str, str],
    name: str | None,
    default: str | None,
    max_length: int,
) -> list[str | None]:
    answers = generate(task, texts, [name] * len(texts), max_length=max_length, strip_prompt=True)
    return [named_label(answer, labels, default) for answer in answers]


def named_label(answer: str, labels: Mapping[str, str], default: str | None) -> str | None:
    """Return the label that an answer names first, in any case of letters."""
    found = {label: answer.lower().find(text.strip().lower()) for label, text in labels.items()}
    named = {label: place for label, place in found.items() if place >= 0}
    return min(named, key=lambda label: named[label]) if named else default


def _check(task: Any, prompts: list[Any], labels: dict[str, str], template: Any, how: str) -> None:
    if getattr(task, "preprocessor", None) is None or not hasattr(task, "generate"):
        raise ValueError(
            "Texts need a tokenizer: pass a KerasHub `CausalLM` with its preprocessor. "
            f"Received: {task!r}"
        )
    if not prompts or not all(isinstance(each, str) and each for each in prompts):
        raise ValueError(f"`prompts` is a list of texts. Received: prompts={prompts!r}")
    of_texts = all(
        isinstance(each, str) and each.strip() for pair in labels.items() for each in pair
    )
    if len(labels) < 2 or not of_texts:
        raise ValueError(f"`labels` must have two texts or more. Received: labels={labels!r}")
    if not isinstance(template, str) or "{prompt}" not in template:
        raise ValueError(
            "`template` must contain {prompt}, such as 'Text: {prompt} Topic:'. "
            f"Received: template={template!r}"
        )
    if how not in ("likelihood", "generate"):
        raise ValueError(f"`how` is 'likelihood' or 'generate'. Received: how={how!r}")
