"""Writes, reads and clears a folder of decompositions that another process uses as well."""

import sys
import warnings

import numpy as np

from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd.decomposition import decompose
from keras_svd_adapters.kernels.svd.service import SVDService

warnings.filterwarnings("error", message=".*decompos.*")
svd_cache.LEAST_OPERATIONS = 0
service = SVDService(cache_dir=sys.argv[1] + "/svd")
rng = np.random.default_rng(0)
kernels = [rng.normal(size=(8 + i, 12)).astype("float32") for i in range(3)]
for turn in range(60):
    for K in kernels:
        found, right = service.decompose(K), decompose(K)
        np.testing.assert_array_equal(found.U, right.U)
        np.testing.assert_array_equal(found.Vt, right.Vt)
    if turn % 5 == 4:
        svd_cache.clear(sys.argv[1] + "/svd")
