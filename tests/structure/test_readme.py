"""The front page: short, its rates are those of the methods, and its ten lines run."""

import re

import kagglehub
import keras
import keras_hub
import pytest
from tiny_hub import FOR_GEMMA, README, TEN_LINES, stand_in

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.method import Method

ROW = re.compile(r"^\| \[?`(\w+)\(.*?\)`(?:\]\((\S+)\))? \| .* \| (\S+) \| [^|]* \|$", re.MULTILINE)
pytestmark = pytest.mark.backend_free("each backend tests these verbs")
NEEDED = {"SVFT": {"pattern": "banded", "d": 2}, "TokenRows": {"rows": [0]}}


def test_the_page_is_short():
    assert len(README.splitlines()) <= 150


def test_each_method_has_its_rate_and_its_paper():
    rows = {name: (paper, float(rate)) for name, paper, rate in ROW.findall(README)}
    known = {cls.__name__: cls for cls in Method.registry.values() if hasattr(ksa, cls.__name__)}
    assert set(rows) == set(known)
    for name, (paper, rate) in rows.items():
        assert rate == known[name](**NEEDED.get(name, {})).recommended_learning_rate
        assert paper in known[name].__doc__


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(kagglehub, "model_download", stand_in(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*shuffle=True", "ignore:The optimizer of")
def test_the_ten_lines(hub, capsys):
    keras.utils.set_random_seed(0)
    names: dict = {}
    exec(compile(TEN_LINES, "README.md", "exec"), names)
    assert "values would train" in capsys.readouterr().out
    model, reviews = names["model"], names["reviews"][:4]
    assert (model.predict(reviews, verbose=0).argmax(-1) == [1, 0, 1, 0]).all()
    again = keras_hub.models.BertTextClassifier.from_preset("bert_tiny_en_uncased", num_classes=2)
    ksa.load_adapter(again, "reviews.keras")
    compile(FOR_GEMMA, "README.md", "exec")
