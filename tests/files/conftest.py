"""Models and a directory of PEFT that tests of the exchange share."""

import keras
import pytest
from cases import shake
from peft_exchange import MODULES, take_off

import keras_svd_adapters as ksa


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    from transformers_pairs import PAIRS  # torch and transformers are slow to import

    made = {}

    def pair(family):
        if family not in made:
            made[family] = PAIRS[family](tmp_path_factory.mktemp(family))
        return made[family]

    return pair


@pytest.fixture
def pair(request, pairs):
    yield pairs(request.param)
    take_off(pairs(request.param).keras)


@pytest.fixture
def model():
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(6, name="up"), keras.layers.Dense(8, name="down")]
    )


@pytest.fixture
def written(model, tmp_path):
    ksa.enable(model, ksa.LoRA(rank=2), targets=list(MODULES))
    shake(model)
    ksa.export_peft(model, tmp_path / "lora", modules=MODULES)
    ksa.delete_adapter(model, "default")
    return tmp_path / "lora"
