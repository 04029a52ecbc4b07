"""Adapted models that are saved, and files that must be refused."""

import models
import pytest
from cases import shake
from snapshots import state

import keras_svd_adapters as ksa


def tuned(method, train=None, family=models.bert):
    backbone, x = family()
    ksa.enable(backbone, method, train=train)
    shake(backbone)
    return backbone, x


def refuses(backbone, path, *words, kind=ksa.AdapterFileError):
    """Loading raises this error, says these words, and leaves the model as it was."""
    before = state(backbone)
    with pytest.raises(kind, match=r"Received: ") as caught:
        ksa.load_adapter(backbone, path, name="other")
    for word in words:
        assert word in str(caught.value)
    assert state(backbone) == before
