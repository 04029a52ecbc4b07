"""Plans count the weights that train besides an adapter, as the model then has them."""

import keras
import pytest

import keras_svd_adapters as ksa


def model():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="up")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


@pytest.mark.backend_free("shapes alone")
@pytest.mark.parametrize(
    "how", [{"train": "head"}, {"bias": "all"}, {"train": ["head", "norm"], "bias": "adapted"}]
)
def test_as_enabled(how, tmp_path):
    planned = ksa.plan(model(), ksa.LoRA(rank=2), targets="up", **how)
    adapted = model()
    status = ksa.enable(adapted, ksa.LoRA(rank=2), targets="up", **how)
    assert planned.trainable_parameters == status.trainable_parameters
    assert f"{planned.other_parameters:,} of them outside of the adapter" in str(planned)
    ksa.save_adapter(adapted, tmp_path / "a.keras")
    text = (tmp_path / "a.keras").stat().st_size - planned.file_bytes
    assert 0 < text < 4000


@pytest.mark.backend_free("shapes alone")
def test_what_enable_refuses():
    with pytest.raises(ValueError, match="matches no layer and no weight"):
        ksa.plan(model(), ksa.LoRA(rank=2), targets="up", train="haed")
