"""Models that read text whole."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.family import LAYER, LAYERS, PADDED, TEXT, Family

ENCODERS: Mapping[str, Family] = {
    "bert": Family("BertForMaskedLM", "BertConfig", TEXT, LAYER),
    "roberta": Family("RobertaForMaskedLM", "RobertaConfig", PADDED, LAYER),
    "xlm-roberta": Family("XLMRobertaForSequenceClassification", "XLMRobertaConfig", PADDED, LAYER),
    "distilbert": Family(
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": 40, "max_position_embeddings": 16, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
        LAYER,
    ),
    "deberta-v2": Family(
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {
            **TEXT,
            "relative_attention": True,
            "position_buckets": 4,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
        },
        LAYER,
    ),
    "electra": Family("ElectraForPreTraining", "ElectraConfig", {**TEXT, "embedding_size": 8}, LAYER),
    "albert": Family("AlbertForMaskedLM", "AlbertConfig", {**PADDED, "embedding_size": 8}, {}),
    "albert-groups": Family(
        "AlbertForMaskedLM",
        "AlbertConfig",
        {**PADDED, "embedding_size": 8, "num_hidden_layers": 6, "num_hidden_groups": 3},
        {"albert_layer_groups": r"albert_layer_groups\.(\d+)\."},
    ),
    "mpnet": Family("MPNetForMaskedLM", "MPNetConfig", PADDED, LAYER),
    "modernbert": Family(
        "ModernBertForMaskedLM", "ModernBertConfig", {**PADDED, "cls_token_id": 1, "sep_token_id": 2}, LAYERS
    ),
    "xlnet": Family(
        "XLNetLMHeadModel",
        "XLNetConfig",
        {"vocab_size": 40, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32},
        {"layer": r"\.layer\.(\d+)\."},
    ),
}
