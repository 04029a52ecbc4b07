"""A stand-in for the preset of the README's ten lines, in the form that Kaggle has it."""

import re
from pathlib import Path

import keras_hub
import requests
from kagglehub.exceptions import KaggleApiHTTPError

README = (Path(__file__).parents[2] / "README.md").read_text()
TEN_LINES, FOR_GEMMA = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def stand_in(folder):
    """Write a tiny preset, and return a function for `kagglehub.model_download`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *re.findall(r"[a-z]+", README.lower())]
    (folder / "words.txt").write_text("\n".join(dict.fromkeys(words)))
    preset = folder / "preset"
    tokenizer = keras_hub.models.BertTokenizer(str(folder / "words.txt"), lowercase=True)
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

    return download
