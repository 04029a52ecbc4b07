"""Adapters on hubs: a server on this machine answers the libraries of both hubs."""

import sys

import huggingface_hub.constants
import kagglesdk.kaggle_env
import models
import pytest
from adapter_files import refuses, tuned
from archives import rewritten
from fake_hubs import FakeHubs

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import FORMAT_VERSION

pytestmark = pytest.mark.backend_free("files move, and each backend tests files")

HF, KAGGLE = "hf://ann/pirate", "kaggle://ann/pirate/keras/banded"
HUBS = pytest.mark.parametrize("address", [HF, KAGGLE])


def point(monkeypatch, url):
    """Point both libraries at a server."""
    constants = huggingface_hub.constants
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    endpoints = kagglesdk.kaggle_env._env_to_endpoint
    monkeypatch.setitem(endpoints, kagglesdk.kaggle_env.KaggleEnv.PROD, url)


def log_in(monkeypatch, token=FakeHubs.token):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)


@pytest.fixture
def hubs(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "test")  # it reads all frames
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between tries
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    hubs = FakeHubs()
    with hubs.served() as url:
        point(monkeypatch, url)
        yield hubs


def outputs(backbone, x):
    return models.output(backbone(x))


def is_refused(address, kind, *words):
    refuses(models.bert()[0], address, *words, kind=kind)


@HUBS
def test_what_was_saved_comes_back(hubs, monkeypatch, address):
    log_in(monkeypatch)
    backbone, x = tuned(ksa.SVFT(pattern="banded", d=2))
    ksa.save_adapter(backbone, address)
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, address)
    assert (outputs(fresh, x) == outputs(backbone, x)).all()


def test_a_new_repository_is_private(hubs, monkeypatch):
    log_in(monkeypatch)
    ksa.save_adapter(tuned(ksa.SVF())[0], HF)
    assert hubs.private["ann/pirate"]
    log_in(monkeypatch, "wrong")
    is_refused("hf://ann/pirate/adapter.keras", FileNotFoundError, "private", "HF_TOKEN")


@HUBS
def test_the_card(hubs, monkeypatch, address):
    log_in(monkeypatch)
    backbone, _ = tuned(ksa.SVFT(pattern="banded", d=2), train="*norm*")
    ksa.save_adapter(backbone, address)
    files = (
        hubs.repositories["ann/pirate"]["main"] if address == HF else hubs.models[address[9:]][0]
    )
    card = files["README.md"].decode()
    count = ksa.status(backbone).trainable_parameters
    for text in (address, f"{count:,} trained", "SVFT(pattern='banded', d=2)", "BertBackbone"):
        assert text in card
    assert f"{ksa.SVFT(pattern='banded', d=2).recommended_learning_rate:g}" in card


def test_a_card_that_a_person_wrote_stays(hubs, monkeypatch):
    log_in(monkeypatch)
    backbone, _ = tuned(ksa.SVF())
    ksa.save_adapter(backbone, HF)
    files = hubs.repositories["ann/pirate"]["main"]
    ours = files["README.md"]
    files["README.md"] = b"my words"
    ksa.save_adapter(backbone, HF)
    assert files["README.md"] == b"my words"
    files["README.md"] = ours + b"more"
    ksa.save_adapter(backbone, HF)
    assert files["README.md"] == ours


def test_revisions(hubs, monkeypatch):
    log_in(monkeypatch)
    kept, x = tuned(ksa.SVF())
    for address in (HF, KAGGLE):
        ksa.save_adapter(kept, address)
    revisions = hubs.repositories["ann/pirate"]
    revisions["v1"] = dict(revisions["main"])
    later, _ = tuned(ksa.LoRA(rank=2))
    for address in (HF, KAGGLE):
        ksa.save_adapter(later, address)
    for address, expected in (
        (f"{HF}@v1", kept),
        (HF, later),
        (f"{KAGGLE}/1", kept),
        (KAGGLE, later),
    ):
        fresh, _ = models.bert()
        ksa.load_adapter(fresh, address)
        assert (outputs(fresh, x) == outputs(expected, x)).all(), address
    is_refused(f"{HF}@v2", FileNotFoundError, "no revision 'v2'", "leave out `@v2`")


