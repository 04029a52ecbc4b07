"""Methods that read data, and what a pass of data finds."""

import keras_svd_adapters as ksa
from keras_svd_adapters.models.assignment import choose_methods
from keras_svd_adapters.models.observation.statistics import statistics_for_starts

INPUTS = ksa.LoRA(rank=1, start="corda")
COMPONENTS = ksa.LoRA(rank=1, start="eva")
GRADIENT = ksa.LoRA(rank=1, start="lora_ga")


def found(model, method, data, targets="all"):
    """The statistics of each kernel, by its path."""
    chosen = choose_methods(model, method, targets)
    paths = {site.key: site.path for site, _ in chosen}
    observed = statistics_for_starts(model, chosen, data, 0)
    return {paths[key]: value for key, value in observed.items()}
