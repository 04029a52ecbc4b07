"""The command `keras-svd-adapters`: what it prints is what the package does."""

import json
import subprocess
import sys

import keras_hub
import models
import numpy as np
import pytest
from cases import shake
from typer.testing import CliRunner

import keras_svd_adapters as ksa
from keras_svd_adapters_cli.app import app, main

pytestmark = pytest.mark.backend_free("text around functions that each backend tests")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A preset, and two adapters of it."""
    folder = tmp_path_factory.mktemp("command")
    backbone, _ = models.bert()
    backbone.save_to_preset(folder / "bert")
    for name, method in (("a", ksa.LoRA(rank=2)), ("b", ksa.SVFT("banded", d=1))):
        ksa.enable(backbone, method, name=name, verbose=0)
        shake(backbone, seed=ord(name))
        ksa.save_adapter(backbone, folder / f"{name}.keras", name)
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout[result.stdout.index("{") :])


def adapted(folder, file):
    backbone = keras_hub.models.Backbone.from_preset(str(folder / "bert"))
    ksa.load_adapter(backbone, file, verbose=0)
    return backbone


def outputs(model):
    return models.output(model(models.bert()[1]))


def test_inspect(folder):
    told = run("inspect", folder / "a.keras")
    assert told["methods"] == ["LoRA(rank=2)"]
    assert told["values"] == ksa.status(adapted(folder, folder / "a.keras")).trainable_parameters
    assert len(told["kernels"]) == 12
    text = CliRunner().invoke(app, ["inspect", str(folder / "b.keras")]).stdout
    assert "SVFT(pattern='banded', d=1)" in text


def test_plan(folder):
    told = run("plan", folder / "bert", "--method", "svft", "--pattern", "banded", "--d", "2")
    expected = ksa.plan(models.bert()[0], ksa.SVFT("banded", d=2))
    assert told["trainable_parameters"] == expected.trainable_parameters
    fewer = run("plan", folder / "bert", "--target", "*query", "--rank", "2")
    assert fewer["trainable_parameters"] == 2 * 2 * 32


def test_merge(folder, tmp_path):
    told = run("merge", folder / "bert", folder / "b.keras", "-o", tmp_path / "m")
    assert told["relative"] < 1e-6
    merged = keras_hub.models.Backbone.from_preset(str(tmp_path / "m"))
    assert not ksa.status(merged).adapters
    expected = outputs(adapted(folder, folder / "b.keras"))
    np.testing.assert_allclose(outputs(merged), expected, atol=1e-4)


def test_convert(folder, tmp_path):
    for kind, out in (("lora", tmp_path / "l.keras"), ("peft", tmp_path / "p")):
        told = run("convert", folder / "bert", folder / "a.keras", "--to", kind, "-o", out)
        assert told["error"] < 1e-5
    again = keras_hub.models.Backbone.from_preset(str(folder / "bert"))
    ksa.import_peft(again, tmp_path / "p")
    for model in (again, adapted(folder, tmp_path / "l.keras")):
        expected = outputs(adapted(folder, folder / "a.keras"))
        np.testing.assert_allclose(outputs(model), expected, atol=1e-4)


def test_combine_and_diff(folder, tmp_path):
    a, out = folder / "a.keras", tmp_path / "ab.keras"
    told = run("combine", folder / "bert", a, a, "--weights", "0.5,0.5", "-o", out)
    assert told["error"] < 1e-5
    expected = outputs(adapted(folder, a))
    np.testing.assert_allclose(outputs(adapted(folder, out)), expected, atol=1e-4)
    assert run("diff", a, a)["equal"]
    assert len(run("diff", a, out)["differences"]) == 12


def test_bench(folder):
    times = run("bench", folder / "bert", "--tokens", "8", "--method", "svf")
    assert set(times) == {"frozen", "SVF()"}


WRONG = {
    "no such method": ["plan", "bert", "--method", "svt"],
    "The options of svft are --formulation": ["plan", "bert", "--method", "svft", "--dd", "2"],
    "No such file": ["inspect", "nothing.keras"],
    "is lora or peft": ["convert", "bert", "a.keras", "--to", "onnx", "-o", "x"],
    "two files or more": ["combine", "bert", "a.keras", "-o", "x"],
    "no such class": ["merge", "bert", "a.keras", "-o", "x", "--class", "BertBackbon"],
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG)
def test_what_is_wrong_is_told_in_a_line(folder, words, arguments, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["keras-svd-adapters", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert words in capsys.readouterr().err


def test_help_needs_no_keras():
    code = "import sys, keras_svd_adapters_cli.app; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "pirate.keras" in CliRunner().invoke(app, ["inspect", "--help"]).stdout
