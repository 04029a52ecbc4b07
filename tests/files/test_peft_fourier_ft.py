"""FourierFT of HF PEFT, which draws the places of the coefficients again."""

import keras
import numpy as np
import peft
import pytest
import torch
from cases import shake
from peft_exchange import MODULES, changed, close, take_off, unchanged

import keras_svd_adapters as ksa

FourierFT = ksa.methods.FourierFT


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(10, use_bias=False, name="up"),
            keras.layers.Dense(4, use_bias=False, name="down"),
        ]
    )
    yield model
    take_off(model)


class Theirs(torch.nn.Module):
    """The same kernels in torch, under the names of `MODULES`."""

    def __init__(self, model):
        super().__init__()
        self.mlp = torch.nn.Module()
        for name, module in MODULES.items():
            kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
            linear = torch.nn.Linear(*kernel.shape, bias=False)
            linear.weight.data = torch.tensor(kernel.T.copy())
            setattr(self.mlp, module.removeprefix("mlp."), linear)

    def forward(self, x):
        return self.mlp.down_proj(self.mlp.up_proj(x))


def outputs(model):
    with torch.no_grad():
        return model(torch.arange(12.0).reshape(2, 6) / 10).numpy()


def ours(model):
    return model.predict(np.arange(12, dtype="float32").reshape(2, 6) / 10, verbose=0)


def test_what_peft_trained_comes_in(model, tmp_path):
    config = peft.FourierFTConfig(
        n_frequency=20,
        n_frequency_pattern={"down_proj": 9},
        scaling=30.0,
        random_loc_seed=5,
        target_modules=["up_proj", "down_proj"],
    )
    theirs = peft.get_peft_model(Theirs(model), config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "spectrum" in name:
                parameter += torch.arange(len(parameter)) / 30
    theirs.save_pretrained(tmp_path)
    ksa.import_peft(model, tmp_path, modules=MODULES)
    close(ours(model), outputs(theirs))
    assert model.get_layer("up").adapter().method == FourierFT(20, 30.0, 5)
    assert model.get_layer("down").adapter().method == FourierFT(9, 30.0, 5)


def test_counts_by_module_leave_and_come_back(model, tmp_path):
    theirs = Theirs(model)
    ksa.enable(model, targets={"up": FourierFT(20, 30.0), "down": FourierFT(9, 30.0)})
    shake(model)
    expected = ours(model)
    assert ksa.export_peft(model, tmp_path, modules=MODULES).error == 0
    close(outputs(peft.PeftModel.from_pretrained(theirs, str(tmp_path))), expected)
    take_off(model)
    ksa.import_peft(model, tmp_path, modules=MODULES)
    close(ours(model), expected)


def test_other_places_than_those_of_the_seed_leave_as_the_nearest_lora(model, tmp_path):
    ksa.enable(model, FourierFT(20, 30.0), targets=list(MODULES))
    shake(model)
    places = model.get_layer("up").adapter().places
    places.assign(keras.ops.flip(places, axis=0))

    def act():
        ksa.export_peft(model, tmp_path / "theirs", modules=MODULES)

    unchanged(model, act, ValueError, "draw other `places` from the seed")
    told = ksa.export_peft(model, tmp_path / "lora", energy=1.0, modules=MODULES)
    assert told.error < 1e-5


@pytest.mark.backend_free("settings")
@pytest.mark.parametrize("settings", [{"random_loc_seed": None}, {"n_frequency_pattern": [3]}])
def test_settings_of_another_kind_are_refused(model, tmp_path, settings):
    ksa.enable(model, FourierFT(20), targets=list(MODULES))
    ksa.export_peft(model, tmp_path, modules=MODULES)
    take_off(model)
    changed(tmp_path, **settings)
    unchanged(model, lambda: ksa.import_peft(model, tmp_path, modules=MODULES), ValueError, "must")


@pytest.mark.backend_free("an error")
def test_a_seed_is_an_integer():
    with pytest.raises(ValueError, match="Received: seed=1.5"):
        FourierFT(seed=1.5)
