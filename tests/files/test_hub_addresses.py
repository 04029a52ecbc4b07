"""Addresses of adapters on hubs: what each names, and what is none."""

import pytest
from adapter_files import tuned
from snapshots import state

import keras_svd_adapters as ksa
from keras_svd_adapters.files.hubs.address import HubAddress, parse_address

pytestmark = pytest.mark.backend_free("addresses are text")

HF, KAGGLE = "hf://ann/pirate", "kaggle://ann/pirate/keras/banded"


@pytest.mark.parametrize(
    ("address", "expected"),
    {
        HF: HubAddress("hf", "ann/pirate", None, "adapter.keras"),
        "hf:/ann/pirate": HubAddress("hf", "ann/pirate", None, "adapter.keras"),  # as of a `Path`
        f"{HF}@v1/a/b.keras": HubAddress("hf", "ann/pirate", "v1", "a/b.keras"),
        f"{KAGGLE}/3": HubAddress("kaggle", KAGGLE[9:], "3", "adapter.keras"),
        f"{KAGGLE}/3/a.keras": HubAddress("kaggle", KAGGLE[9:], "3", "a.keras"),
        "pirate.keras": None,
        "/tmp/hf/pirate.keras": None,
        "C:/adapters/pirate.keras": None,
    }.items(),
)
def test_what_an_address_names(address, expected):
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "hf://ann",
        "hf://ann/pirate/../secret.keras",
        "hf://ann/pirate@",
        "hf://ann/pi rate",
        "kaggle://ann/pirate",
        "kaggle://ann/pirate/keras/banded/1/../x.keras",
        "s3://bucket/a.keras",
    ],
)
def test_addresses_that_are_none(address):
    backbone, _ = tuned(ksa.SVF())
    before = state(backbone)
    with pytest.raises(ValueError, match="Received: "):
        ksa.load_adapter(backbone, address)
    with pytest.raises(ValueError, match="Received: "):
        ksa.save_adapter(backbone, address)
    assert state(backbone) == before


@pytest.mark.parametrize(
    "address",
    [HF, f"{HF}@main", f"{HF}@v1/a/b.keras", KAGGLE, f"{KAGGLE}/3", f"{KAGGLE}/3/a.keras"],
)
def test_an_address_is_read_and_written_alike(address):
    assert str(parse_address(address)) == address
