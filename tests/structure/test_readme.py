"""The front page: short, its rates are those of the methods, and its ten lines run."""

import re
from pathlib import Path

import kagglehub
import keras
import keras_hub
import pytest
import requests
from kagglehub.exceptions import KaggleApiHTTPError

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.method import Method

README = (Path(__file__).parents[2] / "README.md").read_text()
TEN_LINES, FOR_GEMMA = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
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
    """A stand-in for the preset of the ten lines, as Kaggle has it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *re.findall(r"[a-z]+", README.lower())]
    (tmp_path / "words.txt").write_text("\n".join(dict.fromkeys(words)))
    preset = tmp_path / "preset"
    tokenizer = keras_hub.models.BertTokenizer(str(tmp_path / "words.txt"), lowercase=True)
    keras_hub.models.BertTextClassifierPreprocessor(tokenizer, 16).save_to_preset(str(preset))
    keras_hub.models.BertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        intermediate_dim=64,
        max_sequence_length=16,
    ).save_to_preset(str(preset))

    def download(handle, path):
        assert handle.startswith("keras/bert/keras/bert_tiny_en_uncased")
        if (preset / path).exists():
            return str(preset / path)
        raise KaggleApiHTTPError("404 Client Error", response=requests.Response())

    monkeypatch.setattr(kagglehub, "model_download", download)
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
