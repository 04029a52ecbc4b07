"""Parameter-efficient fine-tuning for Keras 3, by singular vectors and low rank.

    import keras_svd_adapters as ksa

    svft = ksa.SVFT(pattern="banded", d=2)
    print(ksa.plan(model, svft))          # what would train; touches nothing
    ksa.enable(model, svft, train="head") # then compile and fit as ever
    ksa.save_adapter(model, "mine.keras")
    ksa.merge(model)                      # an ordinary model again

Methods: `LoRA`, `DoRA`, `PiSSA`, `MiLoRA`, `LoRAXS`, `VeRA`, `SVF`, `SVFT`, and `TokenRows` for
rows of an embedding. Each has a layer for your own models, such as `SVFTDense`, and is a method of
KerasHub backbones, such as `backbone.enable_svft(pattern="banded", d=2)`.

Verbs, each with its own `help`:

- before: `targets`, `plan`, `spectrum`; `register_kernels` for layers of your own
- adapt: `enable`, `set_adapter`, `disabled`, `delete_adapter`; `from_preset` loads and adapts
- look: `status`, `coefficients`, `similarity`, and `AdapterHealth` as a callback of `fit`
- one adapter per sample of a batch: `predict`, `generate`
- keep: `save_adapter`, `load_adapter`; `svd_cache` holds the decompositions
- quantized models: `enable` after `model.quantize`; `quantize` makes up for the rounding
- leave: `merge`, `unmerge`, `to_lora`; `combine` makes one of several, `extract_lora` one of two
  models
- HF PEFT: `export_peft`, `import_peft`
"""

from keras_svd_adapters import svd_cache
from keras_svd_adapters.adapter_file import save_adapter
from keras_svd_adapters.adapter_loader import load_adapter
from keras_svd_adapters.angles import Similarity
from keras_svd_adapters.approximation import Approximation
from keras_svd_adapters.archive import AdapterFileError
from keras_svd_adapters.checkpoint_care import care_for_checkpoints
from keras_svd_adapters.choice import Choice, targets
from keras_svd_adapters.coefficients import Coefficients, coefficients
from keras_svd_adapters.combine import combine
from keras_svd_adapters.convert import to_lora
from keras_svd_adapters.enable import enable
from keras_svd_adapters.extract import extract_lora
from keras_svd_adapters.health import AdapterHealth
from keras_svd_adapters.keras_hub import join_keras_hub
from keras_svd_adapters.kernel_register import register_kernels
from keras_svd_adapters.layers import dense_layer
from keras_svd_adapters.merge import merge, unmerge
from keras_svd_adapters.merge_report import MergeReport
from keras_svd_adapters.methods.dora import DoRA
from keras_svd_adapters.methods.lora import LoRA
from keras_svd_adapters.methods.lora_xs import LoRAXS
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.pissa import MiLoRA, PiSSA
from keras_svd_adapters.methods.svf import SVF
from keras_svd_adapters.methods.svft import SVFT
from keras_svd_adapters.methods.token_rows import TokenRows
from keras_svd_adapters.methods.vera import VeRA
from keras_svd_adapters.mixed import generate, predict
from keras_svd_adapters.optimizer_care import care_for_adapters
from keras_svd_adapters.peft.exporting import export_peft
from keras_svd_adapters.peft.importing import import_peft
from keras_svd_adapters.plan import Plan, plan
from keras_svd_adapters.quantize import Compensation, quantize
from keras_svd_adapters.similarity import similarity
from keras_svd_adapters.site import Site
from keras_svd_adapters.spectrum import Spectrum, spectrum
from keras_svd_adapters.status import Status, status
from keras_svd_adapters.streaming import from_preset
from keras_svd_adapters.switching import delete_adapter, disabled, set_adapter
from keras_svd_adapters.version import __version__

LoRADense, DoRADense, LoRAXSDense = map(dense_layer, (LoRA, DoRA, LoRAXS))
PiSSADense, MiLoRADense = map(dense_layer, (PiSSA, MiLoRA))
SVFDense, SVFTDense, VeRADense = map(dense_layer, (SVF, SVFT, VeRA))
TokenRowsDense = dense_layer(TokenRows)

care_for_adapters()
care_for_checkpoints()
join_keras_hub()

__all__ = [
    "AdapterFileError",
    "AdapterHealth",
    "Approximation",
    "Choice",
    "Coefficients",
    "Compensation",
    "DoRA",
    "DoRADense",
    "LoRA",
    "LoRADense",
    "LoRAXS",
    "LoRAXSDense",
    "MergeReport",
    "Method",
    "MiLoRA",
    "MiLoRADense",
    "PiSSA",
    "PiSSADense",
    "Plan",
    "SVF",
    "SVFDense",
    "SVFT",
    "SVFTDense",
    "Similarity",
    "Site",
    "Spectrum",
    "Status",
    "TokenRows",
    "TokenRowsDense",
    "VeRA",
    "VeRADense",
    "__version__",
    "coefficients",
    "combine",
    "delete_adapter",
    "disabled",
    "enable",
    "export_peft",
    "extract_lora",
    "from_preset",
    "generate",
    "import_peft",
    "load_adapter",
    "merge",
    "plan",
    "predict",
    "quantize",
    "register_kernels",
    "save_adapter",
    "set_adapter",
    "similarity",
    "spectrum",
    "status",
    "svd_cache",
    "targets",
    "to_lora",
    "unmerge",
]


def __dir__() -> list[str]:
    return list(__all__)
