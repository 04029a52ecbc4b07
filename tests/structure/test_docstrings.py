"""The examples in public docstrings run and print what they say."""

import doctest
import inspect

import keras
import pytest

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("what is shown is tested on each backend elsewhere")

DOCUMENTED = [
    name
    for name in ksa.__all__
    if inspect.isclass(getattr(ksa, name)) or callable(getattr(ksa, name))
]
WITH_EXAMPLE = [name for name in DOCUMENTED if ">>>" in (getattr(ksa, name).__doc__ or "")]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_has_a_docstring(name):
    text = inspect.getdoc(getattr(ksa, name))
    assert text
    assert text.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_example(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"keras": keras, "keras_svd_adapters": ksa}
    for example in doctest.DocTestFinder(recurse=False).find(getattr(ksa, name), name, globs=names):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert result.attempted
        assert not result.failed
