"""(IA)3 of HF PEFT, which scales an output with its bias, or an input."""

import keras
import numpy as np
import peft
import pytest
import torch
from cases import shake
from peft_exchange import close, take_off, unchanged

import keras_svd_adapters as ksa
from keras_svd_adapters.files.peft.settings import method_for


@pytest.mark.backend_free("arrays of NumPy")
def test_ia3_of_a_layer_with_a_bias(tmp_path):
    """PEFT scales an output with its bias: another form is refused, the same one comes back."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="up")])
    model.layers[0].bias.assign(np.arange(6))
    modules = {"up": "mlp.up_proj"}
    ksa.enable(model, ksa.methods.IA3(side="output"), targets="up")
    unchanged(
        model,
        lambda: ksa.export_peft(model, tmp_path, modules=modules),
        ValueError,
        "also changes the bias",
    )
    take_off(model)
    ksa.enable(model, ksa.methods.IA3(bias=True), targets="up")
    shake(model)
    x = np.ones((2, 6), "float32")
    expected = model.predict(x, verbose=0)
    ksa.export_peft(model, tmp_path, modules=modules)
    linear = torch.nn.Linear(6, 6)
    linear.weight.data = torch.tensor(np.array(model.layers[0].base_kernel.numpy())).T
    linear.bias.data = torch.arange(6.0)
    theirs = torch.nn.Sequential()
    theirs.mlp = torch.nn.Sequential()
    theirs.mlp.up_proj = linear
    theirs.forward = lambda x: theirs.mlp.up_proj(x)
    loaded = peft.PeftModel.from_pretrained(theirs, str(tmp_path))
    close(loaded(torch.tensor(x)).detach().numpy(), expected)
    take_off(model)
    ksa.import_peft(model, tmp_path, modules=modules)
    close(model.predict(x, verbose=0), expected)
    assert len(model.trainable_weights) == 1


@pytest.mark.backend_free("settings")
def test_the_side_of_ia3_is_that_of_the_list_of_modules():
    for listed in (["down_proj"], r".*\.down_proj"):
        config = {"peft_type": "IA3", "feedforward_modules": listed}
        assert method_for(config, "layers.0.mlp.down_proj") == ksa.methods.IA3("input")
        assert method_for(config, "layers.0.mlp.up_proj") == ksa.methods.IA3("output")
