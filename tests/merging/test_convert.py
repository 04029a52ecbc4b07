"""To a LoRA that computes the same."""

import models
import numpy as np
import pytest
from cases import shake

import keras_svd_adapters as ksa

EXACT = {
    "lora": (ksa.LoRA(rank=3, alpha=12, rslora=True), 3),
    "pissa": (ksa.PiSSA(rank=3, alpha=6), 6),
    "milora": (ksa.MiLoRA(rank=3), 6),
    "pissa_of_more_than_half": (ksa.PiSSA(rank=10), 16),
    "lora_xs": (ksa.LoRAXS(rank=5, alpha=10), 5),
    "token_rows": (ksa.TokenRows([7, 0, 4]), 3),
    "vera": (ksa.VeRA(rank=4), 4),
    "loha": (ksa.methods.LoHa(rank=2), 4),
    "melora": (ksa.methods.MELoRA(rank=2, groups=2), 4),
    "qa_lora": (ksa.methods.QALoRA(rank=3, alpha=6, group=4), 3),
    "spectral_adapter_a": (ksa.methods.SpectralAdapterA(rank=3), 6),
    "dylora": (ksa.methods.DyLoRA(rank=4, alpha=6), 4),
    "autolora": (ksa.methods.AutoLoRA(rank=4), 4),
    "psoft": (ksa.methods.PSOFT(rank=4), 4),
    "vera_of_more_than_all": (ksa.VeRA(rank=40), 16),
}


@pytest.mark.parametrize(("method", "rank"), EXACT.values(), ids=EXACT)
def test_the_lora_computes_the_same(method, rank, tmp_path):
    model, x = models.bert()
    ksa.enable(model, method, train="*norm*", bias="adapted")
    trained = {w.path for w in model.trainable_weights if w.name in ("bias", "beta", "gamma")}
    shake(model)
    expected = models.output(model(x))
    report = ksa.to_lora(model, into="as_lora")
    np.testing.assert_allclose(models.output(model(x)), expected, atol=1e-5)
    assert f"LoRA(rank={rank})" in str(report)
    assert report.error < 1e-5
    assert trained < {w.path for w in model.trainable_weights}
    ksa.delete_adapter(model, "default")
    ksa.set_adapter(model, "as_lora")
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh, _ = models.bert()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_allclose(models.output(fresh(x)), expected, atol=1e-5)
    ksa.merge(fresh)
    np.testing.assert_allclose(models.output(fresh(x)), expected, atol=1e-5)


@pytest.mark.parametrize("method", [ksa.DoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="banded", d=2)])
def test_no_lora_is_exactly_that(method):
    model, _ = models.bert()
    ksa.enable(model, method)
    before = [w.path for w in model.weights]
    with pytest.raises(ValueError, match=r"; ABBA, .*Received: name='default'") as caught:
        ksa.to_lora(model)
    listed = str(caught.value).split("no exact LoRA; ")[1].split(" have one")[0].split(", ")
    assert set(listed) == {
        *("AdaLoRA", "AllocatingLoRA", "AutoLoRA", "BiLoRA", "DyLoRA", "DynamicDoRA", "SoRA"),
        *("ABBA", "FLoRA", "LoHa", "LoKr", "LoRA", "LoRAX", "LoRAXS", "LoRETTA", "LoTR", "MELoRA"),
        *("MiLoRA", "MiSS", "NestedLoRAXS", "PSOFT", "PiSSA", "SpectralAdapterA", "TinyLoRA"),
        *("NOLA", "RandLoRA", "SpectralAdapterR", "TiedLoRA", "TokenRows", "TriLoRA", "VBLoRA"),
        *(
            "AFLoRA",
            "DeltaLoRA",
            "LoRASB",
            "RestartedLoRA",
            "RoseLoRA",
            "SparseAdapter",
            "TaskLoRA",
        ),
        *("OnlineLoRA", "PRILoRA", "QALoRA", "VeRA"),
    }
    assert [w.path for w in model.weights] == before


def test_the_name_is_taken():
    model, _ = models.bert()
    ksa.enable(model, ksa.LoRA(rank=2))
    with pytest.raises(ValueError, match="has an adapter of this name"):
        ksa.to_lora(model, into="default")


@pytest.mark.parametrize("method", [ksa.DoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="banded", d=2)])
def test_the_nearest_lora(method):
    model, x = models.bert()
    ksa.enable(model, method)
    shake(model)
    expected = models.output(model(x))
    report = ksa.to_lora(model, into="near", energy=0.9)
    assert 0.1 < report.error <= np.sqrt(0.1) + 1e-6
    assert ksa.to_lora(model, "default", into="whole", rank=100).error < 1e-5
    np.testing.assert_allclose(models.output(model(x)), expected, atol=1e-4)


@pytest.mark.parametrize("how", [{"rank": 2, "energy": 0.5}, {"rank": 1.5}, {"energy": 0.0}])
def test_bad_sizes(how):
    model, _ = models.bert()
    ksa.enable(model, ksa.SVF())
    with pytest.raises(ValueError, match="Received: rank="):
        ksa.to_lora(model, **how)
