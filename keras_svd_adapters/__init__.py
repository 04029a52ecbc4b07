"""Parameter-efficient fine-tuning for Keras 3 with singular vectors and low-rank updates.

    import keras_svd_adapters as ksa

    svft = ksa.SVFT(pattern="banded", d=2)
    print(ksa.plan(model, svft))          # estimates the cost; changes nothing
    ksa.enable(model, svft, train="head") # then compile and fit as usual
    ksa.save_adapter(model, "mine.keras")
    ksa.merge(model)                      # a plain Keras model again

Methods: `LoRA`, `DoRA`, `PiSSA`, `MiLoRA`, `LoRAXS`, `VeRA`, `SVF`, `SVFT`, and `TokenRows` for
rows of an embedding; `ksa.methods` has all methods. Each has a layer for your own models, such as
`SVFTDense`, and a method of KerasHub backbones, such as `backbone.enable_svft(pattern="banded",
d=2)`; `ksa.layers` has all layers.

Verbs, each with its own `help`:

- before: `targets`, `plan`, `compare`, `spectrum`, `rank_by_depth`, `register_kernels`
- adapt: `enable`, `set_adapter`, `disabled`, `delete_adapter`, `prune`; `from_preset` loads as well
- train: Keras's `fit`, after `find_learning_rate`; `rules` for the optimizer, `Schedule` and
  `DropBP` as callbacks; `reinforce` on rewards; `begin_task` for one task after another
- inspect: `status`, `coefficients`, `similarity`, `observe`, `keep_layers`, and `AdapterHealth`
- adapters of each sample, or their weights: `predict`, `generate`; `classify` and `Prototypes`
  choose; `AdapterPool` serves thousands; `XLoRA`, `TokenMixing` and `AMLoRA` weigh several
- save: `save_adapter`, `load_adapter`; for HF PEFT, `export_peft`, `import_peft`; `svd_cache`
- quantized models: `quantize`, also to NF4; `export_nf4` and `import_nf4` of bitsandbytes' files
- merge and convert: `merge`, `unmerge`, `to_lora`, `to_sparse`, `combine`, `search_blend`,
  `extract_lora`, `transfer`, `compress`
"""

from keras_svd_adapters.runtime import supported_keras  # noqa: F401

# isort: split
from keras_svd_adapters.adapters.layers.registry import register_kernels
from keras_svd_adapters.adapters.storages.nf4 import NF4Config
from keras_svd_adapters.files.archive import AdapterFileError
from keras_svd_adapters.files.bitsandbytes import export_nf4, import_nf4
from keras_svd_adapters.files.load import load_adapter
from keras_svd_adapters.files.peft.exporting import export_peft
from keras_svd_adapters.files.peft.importing import import_peft
from keras_svd_adapters.files.pool.adapter_pool import AdapterPool
from keras_svd_adapters.files.presets.from_preset import from_preset
from keras_svd_adapters.files.save import save_adapter
from keras_svd_adapters.keras_hub import install_backbone_methods
from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.layers import (  # type: ignore[attr-defined]
    DoRADense,
    LoRADense,
    LoRAXSDense,
    MiLoRADense,
    PiSSADense,
    SVFDense,
    SVFTDense,
    TokenRowsDense,
    VeRADense,
)
from keras_svd_adapters.merging.approximation import Approximation
from keras_svd_adapters.merging.blend_search import BlendSearch, search_blend
from keras_svd_adapters.merging.combining.combine import combine
from keras_svd_adapters.merging.compression import compress
from keras_svd_adapters.merging.extract_lora import extract_lora
from keras_svd_adapters.merging.merge import merge, unmerge
from keras_svd_adapters.merging.merge_report import MergeReport
from keras_svd_adapters.merging.similarity import similarity
from keras_svd_adapters.merging.similarity_report import Similarity
from keras_svd_adapters.merging.to_lora import to_lora
from keras_svd_adapters.merging.to_sparse import to_sparse
from keras_svd_adapters.merging.transfer import transfer
from keras_svd_adapters.methods.low_rank.dora import DoRA
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.low_rank.milora import MiLoRA
from keras_svd_adapters.methods.low_rank.pissa import PiSSA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.shared.vera import VeRA
from keras_svd_adapters.methods.sparse.token_rows import TokenRows
from keras_svd_adapters.methods.spectral.lora_xs import LoRAXS
from keras_svd_adapters.methods.spectral.svf import SVF
from keras_svd_adapters.methods.spectral.svft import SVFT
from keras_svd_adapters.models.enable import enable
from keras_svd_adapters.models.predict import generate, predict
from keras_svd_adapters.models.prune import prune
from keras_svd_adapters.models.quantize import Compensation, quantize
from keras_svd_adapters.models.routing.am_lora import AMLoRA
from keras_svd_adapters.models.routing.classification import classify
from keras_svd_adapters.models.routing.prototypes import Prototypes
from keras_svd_adapters.models.routing.token_mixing import TokenMixing
from keras_svd_adapters.models.routing.x_lora import XLoRA
from keras_svd_adapters.models.sites.site import Site
from keras_svd_adapters.models.sites.target_report import Choice, targets
from keras_svd_adapters.models.state.saving import install_saving_hooks
from keras_svd_adapters.models.status import Status, status
from keras_svd_adapters.models.switching import delete_adapter, disabled, set_adapter
from keras_svd_adapters.reports.coefficients import Coefficients, coefficients
from keras_svd_adapters.reports.compare import Comparison, compare
from keras_svd_adapters.reports.depth_ranks import rank_by_depth
from keras_svd_adapters.reports.layer_importance import keep_layers
from keras_svd_adapters.reports.observation import Observation
from keras_svd_adapters.reports.observe import observe
from keras_svd_adapters.reports.plan import plan
from keras_svd_adapters.reports.plan_report import Plan
from keras_svd_adapters.reports.spectrum import Spectrum, spectrum
from keras_svd_adapters.training.alternation import Alternate
from keras_svd_adapters.training.continual.begin_task import begin_task
from keras_svd_adapters.training.continual.online_lora import OnlineLoRASchedule
from keras_svd_adapters.training.health import AdapterHealth
from keras_svd_adapters.training.jagged_cosine import JaggedCosine
from keras_svd_adapters.training.optimizers import install_optimizer_hooks
from keras_svd_adapters.training.projected.flora import Flora
from keras_svd_adapters.training.projected.galore import GaLore
from keras_svd_adapters.training.proximal import KeepZeros, Proximal
from keras_svd_adapters.training.rate_finder import find_learning_rate
from keras_svd_adapters.training.rate_report import LearningRates
from keras_svd_adapters.training.rates import Rates
from keras_svd_adapters.training.reinforcement.policy_gradient import reinforce
from keras_svd_adapters.training.reinforcement.report import Reinforcement
from keras_svd_adapters.training.rule import Rule
from keras_svd_adapters.training.rules import rules
from keras_svd_adapters.training.schedule import Schedule
from keras_svd_adapters.training.schedules.ada_lora import AdaLoRASchedule
from keras_svd_adapters.training.schedules.af_lora import AFLoRASchedule
from keras_svd_adapters.training.schedules.allocating_lora import AllocatingLoRASchedule
from keras_svd_adapters.training.schedules.auto_lora import AutoLoRASchedule
from keras_svd_adapters.training.schedules.drop_bp import DropBP
from keras_svd_adapters.training.schedules.dynamic_dora import DynamicDoRASchedule, RankNorms
from keras_svd_adapters.training.schedules.lora_prune import LastGradient, LoRAPruneSchedule
from keras_svd_adapters.training.schedules.pri_lora import PRILoRASchedule
from keras_svd_adapters.training.schedules.restarts import Restarts
from keras_svd_adapters.training.schedules.rose_lora import RoseLoRASchedule
from keras_svd_adapters.training.schedules.sparse_adapter import SparseAdapterSchedule
from keras_svd_adapters.training.sensitivity import Sensitivity
from keras_svd_adapters.version import __version__

