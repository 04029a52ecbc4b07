"""The adapter of each sample by the nearest center of base features."""

import keras
import numpy as np
import pytest
from cases import batch, numpy, shake

import keras_svd_adapters as ksa

PLACES = {"left": -4.0, "right": 4.0, "far": 12.0}


def groups(count=30, width=3):
    return {
        name: place + batch((count, width), seed=seed)
        for seed, (name, place) in enumerate(PLACES.items())
    }


def test_separated_data_gets_its_names():
    prototypes = ksa.Prototypes.fit(groups(), clusters=3)
    for name, features in groups(count=9).items():
        assert prototypes.names(features) == [name] * 9
    assert prototypes.names(keras.ops.convert_to_tensor([[-4.0] * 3])) == ["left"]
    assert "'left': 3" in repr(prototypes)


def test_centers_are_those_of_k_means():
    """Two clusters far from each other, each around its mean."""
    near = {"one": np.concatenate([groups()["left"], groups()["right"]])}
    centers = ksa.Prototypes.fit(near, clusters=2, seed=1).centers["one"]
    means = [groups()[name].mean(0) for name in ("left", "right")]
    np.testing.assert_allclose(centers[np.argsort(centers[:, 0])], means, rtol=1e-5)


def test_the_seed_decides():
    features = {"one": batch((40, 4))}
    first, again, other = (ksa.Prototypes.fit(features, 6, seed).centers for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["one"], again["one"])
    assert not np.array_equal(first["one"], other["one"])


def test_files(tmp_path):
    prototypes = ksa.Prototypes.fit(groups(), clusters=2)
    prototypes.save(tmp_path / "p.safetensors")
    loaded = ksa.Prototypes.load(tmp_path / "p.safetensors")
    assert list(loaded.centers) == list(prototypes.centers) == sorted(PLACES)
    for name, centers in prototypes.centers.items():
        np.testing.assert_array_equal(loaded.centers[name], centers.astype("float32"))
    assert (tmp_path / "p.safetensors").stat().st_size < 1000
    (tmp_path / "p.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="no file of.*Received: .*p.safe"):
        ksa.Prototypes.load(tmp_path / "p.safetensors")
    with pytest.raises(FileNotFoundError, match="Received"):
        ksa.Prototypes.load(tmp_path / "q.safetensors")


def test_a_later_task_leaves_the_earlier_centers():
    first = ksa.Prototypes.fit({"left": groups()["left"]}, clusters=2)
    both = first | ksa.Prototypes.fit({"right": groups()["right"]}, clusters=3)
    np.testing.assert_array_equal(both.centers["left"], first.centers["left"])
    assert both.names([[3.0] * 3, [-3.0] * 3]) == ["right", "left"]


def test_they_choose_adapters_by_features_of_the_base():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    features = keras.layers.Dense(5, name="features")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(features))
    base = keras.Model(inputs, features)
    before = base.predict(groups()["left"], verbose=0)
    for seed, name in enumerate(PLACES):
        ksa.enable(model, ksa.LoRA(rank=2), targets="features", name=name)
        shake(model, size=1.0, seed=seed)
    with ksa.disabled(model):
        found = {name: base.predict(x, verbose=0) for name, x in groups().items()}
        np.testing.assert_array_equal(found["left"], before)
    assert not np.allclose(base.predict(groups()["left"], verbose=0), before)
    prototypes = ksa.Prototypes.fit(found, clusters=2)
    x = np.concatenate([part[:2] for part in groups(count=9).values()])
    with ksa.disabled(model):
        names = prototypes.names(base.predict(x, verbose=0))
    assert names == [name for name in PLACES for _ in range(2)]
    mixed = ksa.predict(model, x, adapter_ids=names)
    for place, name in enumerate(PLACES):
        ksa.set_adapter(model, name)
        rows = slice(2 * place, 2 * place + 2)
        np.testing.assert_allclose(mixed[rows], numpy(model(x[rows])), atol=1e-5)
    ksa.delete_adapter(model, "left")
    with pytest.raises(ValueError, match="no such adapter.*Received: name='left'"):
        ksa.predict(model, x, adapter_ids=names)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "a dictionary such as"),
        ([[1.0, 2.0]], "a dictionary such as"),
        ({1: batch((9, 3))}, "name of an adapter.*Received: name=1"),
        ({"a/b": batch((9, 3))}, "name of an adapter.*Received: name='a/b'"),
        ({"a": batch((9,))}, r"one row of numbers.*shape \(9,\) of 'a'"),
        ({"a": []}, "one row of numbers"),
        ({"a": np.full((9, 3), np.nan)}, "finite.*Received: NaN or infinity in 'a'"),
        ({"a": batch((9, 3)), "b": batch((9, 2))}, "one layer.*widths 3 of 'a', 2 of 'b'"),
        ({"a": batch((4, 3))}, "`clusters=4`.*Received: clusters=5, and 4 different"),
        ({"a": np.ones((9, 3))}, "`clusters=1`.*Received: clusters=5, and 1 different"),
    ],
)
def test_unsuitable_features(features, message):
    with pytest.raises(ValueError, match=message):
        ksa.Prototypes.fit(features)


def test_unsuitable_samples():
    prototypes = ksa.Prototypes.fit(groups())
    for features, message in (
        (batch((2, 4)), "widths 3 of 'the centers', 4 of 'features'"),
        (np.full((1, 3), np.inf), "finite"),
        (batch((3,)), "one row"),
    ):
        with pytest.raises(ValueError, match=message):
            prototypes.names(features)
    for given in ({"clusters": 0}, {"clusters": 1.5}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"`{next(iter(given))}` must.*Received"):
            ksa.Prototypes.fit(groups(), **given)
