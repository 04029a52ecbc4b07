"""Keras's own test of layers, on the layer of each method."""

import keras
import pytest
from cases import EVERY_METHOD
from keras.src.testing import TestCase

import keras_svd_adapters as ksa

BASES = {
    "dense": lambda: keras.layers.Dense(6, activation="gelu"),
    "einsum": lambda: keras.layers.EinsumDense("ab,bc->ac", (6,), bias_axes="c"),
}
NAMES = [name for name, case in EVERY_METHOD.items() if not case.variant]


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_behaves_as_keras_expects(name, kind):
    method = EVERY_METHOD[name].method
    if name == "token_rows":
        method = ksa.TokenRows([1, 3])
    layer_class = getattr(ksa.layers, f"{type(method).__name__}Dense")

    @keras.saving.register_keras_serializable("conformance")
    class Subject(layer_class):
        """Makes its own base layer, since a base layer has one owner."""

        def __init__(self, base_layer=None, **kwargs):
            if base_layer is None:
                base_layer = BASES[kind]()
                base_layer.build((None, 6))
            super().__init__(base_layer, **{**method.get_config(), **kwargs})

    made = Subject()
    TestCase().run_layer_test(
        Subject,
        init_kwargs={},
        input_shape=(3, 6),
        expected_output_shape=(3, 6),
        expected_num_trainable_weights=len(made.trainable_weights),
        expected_num_non_trainable_weights=len(made.non_trainable_weights),
        expected_num_seed_generators=int(bool(method.draws(6, 6, method.forms[0]))),
        expected_num_losses=sum(array.penalty is not None for array in arrays_of(method)),
        # Keras wants every weight in float32; frozen factors are in the compute dtype.
        run_mixed_precision_check=all(a.dtype != "compute" for a in arrays_of(method)),
    )


def arrays_of(method):
    return method.arrays(6, 6, method.form(6, 6)).values()


def test_layers_compute_in_the_dtype_that_they_were_given():
    for name in NAMES:
        method = ksa.TokenRows([1, 3]) if name == "token_rows" else EVERY_METHOD[name].method
        base = keras.layers.Dense(6)
        base.build((None, 6))
        layer_class = getattr(ksa.layers, f"{type(method).__name__}Dense")
        layer = layer_class(base, **method.get_config(), dtype="mixed_bfloat16")
        y = layer(keras.ops.ones((2, 6)))
        assert layer.compute_dtype == base.compute_dtype == "bfloat16", name
        assert keras.backend.standardize_dtype(y.dtype) == "bfloat16", name
        assert {w.dtype for w in layer.trainable_weights} == {"float32"}, name


def test_another_dtype_of_variables_is_refused():
    other = keras.layers.Dense(4)
    other.build((None, 6))
    with pytest.raises(ValueError, match="keep their dtype.*Received: dtype='bfloat16'"):
        ksa.LoRADense(other, rank=2, dtype="bfloat16")
    assert other.compute_dtype == "float32"
