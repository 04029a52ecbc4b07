"""GaLore and Flora: against loops in NumPy, their state, and saving."""

import keras
import numpy as np
import pytest

import keras_svd_adapters as ksa

SHAPES = {"wide": (4, 9), "tall": (9, 4), "three axes": (2, 3, 5), "vector": (7,), "thin": (2, 8)}
OPTIMIZERS = {
    "galore": lambda **more: ksa.GaLore(0.01, rank=2, every=3, **more),
    "flora": lambda **more: ksa.Flora(0.01, rank=2, every=3, beta_1=0.5, **more),
}


def trained(shape, optimizer, steps=8, first=0):
    """A variable after some steps along random gradients, and these gradients."""
    rng = np.random.default_rng(0)
    weight = keras.Variable(rng.normal(size=shape).astype("float32"), name="weight")
    optimizer.build([weight])
    gradients = rng.normal(size=(first + steps, *shape)).astype("float32")
    for gradient in gradients[first:]:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
    return weight, gradients


def numpy(x):
    return keras.ops.convert_to_numpy(x).astype("float64")


def adam(gradient, state, step, scale=1.0):
    state["m"] = 0.9 * state["m"] + 0.1 * gradient
    state["v"] = 0.999 * state["v"] + 0.001 * gradient**2
    mean, square = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.999**step)
    return scale * mean / (np.sqrt(square) + 1e-8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_galore_against_a_loop(shape):
    optimizer = ksa.GaLore(0.1, rank=2, every=3)
    rng = np.random.default_rng(0)
    W = rng.normal(size=shape).astype("float32").astype("float64")
    weight = keras.Variable(W.astype("float32"), name="weight")
    optimizer.build([weight])
    state, P = {"m": 0.0, "v": 0.0}, None
    for step in range(8):
        g = rng.normal(size=shape).astype("float32")
        optimizer.apply([keras.ops.convert_to_tensor(g)], [weight])
        matrix = g.astype("float64").reshape(-1, shape[-1])
        if optimizer.projections[0] is None:
            W -= 0.1 * adam(matrix, state, step + 1).reshape(shape)
            continue
        turned = matrix.shape[0] > matrix.shape[1]
        matrix = matrix.T if turned else matrix
        if step % 3 == 0:  # the signs of singular vectors are free
            P = numpy(optimizer.projections[0])
            largest = np.linalg.svd(matrix)[0][:, :2]
            np.testing.assert_allclose(P @ P.T, largest @ largest.T, atol=1e-4)
        update = P @ adam(P.T @ matrix, state, step + 1, 0.25)
        W -= 0.1 * (update.T if turned else update).reshape(shape)
    np.testing.assert_allclose(numpy(weight), W, atol=2e-5)


def flora_loop(W, gradients, projections, every):
    """Flora in float64; `projections` gives P of a time, `None` for whole momentum."""
    M, squares, state = 0.0, [0.0, 0.0], W.copy()
    for step, g in enumerate(gradients.astype("float64")):
        square, correction = g**2 + 1e-30, 1 - 0.99 ** (step + 1)
        now = [square] if projections is None else [square.mean(1), square.mean(0)]
        squares = [old + 0.01 * (new - old) for old, new in zip(squares, now)]
        means = [each / correction for each in squares]
        if projections is None:
            u = g / np.sqrt(means[0])
        else:
            u = g / np.sqrt(means[0] / means[0].mean())[:, None] / np.sqrt(means[1])
        u = u / max(1.0, np.sqrt((u**2).mean()))
        if projections is None:
            M = M + 0.1 * (u - M)
            state -= 0.1 * M
            continue
        P = projections(step // every)
        if step and step % every == 0:
            M = P @ projections(step // every - 1).T @ M
        state -= 0.1 * (0.9 * (P.T @ M if step else 0.0) + 0.1 * u)
        M = 0.9 * M + 0.1 * P @ u
    return state


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (7,), (2, 8)])
def test_flora_against_a_loop(shape):
    optimizer = ksa.Flora(0.1, rank=2, every=4)
    weight, gradients = trained(shape, optimizer)
    W = np.random.default_rng(0).normal(size=shape).astype("float32").astype("float64")
    if optimizer.sides(weight) is None:
        expected = flora_loop(W, gradients, None, 4)
    else:
        turn = shape[0] > shape[1]
        if turn:
            W, gradients = W.T, gradients.transpose(0, 2, 1)
        found = {t: numpy(optimizer.projection(0, t, min(shape))) for t in range(3)}
        expected = flora_loop(W, gradients, found.__getitem__, 4)
        expected = expected.T if turn else expected
    np.testing.assert_allclose(numpy(weight), expected, atol=2e-5)


def test_flora_with_an_orthonormal_projection_is_momentum(monkeypatch):
    """All rows of a gradient, turned by an orthogonal matrix, lose nothing."""
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0].astype("float32")
    monkeypatch.setattr(ksa.Flora, "sides", lambda self, variable: (4, 9))
    monkeypatch.setattr(
        ksa.Flora, "projection", lambda self, *where: keras.ops.convert_to_tensor(Q)
    )
    weight, gradients = trained((4, 9), ksa.Flora(0.1, rank=4, every=3))
    W = np.random.default_rng(0).normal(size=(4, 9)).astype("float32").astype("float64")
    same = flora_loop(W, gradients, lambda time: np.eye(4), 3)
    np.testing.assert_allclose(numpy(weight), same, atol=2e-5)


