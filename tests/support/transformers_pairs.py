"""Tiny models of HF transformers, and of KerasHub with the same weights."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import keras_hub
import numpy as np
import peft
import torch
import transformers

VOCABULARY, LENGTH = 96, 10


@dataclass(frozen=True)
class Pair:
    """A model of each library with the same weights, and one input in the form of each.

    Args:
        keras: A task or backbone of KerasHub.
        transformers: The same model of transformers.
        keras_inputs: What `keras` takes.
        transformers_inputs: The same, as `transformers` takes it.
    """

    keras: keras.Model
    transformers: transformers.PreTrainedModel
    keras_inputs: np.ndarray | dict[str, np.ndarray]
    transformers_inputs: dict[str, torch.Tensor]

    def keras_outputs(self) -> np.ndarray:
        """Logits of a language model, last hidden state of an encoder."""
        y = self.keras(self.keras_inputs)
        return keras.ops.convert_to_numpy(y["sequence_output"] if isinstance(y, dict) else y)

    def transformers_outputs(self, model: transformers.PreTrainedModel | None = None) -> np.ndarray:
        """Likewise, of the model of this pair or of another one of its class."""
        with torch.no_grad():
            y = (model or self.transformers)(**self.transformers_inputs)
        return (y.logits if "logits" in y else y.last_hidden_state).numpy()


def settle(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Gives every weight, norms and biases too, random values that float16 holds."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            value = noise if parameter.ndim > 1 else parameter + noise
            parameter.copy_(value.half())  # to which KerasHub's converter casts those of Mistral
    return model.eval()


def tokens() -> np.ndarray:
    return np.random.default_rng(5).integers(4, VOCABULARY, (2, LENGTH)).astype("int32")


def text(
    keras_class: type, hf: transformers.PreTrainedModel, directory: Path, segments: bool = False
) -> Pair:
    """A pair that reads tokens, of a task of KerasHub or of a backbone."""
    hf.save_pretrained(directory)
    task = issubclass(keras_class, keras_hub.models.Task)
    options = {"preprocessor": None} if task else {}
    model = keras_class.from_preset(str(directory), dtype="float32", **options)
    ids = np.random.default_rng(5).integers(4, VOCABULARY, (2, LENGTH)).astype("int32")
    ours = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    theirs = {"input_ids": torch.tensor(ids)}
    if segments:
        ours["segment_ids"] = np.where(np.arange(LENGTH) > 3, np.ones_like(ids), 0)
        theirs["token_type_ids"] = torch.tensor(ours["segment_ids"])
    return Pair(model, hf if task else hf.base_model, ours, theirs)


BLOCKS = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ENCODER = BLOCKS | {"vocab_size": VOCABULARY}
DECODER = ENCODER | {"num_key_value_heads": 2, "max_position_embeddings": 64}


def llama(directory: Path) -> Pair:
    config = transformers.LlamaConfig(
        **DECODER,
        rms_norm_eps=1e-6,  # KerasHub's converter drops it
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    model = settle(transformers.LlamaForCausalLM(config))
    return text(keras_hub.models.Llama3CausalLM, model, directory)


def gemma3(directory: Path) -> Pair:
    config = transformers.Gemma3TextConfig(
        **DECODER | {"num_hidden_layers": 6},  # the sixth is KerasHub's first without a window
        head_dim=8,
        query_pre_attn_scalar=8,  # KerasHub divides by head_dim, whatever the config says
        sliding_window=4,
    )
    model = settle(transformers.Gemma3ForCausalLM(config))
    return text(keras_hub.models.Gemma3CausalLM, model, directory)


def bert(directory: Path) -> Pair:
    config = transformers.BertConfig(
        **ENCODER,
        max_position_embeddings=16,
        hidden_act="gelu_new",  # KerasHub has the one with tanh, whatever the config says
    )
    model = settle(transformers.BertModel(config))
    return text(keras_hub.models.BertBackbone, model, directory, segments=True)


def mistral(directory: Path) -> Pair:
    config = transformers.MistralConfig(**DECODER, head_dim=8, sliding_window=4)
    model = settle(transformers.MistralForCausalLM(config))
    return text(keras_hub.models.MistralCausalLM, model, directory)


def qwen2(directory: Path) -> Pair:
    config = transformers.Qwen2Config(**DECODER)
    model = settle(transformers.Qwen2ForCausalLM(config))
    return text(keras_hub.models.QwenCausalLM, model, directory)


def gemma(directory: Path) -> Pair:
    config = transformers.GemmaConfig(**DECODER, head_dim=8)
    model = settle(transformers.GemmaForCausalLM(config))
    return text(keras_hub.models.GemmaCausalLM, model, directory)


def gemma2(directory: Path) -> Pair:
    config = transformers.Gemma2Config(
        **DECODER, head_dim=8, query_pre_attn_scalar=8, sliding_window=4
    )
    model = settle(transformers.Gemma2ForCausalLM(config))
    return text(keras_hub.models.GemmaCausalLM, model, directory)


def qwen3(directory: Path) -> Pair:
    # KerasHub norms queries and keys with 1e-5, whatever the config says.
    config = transformers.Qwen3Config(**DECODER, head_dim=8, rms_norm_eps=1e-5)
    model = settle(transformers.Qwen3ForCausalLM(config))
    return text(keras_hub.models.Qwen3CausalLM, model, directory)


def vit(directory: Path) -> Pair:
    config = transformers.ViTConfig(
        **BLOCKS,
        image_size=12,  # as many tokens as the texts have, so that XLA compiles less
        patch_size=4,
        layer_norm_eps=1e-6,  # KerasHub's converter drops it
    )
    hf = settle(transformers.ViTForImageClassification(config))
    hf.save_pretrained(directory)
    backbone = keras_hub.models.ViTBackbone.from_preset(str(directory), dtype="float32")
    image = np.random.default_rng(1).normal(size=(2, 12, 12, 3)).astype("float32")
    theirs = {"pixel_values": torch.tensor(image.transpose(0, 3, 1, 2))}
    return Pair(backbone, hf.base_model, image, theirs)


def roberta(directory: Path) -> Pair:
    config = transformers.RobertaConfig(
        **ENCODER,
        max_position_embeddings=18,
        layer_norm_eps=1e-5,  # KerasHub's converter drops it
        type_vocab_size=1,
    )
    model = settle(transformers.RobertaForMaskedLM(config))
    model.base_model.embeddings.token_type_embeddings.weight.data.zero_()  # KerasHub has none
    return text(keras_hub.models.RobertaBackbone, model, directory)


def distilbert(directory: Path) -> Pair:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=24,
        hidden_dim=40,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=16,
    )
    model = settle(transformers.DistilBertForMaskedLM(config))
    return text(keras_hub.models.DistilBertBackbone, model, directory)


PAIRS: dict[str, Callable[[Path], Pair]] = {
    "llama": llama,
    "gemma3": gemma3,
    "bert": bert,
    "mistral": mistral,
    "qwen2": qwen2,
    "gemma": gemma,
    "gemma2": gemma2,
    "qwen3": qwen3,
    "vit": vit,
    "roberta": roberta,
    "distilbert": distilbert,
}


def in_peft(pair: Pair, directory: Path) -> np.ndarray:
    """The outputs of the transformers model with the adapter that PEFT finds there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's way to report missing tensors
        for harmless in (
            "Failed to load the CUDA extension",  # of BOFT
            "Setting boft_n_butterfly_factor",
            "Unsupported layer type .*Norm",  # of LN tuning
        ):
            warnings.filterwarnings("ignore", message=harmless)
        model = peft.PeftModel.from_pretrained(copy.deepcopy(pair.transformers), str(directory))
    return pair.transformers_outputs(model.eval())
