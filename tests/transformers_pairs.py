"""Tiny models of HF transformers, and of KerasHub with the same weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import keras_hub
import numpy as np
import torch
import transformers

VOCABULARY, LENGTH = 96, 9


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
    """Gives every weight, norms and biases too, random values; exact in float16, as a cast asks."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            value = noise if parameter.ndim > 1 else parameter + noise
            parameter.copy_(value.half())  # KerasHub casts the weights of Mistral to float16
        for name, parameter in model.named_parameters():
            if model.config.model_type == "roberta" and "token_type" in name:
                parameter.zero_()  # KerasHub has none
    return model.float().eval()


def tokens() -> np.ndarray:
    return np.random.default_rng(5).integers(4, VOCABULARY, (2, LENGTH)).astype("int32")


def causal(keras_class: type, hf: transformers.PreTrainedModel, directory: Path) -> Pair:
    settle(hf).save_pretrained(directory)
    task = keras_class.from_preset(str(directory), preprocessor=None, dtype="float32")
    ids = tokens()
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return Pair(task, hf, inputs, {"input_ids": torch.tensor(ids.astype("int64"))})


def encoder(
    keras_class: type, hf: transformers.PreTrainedModel, directory: Path, segments: bool = False
) -> Pair:
    settle(hf).save_pretrained(directory)
    backbone = keras_class.from_preset(str(directory), dtype="float32")
    ids = tokens()
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    theirs = {"input_ids": torch.tensor(ids.astype("int64"))}
    if segments:
        inputs["segment_ids"] = (np.arange(LENGTH) > 3).astype("int32") * np.ones_like(ids)
        theirs["token_type_ids"] = torch.tensor(inputs["segment_ids"].astype("int64"))
    return Pair(backbone, hf.base_model, inputs, theirs)


DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def llama(directory: Path) -> Pair:
    config = transformers.LlamaConfig(
        **DECODER,
        rms_norm_eps=1e-6,  # KerasHub's converter drops it
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    return causal(keras_hub.models.Llama3CausalLM, transformers.LlamaForCausalLM(config), directory)


def gemma3(directory: Path) -> Pair:
    config = transformers.Gemma3TextConfig(
        **DECODER | {"num_hidden_layers": 6},  # the sixth is KerasHub's first without a window
        head_dim=8,
        query_pre_attn_scalar=8,  # KerasHub divides by head_dim, whatever the config says
        sliding_window=4,
    )
    return causal(
        keras_hub.models.Gemma3CausalLM, transformers.Gemma3ForCausalLM(config), directory
    )


def bert(directory: Path) -> Pair:
    config = transformers.BertConfig(
        **ENCODER,
        max_position_embeddings=16,
        hidden_act="gelu_new",  # KerasHub has the one with tanh, whatever the config says
    )
    model = transformers.BertModel(config)
    return encoder(keras_hub.models.BertBackbone, model, directory, segments=True)


def mistral(directory: Path) -> Pair:
    config = transformers.MistralConfig(**DECODER, head_dim=8, sliding_window=4)
    return causal(
        keras_hub.models.MistralCausalLM, transformers.MistralForCausalLM(config), directory
    )


def qwen2(directory: Path) -> Pair:
    config = transformers.Qwen2Config(**DECODER)
    return causal(keras_hub.models.QwenCausalLM, transformers.Qwen2ForCausalLM(config), directory)


def gemma(directory: Path) -> Pair:
    config = transformers.GemmaConfig(**DECODER, head_dim=8)
    return causal(keras_hub.models.GemmaCausalLM, transformers.GemmaForCausalLM(config), directory)


def qwen3(directory: Path) -> Pair:
    # KerasHub norms queries and keys with 1e-5, whatever the config says.
    config = transformers.Qwen3Config(**DECODER, head_dim=8, rms_norm_eps=1e-5)
    return causal(keras_hub.models.Qwen3CausalLM, transformers.Qwen3ForCausalLM(config), directory)


def vit(directory: Path) -> Pair:
    config = transformers.ViTConfig(
        **{name: value for name, value in ENCODER.items() if name != "vocab_size"},
        image_size=16,
        patch_size=4,
        layer_norm_eps=1e-6,  # KerasHub's converter drops it
    )
    hf = settle(transformers.ViTForImageClassification(config))
    hf.save_pretrained(directory)
    backbone = keras_hub.models.ViTBackbone.from_preset(str(directory), dtype="float32")
    image = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype("float32")
    theirs = {"pixel_values": torch.tensor(image.transpose(0, 3, 1, 2))}
    return Pair(backbone, hf.base_model, image, theirs)


def roberta(directory: Path) -> Pair:
    config = transformers.RobertaConfig(
        **ENCODER,
        max_position_embeddings=18,
        layer_norm_eps=1e-5,  # KerasHub's converter drops it
        type_vocab_size=1,
    )
    model = transformers.RobertaForMaskedLM(config)
    return encoder(keras_hub.models.RobertaBackbone, model, directory)


def distilbert(directory: Path) -> Pair:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=24,
        hidden_dim=40,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=16,
    )
    return encoder(
        keras_hub.models.DistilBertBackbone, transformers.DistilBertForMaskedLM(config), directory
    )


PAIRS: dict[str, Callable[[Path], Pair]] = {
    "llama": llama,
    "gemma3": gemma3,
    "bert": bert,
    "mistral": mistral,
    "qwen2": qwen2,
    "gemma": gemma,
    "qwen3": qwen3,
    "vit": vit,
    "roberta": roberta,
    "distilbert": distilbert,
}
