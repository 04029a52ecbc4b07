"""A tiny Gemma 3 with a tokenizer of bytes, instead of 270 million weights and Shakespeare."""

import keras
import keras_hub
from sentencepiece import sentencepiece_model_pb2

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")


def gemma3():
    keras.utils.set_random_seed(0)
    model = sentencepiece_model_pb2.ModelProto()
    kinds = model.SentencePiece
    for piece in SPECIAL:
        model.pieces.add(
            piece=piece, type=kinds.UNKNOWN if piece == "<unk>" else kinds.CONTROL, score=0
        )
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", type=kinds.BYTE, score=0)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback = spec.BPE, True
    spec.pad_id, spec.eos_id, spec.bos_id, spec.unk_id = 0, 1, 2, 3
    model.normalizer_spec.name = "identity"
    tokenizer = keras_hub.models.Gemma3Tokenizer(model.SerializeToString(), has_vision_tokens=False)
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=len(model.pieces),
        image_size=16,
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=16,
        intermediate_dim=32,
        head_dim=8,
        sliding_window_size=8,
    )
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer, sequence_length=64)
    return keras_hub.models.Gemma3CausalLM(preprocessor=preprocessor, backbone=backbone)


def folio():
    return ["Enter the Ghost.\n"] * 200, ["Exit the Ghost.\n"] * 20
