"""Models of sequences: encoders with decoders, and models of sound and of measurements."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.family import SIZES, STACKS, TWO_STACKS, Family

TRANSLATION = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 16,
    **STACKS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
WHISPER = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_mel_bins": 8,
    **STACKS,
    "max_source_positions": 10,
    "max_target_positions": 10,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
SPEECH = {
    **SIZES,
    "conv_dim": [8, 8],
    "conv_kernel": [4, 4],
    "conv_stride": [2, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 12,
}
SPEECH_ENCODER = {"encoder": r"encoder\.layers\.(\d+)\."}
TWO_T5_STACKS = {"encoder": r"encoder\.block\.(\d+)\.", "decoder": r"decoder\.block\.(\d+)\."}

SEQUENCES: Mapping[str, Family] = {
    "t5": Family("T5ForConditionalGeneration", "T5Config", T5, TWO_T5_STACKS),
    "bart": Family("BartForConditionalGeneration", "BartConfig", TRANSLATION, TWO_STACKS),
    "mbart": Family("MBartForConditionalGeneration", "MBartConfig", TRANSLATION, TWO_STACKS),
    "pegasus": Family("PegasusForConditionalGeneration", "PegasusConfig", TRANSLATION, TWO_STACKS),
    "marian": Family("MarianMTModel", "MarianConfig", TRANSLATION, TWO_STACKS),
    "m2m-100": Family("M2M100ForConditionalGeneration", "M2M100Config", TRANSLATION, TWO_STACKS),
    "whisper": Family("WhisperForConditionalGeneration", "WhisperConfig", WHISPER, TWO_STACKS),
    "speecht5": Family(
        "SpeechT5ForTextToSpeech",
        "SpeechT5Config",
        {
            "vocab_size": 40,
            "hidden_size": 16,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            **STACKS,
            "num_mel_bins": 8,
            "speech_decoder_prenet_units": 8,
            "speech_decoder_postnet_units": 8,
            "speaker_embedding_dim": 8,
            "encoder_max_relative_position": 4,
        },
        {
            "encoder": r"wrapped_encoder\.layers\.(\d+)\.",
            "decoder": r"wrapped_decoder\.layers\.(\d+)\.",
            "audio": r"postnet\.layers\.(\d+)\.",
        },
    ),
    "time-series": Family(
        "TimeSeriesTransformerForPrediction",
        "TimeSeriesTransformerConfig",
        {"prediction_length": 4, "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, **STACKS},
        TWO_STACKS,
    ),
    "wav2vec2": Family("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH, SPEECH_ENCODER),
    "hubert": Family("HubertForCTC", "HubertConfig", SPEECH, SPEECH_ENCODER),
    "musicgen": Family(
        "MusicgenForCausalLM",
        "MusicgenDecoderConfig",
        {
            "vocab_size": 8,
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "pad_token_id": 0,
            "bos_token_id": 0,
        },
        {"decoder": r"decoder\.layers\.(\d+)\."},
    ),
}