def test_sizes_of_the_state():
    sizes = {}
    for name, make in OPTIMIZERS.items():
        optimizer = make()
        trained((40, 90), optimizer, steps=1)
        own = [v for v in optimizer.variables if "weight" in v.name]
        sizes[name] = sum(int(np.prod(v.shape)) for v in own)
    assert sizes == {"galore": 2 * 2 * 90 + 40 * 2, "flora": 2 * 90 + 40 + 90}


def model_with(optimizer):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(5)]
    model = keras.Sequential(layers)
    model.compile(optimizer=optimizer, loss="mse")
    return model


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_resumed_as_uninterrupted(make, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6))
    y = x[:, :5]
    whole = model_with(make())
    first = whole.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
    whole.save(tmp_path / "model.keras")
    second = whole.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert resumed.optimizer.get_config() == whole.optimizer.get_config()
    again = resumed.fit(x, y, batch_size=4, shuffle=False, verbose=0).history["loss"]
    assert second == again
    assert second < first
    for one, other in zip(whole.weights, resumed.weights):
        np.testing.assert_array_equal(numpy(one), numpy(other))


def test_momentum_that_would_grow():
    with pytest.raises(ValueError, match="use `every=4` or more. Received: every=3, beta_1=0.9"):
        trained((4, 9), ksa.Flora(0.1, rank=2, every=3))
    trained((4, 9), ksa.Flora(0.1, rank=2, every=4), steps=1)


@pytest.mark.parametrize("given", [{"rank": 0}, {"every": 0}, {"rank": 2.5}])
@pytest.mark.parametrize("kind", [ksa.GaLore, ksa.Flora])
def test_bad_numbers(kind, given):
    with pytest.raises(ValueError, match="must be a positive integer. Received"):
        kind(**given)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(4, 9), (7,)])
def test_weights_in_bfloat16(name, shape):
    """The state is in float32, so that the update is that of weights in float32."""
    rng = np.random.default_rng(0)
    start, gradients = 0.01 * rng.normal(size=shape), rng.normal(size=(8, *shape))
    found = {}
    for dtype in ("float32", "bfloat16"):
        optimizer = OPTIMIZERS[name]()
        weight = keras.Variable(start.astype("float32"), dtype=dtype, name="weight")
        optimizer.build([weight])
        for gradient in gradients:
            optimizer.apply([keras.ops.cast(gradient, dtype)], [weight])
        found[dtype] = numpy(keras.ops.cast(weight, "float32"))
        assert {v.dtype for v in optimizer.variables if "iteration" not in v.name} == {"float32"}
    moved = np.abs(found["float32"] - start).max()
    assert moved > 0.005
    assert np.abs(found["bfloat16"] - found["float32"]).max() < 0.5 * moved
