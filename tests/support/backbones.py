"""A tiny instance of every backbone that KerasHub exports, with inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import keras_hub
import numpy as np
from keras_hub.src.models.qwen3_5.qwen3_5_vision_encoder import Qwen3_5VisionEncoder
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

models, layers = keras_hub.models, keras_hub.layers
Built = tuple[models.Backbone, Any]

BATCH, LENGTH, VOCABULARY = 2, 8, 40

WIDTHS = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24}
TEXT = {"vocabulary_size": VOCABULARY, **WIDTHS}
HEADS = {"num_heads": 2}
SHORT = {"max_sequence_length": LENGTH}
GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2}
EXPERTS = {"num_experts": 3, "top_k": 2}
IMAGE = {"image_shape": (32, 32, 3)}
PATCHES = {"image_shape": (16, 16, 3), "patch_size": 4}
GEMMA = {**TEXT, **GROUPED, "head_dim": 8}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
T5GEMMA = {
    "vocabulary_size": VOCABULARY,
    **{
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {
            **WIDTHS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        }.items()
    },
    "sliding_window": 4,
    "cross_attention_hidden_size": 16,
}
SMOLLM = {
    **TEXT,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rope_layer_enabled_list": [True, False],
    "layer_types": ["full_attention"] * 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 32,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
}
CLIP_TEXT = {**TEXT, **HEADS, **SHORT, "embedding_dim": 16}
VISION = {**WIDTHS, **HEADS, **PATCHES}
RESNET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 8, 8, 16],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
HGNET = {
    "depths": [2, 2],
    "embedding_size": 8,
    "hidden_sizes": [16, 16],
    "stem_channels": [3, 8, 8],
    "hidden_act": "relu",
    "use_learnable_affine_block": True,
    "stackwise_stage_filters": [[8, 8, 16, 2, 2, 3], [16, 8, 16, 2, 2, 3]],
    "apply_downsample": [False, True],
    "use_lightweight_conv_block": [False, True],
}
MIT = {
    "image_shape": (64, 64, 3),
    "num_layers": 4,
    "hidden_dims": [8, 12, 16, 20],
    "layerwise_depths": [2, 2, 2, 2],
    "layerwise_num_heads": [1, 1, 2, 2],
    "layerwise_sr_ratios": [4, 2, 1, 1],
    "layerwise_patch_sizes": [7, 3, 3, 3],
    "layerwise_strides": [4, 2, 2, 2],
    "max_drop_path_rate": 0.1,
}
MOBILENET_V5 = {
    "stackwise_num_blocks": [2, 4],
    "stackwise_block_types": [["er", "er"], ["uir", "uir", "mqa", "mqa"]],
    "stackwise_num_filters": [[8, 8], [16, 16, 16, 16]],
    "stackwise_strides": [[2, 1], [2, 1, 1, 1]],
    "stackwise_act_layers": [["relu"] * 2, ["relu"] * 4],
    "stackwise_exp_ratios": [[2.0] * 2, [2.0] * 4],
    "stackwise_se_ratios": [[0.0] * 2, [0.0] * 4],
    "stackwise_dw_kernel_sizes": [[0, 0], [3, 3, 3, 3]],
    "stackwise_dw_start_kernel_sizes": [[0] * 2, [0] * 4],
    "stackwise_dw_end_kernel_sizes": [[0] * 2, [0] * 4],
    "stackwise_exp_kernel_sizes": [[3, 3], [0, 0, 0, 0]],
    "stackwise_pw_kernel_sizes": [[1, 1], [0, 0, 0, 0]],
    "stackwise_num_heads": [[0, 0], [0, 0, 2, 2]],
    "stackwise_key_dims": [[0, 0], [0, 0, 8, 8]],
    "stackwise_value_dims": [[0, 0], [0, 0, 8, 8]],
    "stackwise_kv_strides": [[0, 0], [0, 0, 1, 1]],
    "stackwise_use_cpe": [[False] * 2, [False] * 4],
    "stem_size": 8,
    "num_features": 16,
    "msfa_output_resolution": 4,
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    # Text encoders.
    "AlbertBackbone": {**TEXT, **HEADS, **SHORT, "embedding_dim": 8, "num_inner_repetitions": 2},
    "BertBackbone": {**TEXT, **HEADS, **SHORT},
    "DebertaV3Backbone": {**TEXT, **HEADS, **SHORT, "bucket_size": 8},
    "DistilBertBackbone": {**TEXT, **HEADS, **SHORT},
    "ElectraBackbone": {"vocab_size": VOCABULARY, **WIDTHS, **HEADS, **SHORT, "embedding_dim": 8},
    "ESM2Backbone": {**TEXT, **HEADS, **SHORT},
    "ESMBackbone": {**TEXT, **HEADS, **SHORT, "position_embedding_type": "absolute"},
    "FNetBackbone": {**TEXT, **SHORT},
    "RobertaBackbone": {**TEXT, **HEADS, **SHORT},
    "RoformerV2Backbone": {**TEXT, **HEADS, "head_size": 8},
    "XLMRobertaBackbone": {**TEXT, **HEADS, **SHORT},
    "XLNetBackbone": {**TEXT, **HEADS},
    "CLIPTextEncoder": CLIP_TEXT,
    "MetaCLIP2TextEncoder": CLIP_TEXT,
    "SigLIPTextEncoder": CLIP_TEXT,
    # Text decoders.
    "BloomBackbone": {**TEXT, **HEADS},
    "FalconBackbone": {**TEXT, "num_attention_heads": 2},
    "GPT2Backbone": {**TEXT, **HEADS, **SHORT},
    "GPTNeoXBackbone": {**TEXT, **HEADS, "rotary_percentage": 0.5},
    "GemmaBackbone": GEMMA,
    "Llama3Backbone": {**TEXT, **GROUPED},
    "LlamaBackbone": {**TEXT, **GROUPED},
    "MistralBackbone": {**TEXT, **GROUPED},
    "OPTBackbone": {**TEXT, **HEADS, **SHORT},
    "Phi3Backbone": {**TEXT, **GROUPED},
    "Qwen2Backbone": {**TEXT, **GROUPED},
    "Qwen3Backbone": GEMMA,
    "QwenBackbone": {**TEXT, **GROUPED, "tie_word_embeddings": False},
    "RWKV7Backbone": {
        "vocabulary_size": VOCABULARY,
        "num_layers": 2,
        "hidden_size": 16,
        "head_size": 8,
        "intermediate_dim": 24,
        "gate_lora": 4,
        "mv_lora": 4,
        "aaa_lora": 4,
        "decay_lora": 4,
    },
    "SmolLM3Backbone": SMOLLM,
    "SmolLMBackbone": SMOLLM,
    # Text decoders with experts.
    "GptOssBackbone": {**TEXT, **GROUPED, **EXPERTS, "head_dim": 8},
    "MixtralBackbone": {**TEXT, **GROUPED, **EXPERTS},
    "Qwen3MoeBackbone": {**GEMMA, **EXPERTS, "moe_intermediate_dim": 12},
    "QwenMoeBackbone": {
        **TEXT,
        **GROUPED,
        **EXPERTS,
        "moe_intermediate_dim": 12,
        "shared_expert_intermediate_dim": 20,
    },
    "Qwen3_5MoeBackbone": {
        "vocabulary_size": VOCABULARY,
        **GROUPED,
        **EXPERTS,
        **LINEAR_ATTENTION,
        "num_layers": 4,
        "hidden_dim": 16,
        "head_dim": 8,
        "moe_intermediate_dim": 12,
        "shared_expert_intermediate_size": 20,
    },
    # Text encoders with decoders.
    "BartBackbone": {**TEXT, **HEADS, **SHORT},
    "EdRecBackbone": {
        "vocab_size": VOCABULARY,
        "num_layers_enc": 2,
        "num_layers_dec": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
        **HEADS,
    },
    "T5Backbone": {**TEXT, **HEADS},
    "T5GemmaBackbone": T5GEMMA,
    # Sound to text.
    "WhisperBackbone": {
        **TEXT,
        **HEADS,
        "num_mels": 8,
        "max_encoder_sequence_length": LENGTH,
        "max_decoder_sequence_length": LENGTH,
    },
    # Vision transformers.
    "CLIPVisionEncoder": VISION,
    "MetaCLIP2VisionEncoder": VISION,
    "SigLIPVisionEncoder": VISION,
    "DeiTBackbone": VISION,
    "DINOV2Backbone": {**VISION, "position_embedding_shape": (16, 16)},
    "DINOV3Backbone": VISION,
    "MiTBackbone": MIT,
    "SwinTransformerBackbone": {
        "image_shape": (16, 16, 3),
        "patch_size": 2,
        "embed_dim": 8,
        "depths": (2, 2),
        "num_heads": (2, 2),
        "window_size": 4,
    },
    "VideoPrismBackbone": {
        **PATCHES,
        **HEADS,
        "num_frames": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
        "num_spatial_layers": 2,
        "num_temporal_layers": 2,
        "num_auxiliary_layers": 2,
        "vocabulary_size": VOCABULARY,
        "num_text_layers": 2,
    },
    "ViTBackbone": {**PATCHES, **HEADS, "num_layers": 2, "hidden_dim": 16, "mlp_dim": 24},
    "ViTDetBackbone": {
        **PATCHES,
        **HEADS,
        "hidden_size": 16,
        "num_layers": 2,
        "intermediate_dim": 24,
        "global_attention_layer_indices": [1],
        "num_output_channels": 8,
        "window_size": 2,
    },
    # Convolutional networks.
    "CSPNetBackbone": {
        **IMAGE,
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 1,
        "stackwise_depth": [2, 2],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 16],
        "block_type": "dark_block",
        "stage_type": "csp",
        "block_ratio": [0.5],
    },
    "DenseNetBackbone": {**IMAGE, "stackwise_num_repeats": [2, 2, 2], "growth_rate": 4},
    "EfficientNetBackbone": {
        "input_shape": (32, 32, 3),
        "stackwise_width_coefficients": [1.0, 1.0],
        "stackwise_depth_coefficients": [1.0, 1.0],
        "stackwise_kernel_sizes": [3, 3],
        "stackwise_num_repeats": [2, 2],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16],
        "stackwise_expansion_ratios": [2, 2],
        "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
        "stackwise_strides": [2, 2],
        "stackwise_block_types": ["fused", "unfused"],
        "num_features": 16,
    },
    "HGNetV2Backbone": {**HGNET, **IMAGE},
    "MobileNetBackbone": {
        **IMAGE,
        "stackwise_num_blocks": [2],
        "stackwise_expansion": [[16, 16]],
        "stackwise_num_filters": [[8, 8]],
        "stackwise_kernel_size": [[3, 3]],
        "stackwise_num_strides": [[2, 1]],
        "stackwise_se_ratio": [[0.25, 0.25]],
        "stackwise_activation": [["relu", "relu"]],
        "stackwise_padding": [[1, 1]],
        "input_num_filters": 8,
        "output_num_filters": 16,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 16,
        "squeeze_and_excite": 0.5,
    },
    "MobileNetV5Backbone": {**MOBILENET_V5, **IMAGE},
    "ResNetBackbone": {**RESNET, **IMAGE},
    "VGGBackbone": {**IMAGE, "stackwise_num_repeats": [2, 2], "stackwise_num_filters": [8, 16]},
    "XceptionBackbone": {
        **IMAGE,
        "stackwise_conv_filters": [[8, 8], [16, 16]],
        "stackwise_pooling": [True, False],
    },
    # Diffusion.
    "FluxBackbone": {
        "input_channels": 8,
        "hidden_size": 16,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [2, 2, 4],
        "theta": 10000,
        "use_bias": True,
        "guidance_embed": True,
        "image_shape": (LENGTH, 8),
        "text_shape": (LENGTH, 8),
        "image_ids_shape": (LENGTH, 3),
        "text_ids_shape": (LENGTH, 3),
        "y_shape": (16,),
    },
}


def random_inputs(backbone: models.Backbone, given: dict[str, Any]) -> Any:
    """An array for every input of a backbone: of `given` by its name, else random.

    Args:
        backbone: The backbone.
        given: Arrays, or shapes where the backbone leaves sizes open; an open
            size is `LENGTH` otherwise.
    """
    generator = np.random.default_rng(0)

    def array(tensor: keras.KerasTensor) -> np.ndarray:
        wanted = given.get(tensor.name)
        if isinstance(wanted, np.ndarray):
            return wanted
        shape = wanted or (BATCH, *(LENGTH if size is None else size for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" not in tensor.dtype:
            return generator.uniform(size=shape).astype(tensor.dtype)
        count = 2 if "segment" in tensor.name else VOCABULARY
        return generator.integers(count, size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(array, backbone.input)


def tiny(name: str, arguments: dict[str, Any], **given: Any) -> Built:
    """A backbone by the name of its class, and its inputs."""
    backbone = getattr(models, name)(**arguments)
    generator = np.random.default_rng(0)
    for weight in backbone.trainable_weights:  # behind one that starts at 0, nothing would matter
        weight.assign_add(generator.normal(0, 0.1, weight.shape).astype("float32"))
    return backbone, random_inputs(backbone, given)


def tokens_at(kind: str, *positions: int) -> dict[str, np.ndarray]:
    """The places of the tokens of an image or a sound in the text, and the mask of these."""
    mask = np.isin(np.arange(LENGTH), positions)
    return {
        f"{kind}_indices": np.tile(np.array(positions, "int32"), (BATCH, 1)),
        f"{kind}_mask": np.tile(mask.astype("int32"), (BATCH, 1)),
    }


def basnet() -> Built:
    bottleneck = {"input_conv_filters": [8], "block_type": "bottleneck_block"}
    arguments = {
        "image_encoder": models.ResNetBackbone(**{**RESNET, **bottleneck}),
        "image_shape": (32, 32, 3),
        "num_classes": 1,
        "projection_filters": 8,
    }
    return tiny("BASNetBackbone", arguments)


def blip2() -> Built:
    vision = models.BLIP2VisionEncoder(
        **WIDTHS,
        **HEADS,
        image_size=16,
        patch_size=4,
        use_patch_bias=True,
        use_class_token=True,
        use_mha_bias=True,
        use_mlp_bias=True,
        dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
        initializer_range=0.02,
    )
    qformer = models.BLIP2QFormer(
        **WIDTHS,
        **HEADS,
        num_query_tokens=4,
        vision_dim=16,
        cross_attention_frequency=2,
        dropout=0.0,
        layer_norm_epsilon=1e-6,
    )
    language = models.BLIP2CustomOPT(
        **TEXT,
        **HEADS,
        num_query_tokens=4,
        dropout=0.0,
        max_sequence_length=32,
        qformer_hidden_dim=16,
    )
    arguments = {"vision_encoder": vision, "qformer": qformer, "language_model": language}
    return tiny("BLIP2Backbone", arguments)


def two_towers(family: str, **arguments: Any) -> Built:
    vision = getattr(models, f"{family}VisionEncoder")(**VISION)
    text = getattr(models, f"{family}TextEncoder")(**CLIP_TEXT)
    arguments = {**arguments, "vision_encoder": vision, "text_encoder": text}
    return tiny(f"{family}Backbone", arguments)


def d_fine() -> Built:
    encoder = models.HGNetV2Backbone(
        **HGNET, image_shape=(None, None, 3), out_features=["stage1", "stage2"]
    )
    arguments = {
        "backbone": encoder,
        "image_shape": (64, 64, 3),
        "anchor_image_size": (64, 64),
        "out_features": ["stage1", "stage2"],
        "feat_strides": [4, 8],
        "num_feature_levels": 2,
        "encoder_in_channels": [16, 16],
        "decoder_in_channels": [16, 16],
        "encoder_hidden_dim": 16,
        "hidden_dim": 16,
        "encode_proj_layers": [1],
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "lqe_hidden_dim": 8,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_lqe_layers": 2,
        "num_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_n_points": [2, 2],
        "hidden_expansion": 0.5,
        "depth_multiplier": 0.5,
        "eval_idx": -1,
        "num_labels": 4,
        "num_queries": 6,
        "num_denoising": 0,
        "learn_initial_query": False,
        "seed": 0,
    }
    return tiny("DFineBackbone", arguments)


def deep_lab() -> Built:
    arguments = {
        **IMAGE,
        "image_encoder": models.ResNetBackbone(**RESNET),
        "spatial_pyramid_pooling_key": "P4",
        "low_level_feature_key": "P2",
        "upsampling_size": 4,
        "dilation_rates": [1, 2],
        "projection_filters": 8,
    }
    return tiny("DeepLabV3Backbone", arguments)


def depth_anything() -> Built:
    encoder = models.DINOV2Backbone(
        **{**VISION, **IMAGE, "num_layers": 4}, position_embedding_shape=(32, 32)
    )
    arguments = {
        "image_encoder": encoder,
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_dims": [8, 8, 8, 8],
        "fusion_hidden_dim": 8,
        "head_hidden_dim": 8,
        "head_in_index": -1,
        "feature_keys": ["stage1", "stage2", "stage3", "stage4"],
    }
    return tiny("DepthAnythingBackbone", arguments)


def feature_pyramid() -> Built:
    image = keras.Input((16, 16, 3))
    levels = [image]
    for _ in range(2):
        levels.append(keras.layers.Conv2D(8, 3, strides=2, padding="same")(levels[-1]))
    return tiny("FeaturePyramidBackbone", {"inputs": image, "outputs": levels[-1]})


def gemma3_vision() -> keras.Model:
    return models.Gemma3VisionEncoder(
        **WIDTHS, **HEADS, image_size=16, patch_size=4, pool_size=2, output_dim=16
    )


def gemma3() -> Built:
    arguments = {**GEMMA, "image_size": 16, "vision_encoder": gemma3_vision()}
    given = {"images": (BATCH, 1, 16, 16, 3), **tokens_at("vision", 1, 2, 3, 4)}
    return tiny("Gemma3Backbone", arguments, **given)


def t5gemma2() -> Built:
    arguments = {
        **T5GEMMA,
        "vision_encoder": gemma3_vision(),
        "eoi_token_index": VOCABULARY - 1,
    }
    given = {"images": (BATCH, 1, 16, 16, 3), **tokens_at("vision", 1, 2, 3, 4)}
    return tiny("T5Gemma2Backbone", arguments, **given)


def gemma3n() -> Built:
    image, sound = VOCABULARY - 2, VOCABULARY - 1
    hearing = {
        "input_feat_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "sscp_conv_channel_size": [8, 4],
        "sscp_conv_kernel_size": [(3, 3), (3, 3)],
        "sscp_conv_stride_size": [(2, 2), (2, 2)],
        "sscp_conv_group_norm_eps": 1e-3,
        "attention_chunk_size": 2,
        "num_attention_context_left": 3,
        "num_attention_context_right": 0,
        "attention_logit_cap": 50.0,
        "conv_kernel_size": 3,
        "reduction_factor": 1,
        "residual_weight": 0.5,
        "gradient_clipping": 1e10,
        "rms_norm_eps": 1e-6,
    }
    arguments = {
        "text_vocab_size": VOCABULARY,
        "text_hidden_size": 16,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": [24, 24],
        "hidden_activation": "gelu_approximate",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 4,
        "rope_theta": 10000.0,
        "max_position_embeddings": 32,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 4,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
        "vision_encoder_config": {**MOBILENET_V5, "image_shape": (32, 32, 3)},
        "vision_hidden_size": 16,
        "vision_vocab_size": 8,
        "vision_vocab_offset": VOCABULARY,
        "vision_soft_tokens_per_image": 16,
        "image_token_id": image,
        "audio_encoder_config": hearing,
        "audio_hidden_size": 16,
        "audio_vocab_size": 8,
        "audio_vocab_offset": VOCABULARY + 8,
        "audio_soft_tokens_per_image": 4,
        "audio_token_id": sound,
    }
    text = [1, image, image, image, sound, sound, 2, 3]
    return tiny(
        "Gemma3nBackbone",
        arguments,
        token_ids=np.tile(np.array(text, "int32"), (BATCH, 1)),
        images=(BATCH, 1, 32, 32, 3),
        input_features=(BATCH, 1, 16, 8),
        input_features_mask=np.zeros((BATCH, 1, 16), "bool"),  # True where there is no sound
    )


def gemma4() -> Built:
    vision = models.Gemma4VisionEncoder(
        **WIDTHS,
        **HEADS,
        image_size=16,
        patch_size=4,
        pool_size=2,
        head_dim=8,
        output_dim=16,
        position_embedding_size=8,
    )
    hearing = models.Gemma4AudioEncoder(
        input_feat_size=8,
        hidden_size=16,
        num_heads=2,
        num_layers=2,
        chunk_size=2,
        context_left=3,
        conv_kernel_size=3,
        sscp_conv_channels=(8, 4),
        output_proj_dims=24,
        output_dim=16,
    )
    arguments = {
        **GEMMA,
        "image_size": 16,
        "vision_encoder": vision,
        "audio_encoder": hearing,
        "num_audio_tokens_per_clip": 2,
        "sliding_window_pattern": 2,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": VOCABULARY,
        "enable_moe_block": True,
        "num_experts": 3,
        "expert_intermediate_dim": 12,
        "num_experts_per_token": 2,
    }
    places = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(1, 1, 16, 2)
    return tiny(
        "Gemma4Backbone",
        arguments,
        pixel_values=(BATCH, 1, 16, 4 * 4 * 3),
        pixel_position_ids=np.tile(places.astype("int32"), (BATCH, 1, 1, 1)),
        position_ids=np.tile(np.arange(LENGTH, dtype="int32"), (BATCH, 1)),
        audio_mel=(BATCH, 1, 8, 8),
        audio_mel_mask=(BATCH, 1, 8),
        **tokens_at("vision", 1, 2, 3, 4),
        **tokens_at("audio", 5, 6),
    )


def moonshine() -> Built:
    arguments = {
        "vocabulary_size": VOCABULARY,
        "filter_dim": 16,
        "hidden_dim": 16,
        "intermediate_dim": 24,
        "encoder_num_layers": 2,
        "decoder_num_layers": 2,
        "encoder_num_heads": 2,
        "decoder_num_heads": 2,
    }
    sound, mask = (BATCH, 2000, 1), (BATCH, 2000)
    return tiny(
        "MoonshineBackbone", arguments, encoder_input_values=sound, encoder_padding_mask=mask
    )


def pali_gemma() -> Built:
    arguments = {
        **GEMMA,
        "image_size": 16,
        "vit_patch_size": 8,
        "vit_num_heads": 2,
        "vit_hidden_dim": 16,
        "vit_num_layers": 2,
        "vit_intermediate_dim": 24,
    }
    return tiny("PaliGemmaBackbone", arguments)


def parseq() -> Built:
    vision = models.ViTBackbone(**ARGUMENTS["ViTBackbone"])
    arguments = {
        "image_encoder": vision,
        "vocabulary_size": VOCABULARY,
        "max_label_length": LENGTH,
        "decoder_hidden_dim": 16,
        "num_decoder_layers": 2,
        "num_decoder_heads": 2,
        "decoder_mlp_dim": 24,
    }
    return tiny("PARSeqBackbone", arguments)


def qwen3_5() -> Built:
    vision = Qwen3_5VisionEncoder(
        depth=2,
        hidden_size=16,
        num_heads=2,
        intermediate_size=24,
        patch_size=4,
        out_hidden_size=16,
        num_position_embeddings=16,
    )
    arguments = {
        **GEMMA,
        **LINEAR_ATTENTION,
        "num_layers": 4,
        "vision_encoder": vision,
        "partial_rotary_factor": 1.0,
        "mrope_section": [2, 1, 1],
    }
    return tiny(
        "Qwen3_5Backbone",
        arguments,
        pixel_values=(BATCH, 4, 2, 4, 4, 3),
        image_grid_thw=np.tile(np.array([[1, 2, 2]], "int32"), (BATCH, 1, 1)),
        vision_indices=np.array([[1], [LENGTH + 1]], "int32"),
    )


def retina_net() -> Built:
    arguments = {
        "image_encoder": models.ResNetBackbone(**RESNET),
        "image_shape": (64, 64, 3),
        "min_level": 3,
        "max_level": 5,
        "use_p5": False,
    }
    return tiny("RetinaNetBackbone", arguments)


def sam() -> Built:
    vision = models.ViTDetBackbone(**ARGUMENTS["ViTDetBackbone"])
    prompt = layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(4, 4), input_image_size=(16, 16), mask_in_channels=8
    )
    mask = layers.SAMMaskDecoder(
        hidden_size=8,
        num_layers=2,
        intermediate_dim=24,
        num_heads=2,
        embedding_dim=8,
        iou_head_hidden_dim=8,
    )
    arguments = {"image_encoder": vision, "prompt_encoder": prompt, "mask_decoder": mask}
    return tiny(
        "SAMBackbone",
        arguments,
        points=(BATCH, 1, 2),
        labels=np.ones((BATCH, 1), "float32"),
        boxes=(BATCH, 1, 2, 2),
        masks=np.zeros((BATCH, 0, 16, 16, 1), "float32"),
    )


def sam3() -> Built:
    image = {"image_shape": (32, 32, 3), "patch_size": 4}
    transformer = {**WIDTHS, **HEADS}
    arguments = {
        "vision_encoder": layers.SAM3VisionEncoder(
            **image,
            **transformer,
            fpn_hidden_dim=16,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5],
            pretrain_image_shape=(16, 16, 3),
            window_size=2,
            global_attn_indexes=[1],
        ),
        "text_encoder": layers.SAM3TextEncoder(
            **transformer, vocabulary_size=VOCABULARY, embedding_dim=16
        ),
        "geometry_encoder": layers.SAM3GeometryEncoder(**transformer, roi_size=3),
        "detr_encoder": layers.SAM3DetrEncoder(**transformer),
        "detr_decoder": layers.SAM3DetrDecoder(**image, **transformer, num_queries=6),
        "mask_decoder": layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=16, num_heads=2),
    }
    # On PyTorch, boxes need torchvision, and without boxes only a batch of 1 works.
    return tiny(
        "SAM3PromptableConceptBackbone",
        arguments,
        pixel_values=(1, 32, 32, 3),
        token_ids=(1, LENGTH),
        padding_mask=(1, LENGTH),
        boxes=(1, 0, 5),
        box_labels=(1, 0),
    )


def seg_former() -> Built:
    encoder = models.MiTBackbone(**MIT)
    return tiny("SegFormerBackbone", {"image_encoder": encoder, "projection_filters": 8})


def stable_diffusion3() -> Built:
    autoencoder = VAEBackbone(
        encoder_num_filters=[32, 32, 32, 32],
        encoder_num_blocks=[1, 1, 1, 1],
        decoder_num_filters=[32, 32, 32, 32],
        decoder_num_blocks=[1, 1, 1, 1],
        sampler_method="mode",
    )
    arguments = {
        "image_shape": (32, 32, 3),
        "mmdit_patch_size": 2,
        "mmdit_hidden_dim": 16,
        "mmdit_num_layers": 2,
        "mmdit_num_heads": 2,
        "mmdit_position_size": 4,
        "mmdit_qk_norm": "rms_norm",
        "mmdit_dual_attention_indices": (0,),
        "vae": autoencoder,
        "clip_l": models.CLIPTextEncoder(**CLIP_TEXT, intermediate_output_index=0, name="clip_l"),
        "clip_g": models.CLIPTextEncoder(**CLIP_TEXT, intermediate_output_index=0, name="clip_g"),
    }
    return tiny("StableDiffusion3Backbone", arguments, num_steps=np.full(BATCH, 2, dtype="int32"))


BACKBONES: dict[str, Callable[[], Built]] = {
    **{name: partial(tiny, name, arguments) for name, arguments in ARGUMENTS.items()},
    "BASNetBackbone": basnet,
    "BLIP2Backbone": blip2,
    "CLIPBackbone": partial(two_towers, "CLIP", projection_dim=16),
    "DFineBackbone": d_fine,
    "DeepLabV3Backbone": deep_lab,
    "DepthAnythingBackbone": depth_anything,
    "FeaturePyramidBackbone": feature_pyramid,
    "Gemma3Backbone": gemma3,
    "Gemma3nBackbone": gemma3n,
    "Gemma4Backbone": gemma4,
    "MetaCLIP2Backbone": partial(two_towers, "MetaCLIP2", projection_dim=16),
    "MoonshineBackbone": moonshine,
    "PARSeqBackbone": parseq,
    "PaliGemmaBackbone": pali_gemma,
    "Qwen3_5Backbone": qwen3_5,
    "RetinaNetBackbone": retina_net,
    "SAM3PromptableConceptBackbone": sam3,
    "SAMBackbone": sam,
    "SegFormerBackbone": seg_former,
    "SigLIPBackbone": partial(two_towers, "SigLIP"),
    "StableDiffusion3Backbone": stable_diffusion3,
    "T5Gemma2Backbone": t5gemma2,
}
