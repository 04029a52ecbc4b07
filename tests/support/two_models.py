"""A model, and the same one with other kernels."""

import models
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable


def pair(rank=16, size=0.1):
    """A model, the same with kernels of its blocks moved by changes of a rank, and an input."""
    (base, x), (tuned, _) = models.bert(), models.bert()
    for site in ksa.targets(tuned).sites:
        rng = np.random.default_rng(len(site.path))
        m, n = site.view.m, site.view.n
        change = size * rng.normal(size=(m, rank)) @ rng.normal(size=(rank, n))
        base_kernel_variable(site.layer).assign_add(site.view.from_matrix(change.astype("float32")))
    return base, tuned, x
