"""Turns a GGUF file, which holds a quantized model, into a directory that KerasHub reads.

The weights become float32. Knows Gemma 3 and Llama models.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA = BLOCK | {"ffn_norm": "post_attention_layernorm"}
GEMMA3 = BLOCK | {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def write_directory(source: Path, directory: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer of a GGUF file."""
    reader = gguf.GGUFReader(source)
    facts = dict(reader.fields.items())
    directory.mkdir(parents=True, exist_ok=True)
    gemma = facts["general.architecture"].contents() == "gemma3"
    config = gemma_config(facts) if gemma else llama_config(facts)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    (write_sentencepiece if gemma else write_byte_pairs)(facts, directory)
    tensors = {}
    for tensor in reader.tensors:
        name = translate(tensor.name, GEMMA3 if gemma else LLAMA)
        values = dequantize(tensor.data, tensor.tensor_type).astype("float32")
        tensors[name] = gemma_values(name, values) if gemma else llama_values(name, values, config)
    save_file(tensors, directory / "model.safetensors")


def translate(name: str, blocks: dict[str, str]) -> str:
    """`blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`."""
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{TOP[parts[0]]}.weight"
    return f"model.layers.{parts[1]}.{blocks[parts[2]]}.weight"


def gemma_values(name: str, values: np.ndarray) -> np.ndarray:
    """GGUF keeps `1 + scale` of a norm, KerasHub the scale."""
    return values - 1 if "norm" in name else values


def llama_values(name: str, values: np.ndarray, config: dict) -> np.ndarray:
    """GGUF interleaves the two halves of each head that the rotary embedding turns."""
    if "q_proj" not in name and "k_proj" not in name:
        return values
    heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
    pairs = values.reshape(heads, -1, 2, values.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def shape_config(facts: dict, kind: str) -> dict:
    def fact(name: str) -> int | float:
        return facts[f"{kind}.{name}"].contents()

    return {
        "vocab_size": len(facts["tokenizer.ggml.tokens"].data),
        "num_hidden_layers": fact("block_count"),
        "num_attention_heads": fact("attention.head_count"),
        "num_key_value_heads": fact("attention.head_count_kv"),
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "rms_norm_eps": fact("attention.layer_norm_rms_epsilon"),
    }


def llama_config(facts: dict) -> dict:
    theta = facts["llama.rope.freq_base"].contents()
    return shape_config(facts, "llama") | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": theta,
        "tie_word_embeddings": True,
    }


def gemma_config(facts: dict) -> dict:
    width = facts["gemma3.attention.key_length"].contents()
    return shape_config(facts, "gemma3") | {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": width,
        "query_pre_attn_scalar": width,
        "sliding_window": facts["gemma3.attention.sliding_window"].contents(),
    }


def write_sentencepiece(facts: dict, directory: Path) -> None:
    """GGUF and SentencePiece number the kinds of pieces alike; GGUF marks `<unk>` as control."""
    tokens, scores, kinds = (
        facts[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "scores", "token_type")
    )
    unknown = facts["tokenizer.ggml.unknown_token_id"].contents()
    model = sentencepiece_model_pb2.ModelProto()
    for index, (token, score, kind) in enumerate(zip(tokens, scores, kinds, strict=True)):
        kind = model.SentencePiece.UNKNOWN if index == unknown else kind
        model.pieces.add(piece=token.replace(" ", "\u2581"), score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type, trainer.byte_fallback = trainer.BPE, True
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = 0, 1, 2, unknown
    for spec in (model.normalizer_spec, model.denormalizer_spec):
        spec.add_dummy_prefix, spec.remove_extra_whitespaces = False, False
    model.normalizer_spec.name = "identity"
    (directory / "tokenizer.model").write_bytes(model.SerializeToString())


def write_byte_pairs(facts: dict, directory: Path) -> None:
    """tokenizer.json and tokenizer_config.json, as far as KerasHub reads them."""
    tokens, merges, kinds = (
        facts[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    special = [
        {"id": i, "content": token}
        for i, token in enumerate(tokens)
        if kinds[i] == gguf.TokenType.CONTROL
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    whole = {"model": {"vocab": vocabulary, "merges": merges}, "added_tokens": special}
    ends = {
        f"{name}_token": tokens[facts[f"tokenizer.ggml.{name}_token_id"].contents()]
        for name in ("bos", "eos")
    }
    (directory / "tokenizer.json").write_text(json.dumps(whole))
    (directory / "tokenizer_config.json").write_text(json.dumps(ends))
