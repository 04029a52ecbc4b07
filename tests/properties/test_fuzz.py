"""A short run of what `make fuzz` does."""

import fuzzing
import pytest

pytestmark = pytest.mark.backend_free("a file is read by NumPy")


def test_mutated_files_load_the_same_values_or_are_refused():
    loaded, refused = fuzzing.run(500)
    assert loaded + refused == 500
    assert refused > 400


def test_killed_while_saving():
    _, seen = fuzzing.kill(10)
    assert seen <= {0, 1}
    assert seen