install_optimizer_hooks()
install_saving_hooks()
install_backbone_methods()

__all__ = [
    "AMLoRA",
    "AFLoRASchedule",
    "AdaLoRASchedule",
    "AdapterFileError",
    "AdapterHealth",
    "AdapterPool",
    "AllocatingLoRASchedule",
    "Alternate",
    "Approximation",
    "AutoLoRASchedule",
    "BlendSearch",
    "Choice",
    "Coefficients",
    "Comparison",
    "Compensation",
    "DoRA",
    "DoRADense",
    "DropBP",
    "DynamicDoRASchedule",
    "Flora",
    "GaLore",
    "JaggedCosine",
    "KeepZeros",
    "LastGradient",
    "LearningRates",
    "LoRA",
    "LoRADense",
    "LoRAPruneSchedule",
    "LoRAXS",
    "LoRAXSDense",
    "MergeReport",
    "Method",
    "MiLoRA",
    "MiLoRADense",
    "NF4Config",
    "Observation",
    "OnlineLoRASchedule",
    "PRILoRASchedule",
    "PiSSA",
    "PiSSADense",
    "Plan",
    "Prototypes",
    "Proximal",
    "RankNorms",
    "Rates",
    "Reinforcement",
    "Restarts",
    "RoseLoRASchedule",
    "Rule",
    "SVF",
    "SVFDense",
    "SVFT",
    "SVFTDense",
    "Schedule",
    "Sensitivity",
    "Similarity",
    "Site",
    "SparseAdapterSchedule",
    "Spectrum",
    "Status",
    "TokenMixing",
    "TokenRows",
    "TokenRowsDense",
    "VeRA",
    "VeRADense",
    "XLoRA",
    "__version__",
    "begin_task",
    "classify",
    "coefficients",
    "combine",
    "compare",
    "compress",
    "delete_adapter",
    "disabled",
    "enable",
    "export_nf4",
    "export_peft",
    "extract_lora",
    "find_learning_rate",
    "from_preset",
    "generate",
    "import_nf4",
    "import_peft",
    "keep_layers",
    "load_adapter",
    "merge",
    "observe",
    "plan",
    "predict",
    "prune",
    "quantize",
    "rank_by_depth",
    "register_kernels",
    "reinforce",
    "rules",
    "save_adapter",
    "search_blend",
    "set_adapter",
    "similarity",
    "spectrum",
    "status",
    "svd_cache",
    "targets",
    "to_lora",
    "to_sparse",
    "transfer",
    "unmerge",
]


def __dir__() -> list[str]:
    return list(__all__)
