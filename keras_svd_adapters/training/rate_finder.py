"""Search for the learning rate of a model, or of several methods on a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.batches import Batch, with_texts_as_lists
from keras_svd_adapters.models.enable import enable
from keras_svd_adapters.models.sites.search import adapted_sites
from keras_svd_adapters.models.state.changes import changes_model
from keras_svd_adapters.models.switching import delete_adapter
from keras_svd_adapters.runtime.live_models import with_models_around
from keras_svd_adapters.runtime.progress import KernelProgress
from keras_svd_adapters.runtime.random_state import RandomState
from keras_svd_adapters.training.batches import training_batches
from keras_svd_adapters.training.rate_checks import check_model, check_request, listed_methods
from keras_svd_adapters.training.rate_report import LearningRates, RateCurve
from keras_svd_adapters.training.rate_rule import curve_of, has_exploded
from keras_svd_adapters.training.trial import trial, unbuilt_copy

SMALLEST_FALL = 1e-3  # of the loss, in standard deviations of the losses of batches
STANDSTILL = 1e-7  # part of the lowest rate, at which no weight moves; some optimizers divide by it


@changes_model
def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    low: float = 1e-5,
    high: float = 1e-1,
    steps: int = 60,
    batch_size: int = 32,
    methods: Iterable[Method] | None = None,
    verbose: int | str = "auto",
    **how: Any,
) -> LearningRates:
    """Find a learning rate for a compiled model: train some steps at rising rates, then undo them.

    The model trains with its own optimizer and loss, one batch for each rate. The
    same batches at a standstill show how difficult each batch is, so that the curve
    shows training alone. Afterwards, everything is bit for bit as before: weights, optimizer,
    metrics, the state of dropout and of batch normalization, and the random state.
    The search needs memory for a copy of these values on the host, and for the batches.

    Args:
        model: A compiled Keras model, adapted or not.
        x: Inputs, as in `fit`: an array, a list or dictionary of arrays, or a
            dataset of batches. The first `steps` batches of a dataset are read
            once; if there are fewer, they are repeated.
        y: Targets, if `x` is not a dataset.
        sample_weight: Weights of the samples, if `x` is not a dataset.
        low: The lowest learning rate.
        high: The highest learning rate. The search ends earlier if the loss
            explodes.
        steps: Number of learning rates, at least 10.
        batch_size: Number of samples of a batch, if `x` is not a dataset.
        methods: Methods such as `[LoRA(rank=8), SVF()]` to compare on a model
            that has no adapter. Each is enabled, tried and deleted again.
        verbose: As in `enable`.
        **how: Arguments of `enable` for `methods`, such as `targets` and `train`.

    Returns:
        `LearningRates`, with `.suggestion`; print it, or call its `plot()`.

    Raises:
        ValueError: If an argument is wrong, the model is not compiled or trains
            nothing, its rate is a schedule, the data has no batch, or the loss
            is not finite at first or does not fall. The model stays unchanged.

    Example:

    >>> import keras, keras_svd_adapters as ksa
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    >>> _ = ksa.enable(model, ksa.SVF())
    >>> model.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    >>> x, y = keras.ops.ones((64, 8)), keras.ops.ones((64, 2))
    >>> rates = ksa.find_learning_rate(model, x, y, steps=20)
    >>> model.optimizer.learning_rate = rates.suggestion
    """
    listed = listed_methods(methods)
    check_request(low, high, steps, batch_size, listed, how)
    check_model(model, listed)
    progress = KernelProgress([1] * 2 * steps, verbose, "steps")
    batches = training_batches(x, y, sample_weight, batch_size, steps)
    if getattr(model, "preprocessor", None) is not None:
        batches = [with_texts_as_lists(batch) for batch in batches]
    rates = np.geomspace(low, high, steps).tolist()
    if listed is None:
        return LearningRates({None: _search(model, batches, rates, progress)}, {})
    curves: dict[Method | None, RateCurve] = {}
    refused: dict[Method, str] = {}
    for method in listed:
        try:
            with _adapted(model, method, verbose, how):
                progress = KernelProgress([1] * 2 * steps, verbose, "steps")
                curves[method] = _search(model, batches, rates, progress)
        except ValueError as error:
            refused[method] = str(error)
    if not curves:
        raise ValueError("\n".join(f"{m}: {reason}" for m, reason in refused.items()))
    best_first = sorted(curves, key=lambda method: curves[method].smoothed.min())
    return LearningRates({method: curves[method] for method in best_first}, refused)


def _search(
    model: keras.Model, batches: list[Batch], rates: list[float], progress: KernelProgress
) -> RateCurve:
    """Train a model on one batch for each rate, and undo it."""
    with trial(model) as start, progress:
        difficulty = []
        for batch in batches:
            difficulty.append(_train(model, batch, rates[0] * STANDSTILL))
            progress.step("standstill")
        if not np.isfinite(difficulty).all():
            raise ValueError(
                "The loss is not finite before the model has learned anything. Check the data, "
                "the loss and the dtype of the model. Received: losses "
                f"{[float(f'{loss:.4g}') for loss in difficulty]}"
            )
        start.rewind()
        mean, noise = float(np.mean(difficulty)), float(np.std(difficulty))
        losses: list[float] = []
        for rate, batch, own in zip(rates, batches, difficulty, strict=True):
            losses.append(_train(model, batch, rate) - own + mean)
            progress.step(f"learning rate {rate:.1e}")
            if has_exploded(losses, len(rates), noise):
                break
    finite = losses if math.isfinite(losses[-1]) else losses[:-1]
    curve = curve_of(rates, finite)
    if not curve.fall > SMALLEST_FALL * noise:
        raise ValueError(
            "The loss did not fall at any rate. Check that it depends on the weights that train, "
            "or try a smaller `low`. Received: rates from "
            f"{rates[0]:.1e} to {rates[len(finite) - 1]:.1e}, losses from {losses[0]:.4g} to "
            f"{losses[-1]:.4g}"
        )
    return curve


def _train(model: keras.Model, batch: Batch, rate: float) -> float:
    """Train one step; return the loss before it."""
    model.optimizer.learning_rate = rate
    logs = model.train_on_batch(*batch, return_dict=True)
    if "loss" not in logs:
        raise ValueError(
            "The search follows the loss: let `train_step` of the model return it as `loss`. "
            f"Received: {sorted(logs)}"
        )
    return float(logs["loss"])


@contextmanager
def _adapted(
    model: keras.Model, method: Method, verbose: int | str, how: dict[str, Any]
) -> Iterator[None]:
    """Context manager: a model has an adapter; afterwards, it trains what it trained before."""
    random, trains = RandomState(), [(weight, weight.trainable) for weight in model.variables]
    around = [each for each in with_models_around(model) if getattr(each, "optimizer", None)]
    optimizers = [(each, each.optimizer) for each in around]
    for each, optimizer in optimizers:
        each.optimizer = unbuilt_copy(optimizer) if each is model else None
    try:
        enable(model, method, verbose=verbose, **how)
        yield
    finally:
        for name in {n for site in adapted_sites(model) for n in site.layer.active_adapters}:
            delete_adapter(model, name)
        for weight, trained in trains:
            if weight.trainable != trained:  # `train` named a frozen weight
                weight.trainable = trained
        for each, optimizer in optimizers:
            each.optimizer = optimizer
        random.restore()
