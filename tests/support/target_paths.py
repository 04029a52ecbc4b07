"""The paths of the kernels that targets name."""

import keras_svd_adapters as ksa


def paths(model, **how):
    return [site.path for site in ksa.plan(model, ksa.SVF(), **how).sites]
