"""The names of KerasHub's architectures in transformers.

In all of these families, a transformers weight is the transpose of a kernel as a matrix: both
sides order the heads in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Family:
    """The names of one architecture on both sides; `{}` is a placeholder for a block number.

    Args:
        kernels: For a path in the backbone, the module in the bare transformers model.
        prefix: The name of the bare model within a model that has a head.
        task_type: PEFT's name for the task of the model with a head.
        heads: For a path in a KerasHub task, the module in the model with a head.
        first_block: The number of the first block in KerasHub; in transformers it is 0.
        vectors: As `kernels`, for layers that exchange only a bias, a scale or a shift.
        older: As both, with the names of transformers before 5; these are read as well.
    """

    kernels: dict[str, str]
    prefix: str = "model"
    task_type: str | None = "CAUSAL_LM"
    heads: dict[str, str] = field(default_factory=dict)
    first_block: int = 0
    vectors: dict[str, str] = field(default_factory=dict)
    older: dict[str, str] = field(default_factory=dict)


def _under(path: str, module: str, names: dict[str, str]) -> dict[str, str]:
    """Return the names below a block on both sides."""
    return {f"{path}/{ours}": f"{module}.{theirs}" for ours, theirs in names.items()}


ATTENTION = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
}
GATED = {
    "feedforward_gate_dense": "mlp.gate_proj",
    "feedforward_intermediate_dense": "mlp.up_proj",
    "feedforward_output_dense": "mlp.down_proj",
}
TABLE = {"token_embedding": "embed_tokens"}
DECODER_NORMS = {
    "self_attention_layernorm": "input_layernorm",
    "feedforward_layernorm": "post_attention_layernorm",
    "self_attention/query_dense_layernorm": "self_attn.q_norm",
    "self_attention/key_dense_layernorm": "self_attn.k_norm",
}
LLAMA = Family(
    TABLE
    | _under("transformer_layer_{}/self_attention", "layers.{}", ATTENTION)
    | _under("transformer_layer_{}", "layers.{}", GATED),
    vectors=_under("transformer_layer_{}", "layers.{}", DECODER_NORMS)
    | {"sequence_output_layernorm": "norm"},
)
GEMMA = Family(
    TABLE
    | _under("decoder_block_{}/attention", "layers.{}", ATTENTION)
    | _under(
        "decoder_block_{}",
        "layers.{}.mlp",
        {"ffw_gating": "gate_proj", "ffw_gating_2": "up_proj", "ffw_linear": "down_proj"},
    ),
    vectors={
        "decoder_block_{}/pre_attention_norm": "layers.{}.input_layernorm",
        "decoder_block_{}/pre_ffw_norm": "layers.{}.post_attention_layernorm",
        "final_normalization": "norm",
    },
)
GEMMA_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "attention/query_norm": "self_attn.q_norm",
    "attention/key_norm": "self_attn.k_norm",
}
GEMMA_3 = replace(  # Gemma 2 as well, which has a norm after each part of a block
    GEMMA,
    vectors=_under("decoder_block_{}", "layers.{}", GEMMA_NORMS) | {"final_normalization": "norm"},
)
ENCODER_ATTENTION = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
}
ENCODER_MLP = {
    "feedforward_intermediate_dense": "intermediate.dense",
    "feedforward_output_dense": "output.dense",
}
ENCODER_NORMS = _under(
    "transformer_layer_{}",
    "encoder.layer.{}",
    {
        "self_attention_layer_norm": "attention.output.LayerNorm",
        "feedforward_layer_norm": "output.LayerNorm",
    },
) | {"embeddings_layer_norm": "embeddings.LayerNorm"}
ENCODER = _under(
    "transformer_layer_{}/self_attention_layer", "encoder.layer.{}", ENCODER_ATTENTION
) | _under("transformer_layer_{}", "encoder.layer.{}", ENCODER_MLP)
BERT = Family(
    ENCODER | {"token_embedding": "embeddings.word_embeddings", "pooled_dense": "pooler.dense"},
    "bert",
    "SEQ_CLS",
    {"logits": "classifier"},
    vectors=ENCODER_NORMS,
)
ROBERTA = Family(
    ENCODER | {"embeddings/token_embedding": "embeddings.word_embeddings"},
    "roberta",
    "SEQ_CLS",
    {"pooled_dense": "classifier.dense", "logits": "classifier.out_proj"},
    vectors=ENCODER_NORMS,
)
DISTILBERT = Family(
    _under(
        "transformer_layer_{}/self_attention_layer",
        "transformer.layer.{}.attention",
        {"query": "q_lin", "key": "k_lin", "value": "v_lin", "attention_output": "out_lin"},
    )
    | _under(
        "transformer_layer_{}",
        "transformer.layer.{}.ffn",
        {"feedforward_intermediate_dense": "lin1", "feedforward_output_dense": "lin2"},
    )
    | {"token_and_position_embedding/token_embedding": "embeddings.word_embeddings"},
    "distilbert",
    "SEQ_CLS",
    {"pooled_dense": "pre_classifier", "logits": "classifier"},
    vectors=_under(
        "transformer_layer_{}",
        "transformer.layer.{}",
        {
            "self_attention_layer_norm": "sa_layer_norm",
            "feedforward_layer_norm": "output_layer_norm",
        },
    )
    | {"embeddings_layer_norm": "embeddings.LayerNorm"},
)
VIT_NAMES = {
    "mha/query": "attention.q_proj",
    "mha/key": "attention.k_proj",
    "mha/value": "attention.v_proj",
    "mha/attention_output": "attention.o_proj",
    "mlp/dense_1": "mlp.fc1",
    "mlp/dense_2": "mlp.fc2",
}
VIT_NORMS = {"ln_1": "layernorm_before", "ln_2": "layernorm_after"}
OLDER_VIT_NAMES = {
    "mha/query": "attention.attention.query",
    "mha/key": "attention.attention.key",
    "mha/value": "attention.attention.value",
    "mha/attention_output": "attention.output.dense",
    "mlp/dense_1": "intermediate.dense",
    "mlp/dense_2": "output.dense",
}


def _in_vit(module: str, names: dict[str, str]) -> dict[str, str]:
    """Return the names below a block of ViT, whose own name KerasHub corrected in 0.26."""
    blocks = "vit_encoder/transformer_block_{}", "vit_encoder/tranformer_block_{}"
    return _under(blocks[0], module, names) | _under(blocks[1], module, names)


VIT = Family(
    _in_vit("layers.{}", VIT_NAMES),
    "vit",
    None,
    {"predictions": "classifier"},
    first_block=1,
    vectors=_in_vit("layers.{}", VIT_NORMS)
    | {
        "vit_encoder/ln": "layernorm",
        "vit_patching_and_embedding/patch_embedding": "embeddings.patch_embeddings.projection",
    },
    older=_in_vit("encoder.layer.{}", OLDER_VIT_NAMES | VIT_NORMS),
)
FAMILIES = {
    "LlamaBackbone": LLAMA,
    "MistralBackbone": LLAMA,
    "QwenBackbone": LLAMA,
    "Qwen3Backbone": LLAMA,
    "GemmaBackbone": GEMMA,
    "Gemma3Backbone": GEMMA_3,
    "BertBackbone": BERT,
    "RobertaBackbone": ROBERTA,
    "DistilBertBackbone": DISTILBERT,
    "ViTBackbone": VIT,
}
