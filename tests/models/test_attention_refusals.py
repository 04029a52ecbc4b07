"""What adapters of attention layers refuse, and why."""

import keras
import pytest
from attention_models import build, with_two
from cases import batch
from snapshots import refused

import keras_svd_adapters as ksa
from keras_svd_adapters import methods

L = keras.layers
PREFIX, ROWS = methods.PrefixTuning(length=3), methods.AdaptionPrompt(length=2)
REASON = "the queries of the layer weigh its trained keys and values"


VERBS = {
    "merge": lambda model: ksa.merge(model),
    "to_lora": lambda model: ksa.to_lora(model, "a", "c", rank=2),
    "combine": lambda model: ksa.combine(model, {"a": 0.5, "b": 0.5}, into="c"),
    "similarity": lambda model: ksa.similarity(model),
    "coefficients": lambda model: ksa.coefficients(model, cache=False),
    "extract_lora": lambda model: ksa.extract_lora(build(), model, rank=2, targets="*query"),
    "transfer": lambda model: ksa.transfer(build(), model, "a", rank=2),
    "compress": lambda model: ksa.compress(model, "a", "c"),
    "to_sparse": lambda model: ksa.to_sparse(model, 0.5, "a"),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_what_needs_a_change_of_a_kernel_is_refused(verb):
    model = with_two(PREFIX, ROWS)
    with refused(model, REASON):
        verb(model)


def test_export_to_peft_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Received: "):
        ksa.export_peft(
            with_two(PREFIX, ROWS), tmp_path / "p", "a", modules={"attention_{}": "layers.{}"}
        )
    assert not (tmp_path / "p").exists()


def test_refused_layers_are_named():
    inputs = keras.Input((6, 8))
    other = L.MultiHeadAttention(2, 4, value_dim=3, name="other")
    model = keras.Model(inputs, L.Dense(2)(other(inputs, inputs)))
    with refused(model, r"keys and values differ.*\(2, 4\) and \(2, 3\)"):
        ksa.enable(model, PREFIX)
    scaled = keras.Model(inputs, L.Dense(2)(L.Attention()([inputs, inputs])))
    with refused(scaled, "no attention layer that can be adapted: it has Attention"):
        ksa.enable(scaled, PREFIX)

    class OwnAttention(L.MultiHeadAttention):
        def _compute_attention(self, *args, **kwargs):
            return super()._compute_attention(*args, **kwargs)

    own = keras.Model(inputs, L.Dense(2)(OwnAttention(2, 4)(inputs, inputs)))
    with refused(own, "no attention layer that can be adapted: it has OwnAttention"):
        ksa.enable(own, ROWS)


def test_scores_are_refused_while_an_adapter_computes():
    model, x = with_two(PREFIX, ROWS), batch((4, 6, 8))
    layer = model.get_layer("attention_0")
    with pytest.raises(ValueError, match=r"within `disabled\(model\)`"):
        layer(x, x, return_attention_scores=True)
    with ksa.disabled(model):
        _, scores = layer(x, x, return_attention_scores=True)
    assert scores.shape == (4, 2, 6, 6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: methods.PrefixTuning(length=0),
        lambda: methods.PrefixTuning(hidden=1.5),
        lambda: methods.PrefixTuning(std=-1.0),
        lambda: methods.PrefixTuning(seed=-1),
        lambda: methods.AdaptionPrompt(length=True),
    ],
)
@pytest.mark.backend_free("hyperparameters")
def test_bad_hyperparameters(wrong):
    with pytest.raises(ValueError, match="must .*Received: "):
        wrong()
