"""The private part of attention layers that adapters replace: a move by KerasHub fails here."""

import numpy as np
import pytest
from attention_models import FAMILIES, inputs
from cases import numpy

from keras_svd_adapters.adapters.class_mixing import add_mixin, remove_mixin
from keras_svd_adapters.models.sites.search import find_sites
from keras_svd_adapters.runtime.keras_private.attention import (
    ComputesAttention,
    key_and_value_layers,
)


class Counts(ComputesAttention):
    """Mixin that computes the layer's own attention, and notes what it gets."""

    is_inactive = False
    noted = []

    def attention(self, arguments, options):
        self.noted.append([None if each is None else tuple(each.shape) for each in arguments])
        return self.own_attention(arguments, options)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_computes_its_attention_by_one_method(name, monkeypatch):
    monkeypatch.setattr(Counts, "noted", [])
    model, x = FAMILIES[name].build(), inputs(name)
    layers = [site.layer for site in find_sites(model, "attention")]
    assert len(layers) == 2
    before = _outputs(model(x))
    for layer in layers:
        add_mixin(layer, Counts)
    np.testing.assert_array_equal(_outputs(model(x)), before)
    assert len(Counts.noted) == 2
    query, key, value, mask = Counts.noted[0]
    assert query[:2] == key[:2] == value[:2]
    assert mask is None or mask[-1] == key[1]
    keys, values, _ = key_and_value_layers(layers[0])
    assert keys.kernel.shape == values.kernel.shape
    for layer in layers:
        remove_mixin(layer, Counts)
    np.testing.assert_array_equal(_outputs(model(x)), before)


def _outputs(y):
    return numpy(y["sequence_output"] if isinstance(y, dict) else y)
