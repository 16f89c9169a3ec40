"""Models of images."""

from __future__ import annotations

from collections.abc import Mapping

from tiny_models.family import IMAGE, LAYER, STACKS, TWO_STACKS, Family

STAGED = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
STAGES = {"stages": r"stages\.(\d+)\.layers\.(\d+)\."}

IMAGES: Mapping[str, Family] = {
    "vit": Family("ViTForImageClassification", "ViTConfig", IMAGE, LAYER),
    "vit-mae": Family(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {
            **IMAGE,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
        },
        {"encoder": r"vit\.encoder\.layer\.(\d+)\.", "decoder": r"decoder_(?:layers|encoder\.layer)\.(\d+)\."},
    ),
    "deit": Family("DeiTForImageClassificationWithTeacher", "DeiTConfig", IMAGE, LAYER),
    "beit": Family("BeitForImageClassification", "BeitConfig", {**IMAGE, "use_relative_position_bias": True}, LAYER),
    "dinov2": Family("Dinov2ForImageClassification", "Dinov2Config", {**IMAGE, "mlp_ratio": 2}, LAYER),
    "dinov3-vit": Family("DINOv3ViTModel", "DINOv3ViTConfig", IMAGE, {"layer": r"layer\.(\d+)\."}),
    "swin": Family(
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [1, 2, 1],
            "num_heads": [1, 2, 2],
            "window_size": 2,
        },
        {"stages": r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."},
    ),
    "convnext": Family("ConvNextForImageClassification", "ConvNextConfig", STAGED, STAGES),
    "convnextv2": Family("ConvNextV2ForImageClassification", "ConvNextV2Config", STAGED, STAGES),
    "resnet": Family("ResNetForImageClassification", "ResNetConfig", {**STAGED, "embedding_size": 8}, STAGES),
    "regnet": Family(
        "RegNetForImageClassification", "RegNetConfig", {**STAGED, "embedding_size": 8, "groups_width": 4}, STAGES
    ),
    "segformer": Family(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_encoder_blocks": 4,
            "depths": [1, 2, 1, 1],
            "hidden_sizes": [8, 8, 16, 16],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
            "mlp_ratios": [2, 2, 2, 2],
        },
        {"block": r"encoder\.block\.(\d+)\.(\d+)\."},
    ),
    "mobilenet-v2": Family(
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"depth_multiplier": 0.1, "depth_divisible_by": 4, "min_depth": 4},
        LAYER,
    ),
    "efficientnet": Family(
        "EfficientNetForImageClassification",
        "EfficientNetConfig",
        {"width_coefficient": 0.1, "depth_coefficient": 0.2, "hidden_dim": 32, "depth_divisor": 4},
        {"blocks": r"encoder\.blocks\.(\d+)\."},
    ),
    "mobilevit": Family(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"image_size": 32, "hidden_sizes": [8, 8, 8], "neck_hidden_sizes": [4, 4, 8, 8, 8, 8, 16]},
        {"encoder": r"encoder\.layer\.(\d+)\."},
    ),
    "detr": Family(
        "DetrForObjectDetection",
        "DetrConfig",
        {
            "d_model": 16,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            **STACKS,
            "num_queries": 4,
            "use_timm_backbone": False,
            "backbone": None,
            "use_pretrained_backbone": False,
            "backbone_config": {"model_type": "resnet", **STAGED, "embedding_size": 8, "out_features": ["stage4"]},
        },
        {**STAGES, **TWO_STACKS},
    ),
    "sam": Family(
        "SamModel",
        "SamConfig",
        {
            "vision_config": {
                **IMAGE,
                "num_global_attn_indexes": [1],
                "output_channels": 8,
                "global_attn_indexes": [1],
                "mlp_dim": 32,
                "window_size": 2,
                "num_pos_feats": 4,
            },
            "prompt_encoder_config": {"hidden_size": 8, "image_size": 8, "patch_size": 4, "mask_input_channels": 4},
            "mask_decoder_config": {
                "hidden_size": 8,
                "mlp_dim": 16,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 8,
            },
        },
        {"visual": r"vision_encoder\.layers\.(\d+)\.", "layers": r"mask_decoder\.transformer\.layers\.(\d+)\."},
    ),
}