def test_without_a_network_the_cache_is_read(hubs, monkeypatch):
    log_in(monkeypatch)
    backbone, x = tuned(ksa.SVF())
    for address in (HF, KAGGLE):
        ksa.save_adapter(backbone, address)
        ksa.load_adapter(models.bert()[0], address)
    point(monkeypatch, "http://127.0.0.1:9")
    for address in (HF, f"{KAGGLE}/1"):
        fresh, _ = models.bert()
        ksa.load_adapter(fresh, address)
        assert (outputs(fresh, x) == outputs(backbone, x)).all()
    is_refused("hf://ann/other", ConnectionError, "cannot be reached", "try again")
    is_refused(KAGGLE, ConnectionError, "Give the version")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ksa.load_adapter(models.bert()[0], HF)
    is_refused("hf://ann/other", ConnectionError, "cannot be reached")
    with pytest.raises(ConnectionError, match="Received: 'hf://ann/pirate'"):
        ksa.save_adapter(backbone, HF)


def test_what_does_not_exist(hubs, monkeypatch):
    is_refused(HF, FileNotFoundError, "no such repository", "hf auth login")
    is_refused(KAGGLE, FileNotFoundError, "no such model")
    hubs.repositories["ann/pirate"], hubs.private["ann/pirate"] = {"main": {}}, False
    is_refused(HF, FileNotFoundError, "no .keras file")
    hubs.repositories["ann/pirate"]["main"]["old/mine.keras"] = b"x"
    is_refused(HF, FileNotFoundError, "type hf://ann/pirate/old/mine.keras")


def test_a_notebook_of_kaggle_says_it_otherwise(hubs, monkeypatch):
    def missing(handle, path):
        raise ValueError(f"{path} is not present in the model files.")

    monkeypatch.setattr("kagglehub.model_download", missing)
    is_refused(KAGGLE, FileNotFoundError, "no file 'adapter.keras'")


@HUBS
def test_without_a_token_nothing_is_written(hubs, monkeypatch, address):
    backbone, _ = tuned(ksa.SVF())
    with pytest.raises(PermissionError, match=r"TOKEN.*Received: "):
        ksa.save_adapter(backbone, address)
    assert not hubs.repositories
    assert not hubs.models
    log_in(monkeypatch)
    ksa.save_adapter(backbone, address)
    ksa.load_adapter(models.bert()[0], address)


@HUBS
def test_a_second_try_works(hubs, monkeypatch, address):
    log_in(monkeypatch)
    backbone, _ = tuned(ksa.SVF())
    hubs.fails_at = "commit" if address == HF else "CreateModelInstance"
    with pytest.raises(ConnectionError, match="Received: "):
        ksa.save_adapter(backbone, address)
    assert not any(hubs.repositories.get("ann/pirate", {"main": {}})["main"])
    assert not hubs.models
    hubs.fails_at = None
    ksa.save_adapter(backbone, address)
    hubs.fails_at = "resolve" if address == HF else "DownloadModel"
    is_refused(address, ConnectionError)
    hubs.fails_at = None
    ksa.load_adapter(models.bert()[0], address)


def test_a_file_that_is_damaged_or_newer(hubs, tmp_path):
    path = tmp_path / "a.keras"
    ksa.save_adapter(tuned(ksa.SVF())[0], path)
    whole = path.read_bytes()
    rewritten(path, lambda metadata, config: metadata.update(format_version=FORMAT_VERSION + 1))
    files = {"newer.keras": path.read_bytes(), "cut.keras": whole[:-9], "text.keras": b"hello"}
    hubs.repositories["ann/pirate"], hubs.private["ann/pirate"] = {"main": files}, False
    is_refused(f"{HF}/newer.keras", ksa.AdapterFileError, "pip install --upgrade")
    is_refused(f"{HF}/cut.keras", ksa.AdapterFileError, "damaged")
    is_refused(f"{HF}/text.keras", ksa.AdapterFileError, "damaged")


def test_kaggle_numbers_versions_itself(hubs, monkeypatch):
    log_in(monkeypatch)
    with pytest.raises(ValueError, match=f"type {KAGGLE}. Received: "):
        ksa.save_adapter(tuned(ksa.SVF())[0], f"{KAGGLE}/3")
    assert not hubs.asked


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [(HF, "huggingface_hub", "huggingface"), (KAGGLE, "kagglehub", "kaggle")],
)
def test_without_the_library(monkeypatch, address, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    is_refused(address, ImportError, f'pip install "keras-svd-adapters[{extra}]"')
