"""Counts of trained values are the published ones."""

import numpy as np
import pytest

import keras_svd_adapters as ksa

backend_free = pytest.mark.backend_free("plans are made of shapes")


# Counts of the papers' tables; SVFT's there have a gate per kernel more, which ours do not have.
GEMMA_2B = 18 * [(2048, 2048), (2048, 256), (2048, 256), (2048, 2048)]
GEMMA_2B += 18 * [(2048, 16384), (2048, 16384), (16384, 2048)]
VIT_L = 24 * [(1024, 1024)] * 4 + 24 * [(1024, 4096), (4096, 1024)]
VIT_B = 12 * [(768, 768)] * 4 + 12 * [(768, 3072), (3072, 768)]


@backend_free
@pytest.mark.parametrize(
    ("method", "shapes", "count"),
    [
        (ksa.SVFT(pattern="banded", d=2), VIT_B, 276_048),
        (ksa.SVFT(pattern="random", d=2), VIT_B, 276_048),
        (ksa.SVFT(pattern="banded", d=8), VIT_B, 934_848),
        (ksa.SVF(), 24 * [(768, 768)], 18_432),
        (ksa.SVFT(), 24 * [(768, 768)], 18_432),
        (ksa.LoRA(rank=8), VIT_B, 1_327_104),
        (ksa.LoRA(rank=1), VIT_B, 165_888),
        (ksa.DoRA(rank=8), VIT_B, 1_410_048),
        (ksa.DoRA(rank=1), VIT_B, 248_832),
        (ksa.PiSSA(rank=8), VIT_B, 1_327_104),
        (ksa.SVFT(), GEMMA_2B, 193_662 - 126),
        (ksa.SVFT(pattern="banded", d=16), GEMMA_2B, 6_352_542 - 126),
        (ksa.SVFT(pattern="top_k", d=12), 128 * [(4096, 4096)], 13_087_360 - 128),
        (ksa.SVFT(), 48 * [(1024, 1024)], 49_200 - 48),
        (ksa.SVFT(pattern="banded", d=2), VIT_L, 736_560 - 144),
        (ksa.SVFT(pattern="banded", d=8), VIT_L, 2_496_528 - 144),
        (ksa.LoRA(rank=8), VIT_L, 3_538_944),
        (ksa.LoRA(rank=1), VIT_L, 442_368),
        (ksa.DoRA(rank=8), VIT_L, 3_760_128),
        (ksa.DoRA(rank=1), VIT_L, 663_552),
        (ksa.VeRA(rank=256), 24 * [(768, 768)], 24_576),
        (ksa.VeRA(rank=256), 48 * [(1024, 1024)], 61_440),
        (ksa.LoRAXS(rank=25), 96 * [(1024, 1024)], 60_000),
        (ksa.LoRAXS(rank=128), 224 * [(4096, 4096)], 3_670_016),
        (ksa.methods.FourierFT(count=1000), 64 * [(4096, 4096)], 64_000),
        (ksa.LoRA(rank=64), 64 * [(4096, 4096)], 33_554_432),
    ],
)
def test_published_counts(method, shapes, count):
    assert sum(method.trainable_count(m, n) for m, n in shapes) == count


@backend_free
@pytest.mark.parametrize(("k", "d"), [(5, 0), (5, 4), (64, 2), (100, 16)])
def test_banded_count_is_the_number_of_entries(k, d):
    method = ksa.SVFT(pattern="banded", d=d) if d else ksa.SVFT()
    i, j = np.indices((k, k))
    assert (
        method.trainable_count(k, 2 * k) == (abs(i - j) <= d).sum() == k * (2 * d + 1) - d * (d + 1)
    )
