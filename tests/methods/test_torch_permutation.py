"""The first entries of PyTorch's permutations, against PyTorch."""

import numpy as np
import pytest
import torch

from keras_svd_adapters.methods import torch_permutation
from keras_svd_adapters.methods.torch_permutation import LARGE, first_of_permutation


def theirs(size, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator, dtype=torch.int32)[:count].numpy()


@pytest.mark.backend_free("numbers of NumPy")
@pytest.mark.parametrize("seed", [0, 777, 2**31 + 5, 2**40 + 3, -3])
@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (2, 1), (2, 2), (7, 6), (960, 960), (768 * 3072, 3000)]
)
def test_the_first_entries_are_those_of_torch(size, count, seed):
    np.testing.assert_array_equal(
        first_of_permutation(size, count, seed), theirs(size, count, seed)
    )


@pytest.mark.long("PyTorch permutes 214 million entries")
@pytest.mark.parametrize("size", [LARGE - 1, LARGE])
def test_where_torch_changes_its_way(size):
    np.testing.assert_array_equal(first_of_permutation(size, 2000, 777), theirs(size, 2000, 777))


@pytest.mark.backend_free("numbers of NumPy")
@pytest.mark.parametrize("chunk", [3, 64, 1000])
def test_the_way_of_large_sizes(chunk, monkeypatch):
    """Entry by entry, as PyTorch goes through a whole permutation."""
    monkeypatch.setattr(torch_permutation, "CHUNK", chunk)
    size, seed = 200, 11
    bits = np.random.RandomState(seed).randint(2**32, size=2 * size, dtype="uint32").tolist()
    whole = []
    for i in range(size):
        place = ((bits[2 * i] << 32) + bits[2 * i + 1]) % (i + 1)
        whole.append(i)
        whole[i], whole[place] = whole[place], i
    for count in (1, 20, size):
        found = torch_permutation._placed(size, count, np.random.RandomState(seed))
        np.testing.assert_array_equal(found, whole[:count])
