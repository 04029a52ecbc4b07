"""Methods: one file per method, with its algebra."""

from keras_svd_adapters.methods.additive.abba import ABBA
from keras_svd_adapters.methods.additive.flora import FLoRA
from keras_svd_adapters.methods.additive.fourier_ft import FourierFT
from keras_svd_adapters.methods.additive.loha import LoHa
from keras_svd_adapters.methods.additive.lokr import LoKr
from keras_svd_adapters.methods.additive.loretta import LoRETTA
from keras_svd_adapters.methods.additive.melora import MELoRA
from keras_svd_adapters.methods.additive.miss import MiSS
from keras_svd_adapters.methods.attention.adaption_prompt import AdaptionPrompt
from keras_svd_adapters.methods.attention.prefix_tuning import PrefixTuning
from keras_svd_adapters.methods.attention.shifted_attention import ShiftedAttention
from keras_svd_adapters.methods.bottleneck.loretta_adapter import LoRETTAAdapter
from keras_svd_adapters.methods.bottleneck.parallel_adapter import ParallelAdapter
from keras_svd_adapters.methods.bottleneck.serial_adapter import SerialAdapter
from keras_svd_adapters.methods.gated.ada_lora import AdaLoRA
from keras_svd_adapters.methods.gated.allocating_lora import AllocatingLoRA
from keras_svd_adapters.methods.gated.auto_lora import AutoLoRA
from keras_svd_adapters.methods.gated.bi_lora import BiLoRA
from keras_svd_adapters.methods.gated.dy_lora import DyLoRA
from keras_svd_adapters.methods.gated.dynamic_dora import DynamicDoRA
from keras_svd_adapters.methods.gated.sora import SoRA
from keras_svd_adapters.methods.gated.tri_lora import TriLoRA
from keras_svd_adapters.methods.low_rank.delta_lora import DeltaLoRA
from keras_svd_adapters.methods.low_rank.dora import DoRA
from keras_svd_adapters.methods.low_rank.dude import DuDe
from keras_svd_adapters.methods.low_rank.lora import LoRA
from keras_svd_adapters.methods.low_rank.milora import MiLoRA
from keras_svd_adapters.methods.low_rank.online_lora import OnlineLoRA
from keras_svd_adapters.methods.low_rank.pissa import PiSSA
from keras_svd_adapters.methods.low_rank.qa_lora import QALoRA
from keras_svd_adapters.methods.low_rank.restarted_lora import RestartedLoRA
from keras_svd_adapters.methods.low_rank.task_lora import TaskLoRA
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.methods.multiplicative.boft import BOFT
from keras_svd_adapters.methods.multiplicative.hra import HRA
from keras_svd_adapters.methods.multiplicative.oft import OFT
from keras_svd_adapters.methods.prompts.cpt import CPT
from keras_svd_adapters.methods.prompts.p_tuning import PTuning
from keras_svd_adapters.methods.prompts.prompt_tuning import PromptTuning
from keras_svd_adapters.methods.routed.hydra_lora import HydraLoRA
from keras_svd_adapters.methods.routed.lora_pool import LoRAPool
from keras_svd_adapters.methods.routed.mola import MoLA
from keras_svd_adapters.methods.routed.molora import MoLoRA
from keras_svd_adapters.methods.routed.mov import MoV
from keras_svd_adapters.methods.shared.aflora import AFLoRA
from keras_svd_adapters.methods.shared.intrinsic_dimension import IntrinsicDimension
from keras_svd_adapters.methods.shared.lotr import LoTR
from keras_svd_adapters.methods.shared.nola import NOLA
from keras_svd_adapters.methods.shared.randlora import RandLoRA
from keras_svd_adapters.methods.shared.tied_lora import TiedLoRA
from keras_svd_adapters.methods.shared.vblora import VBLoRA
from keras_svd_adapters.methods.shared.vera import VeRA
from keras_svd_adapters.methods.sparse.diff_pruning import DiffPruning
from keras_svd_adapters.methods.sparse.lora_prune import LoRAPrune
from keras_svd_adapters.methods.sparse.pri_lora import PRILoRA
from keras_svd_adapters.methods.sparse.rose_lora import RoseLoRA
from keras_svd_adapters.methods.sparse.sparse_adapter import SparseAdapter
from keras_svd_adapters.methods.sparse.sparse_delta import SparseDelta
from keras_svd_adapters.methods.sparse.token_rows import TokenRows
from keras_svd_adapters.methods.spectral.edora import EDoRA
from keras_svd_adapters.methods.spectral.lora_sb import LoRASB
from keras_svd_adapters.methods.spectral.lora_x import LoRAX
from keras_svd_adapters.methods.spectral.lora_xs import LoRAXS
from keras_svd_adapters.methods.spectral.nested_lora_xs import NestedLoRAXS
from keras_svd_adapters.methods.spectral.pmss import PMSS
from keras_svd_adapters.methods.spectral.psoft import PSOFT
from keras_svd_adapters.methods.spectral.spectral_adapter_a import SpectralAdapterA
from keras_svd_adapters.methods.spectral.spectral_adapter_r import SpectralAdapterR
from keras_svd_adapters.methods.spectral.svdiff import SVDiff
from keras_svd_adapters.methods.spectral.svf import SVF
from keras_svd_adapters.methods.spectral.svft import SVFT
from keras_svd_adapters.methods.spectral.tiny_lora import TinyLoRA
from keras_svd_adapters.methods.vectors.bitfit import BitFit
from keras_svd_adapters.methods.vectors.ia3 import IA3
from keras_svd_adapters.methods.vectors.ln_tuning import LNTuning

__all__ = [
    "AdaLoRA",
    "AdaptionPrompt",
    "AllocatingLoRA",
    "AutoLoRA",
    "BiLoRA",
    "DyLoRA",
    "DynamicDoRA",
    "SoRA",
    "DeltaLoRA",
    "DiffPruning",
    "ABBA",
    "AFLoRA",
    "BOFT",
    "BitFit",
    "CPT",
    "DoRA",
    "DuDe",
    "EDoRA",
    "FLoRA",
    "FourierFT",
    "HRA",
    "HydraLoRA",
    "IA3",
    "IntrinsicDimension",
    "LNTuning",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoRAPool",
    "LoRAPrune",
    "LoRASB",
    "LoRAX",
    "LoRAXS",
    "LoRETTA",
    "LoRETTAAdapter",
    "LoTR",
    "MELoRA",
    "Method",
    "MiLoRA",
    "MiSS",
    "MoLA",
    "MoLoRA",
    "MoV",
    "NOLA",
    "NestedLoRAXS",
    "OFT",
    "OnlineLoRA",
    "PMSS",
    "PRILoRA",
    "PSOFT",
    "PTuning",
    "ParallelAdapter",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QALoRA",
    "RoseLoRA",
    "RandLoRA",
    "RestartedLoRA",
    "SVDiff",
    "SerialAdapter",
    "SVF",
    "SVFT",
    "ShiftedAttention",
    "SparseAdapter",
    "SparseDelta",
    "SpectralAdapterA",
    "SpectralAdapterR",
    "TaskLoRA",
    "TiedLoRA",
    "TinyLoRA",
    "TokenRows",
    "TriLoRA",
    "VBLoRA",
    "VeRA",
]
