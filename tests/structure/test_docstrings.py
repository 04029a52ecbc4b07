"""The examples in public docstrings run and print what they say."""

import doctest
import inspect

import keras
import pytest

import keras_svd_adapters as ksa

pytestmark = pytest.mark.backend_free("what is shown is tested on each backend elsewhere")

PUBLIC = {
    name: thing
    for face in (ksa, ksa.methods, ksa.layers)
    for name, thing in ((name, getattr(face, name)) for name in face.__all__)
    if inspect.isclass(thing) or callable(thing)
}
DOCUMENTED = list(PUBLIC)
WITH_EXAMPLE = [name for name, thing in PUBLIC.items() if ">>>" in (thing.__doc__ or "")]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_has_a_docstring(name):
    text = inspect.getdoc(PUBLIC[name])
    assert text
    assert text.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_example(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {"keras": keras, "keras_svd_adapters": ksa}
    for example in doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs=names):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert result.attempted
        assert not result.failed
