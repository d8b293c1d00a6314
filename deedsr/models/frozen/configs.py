"""The numbers of the stock parts of four bases, as diffusers' classes take them, by part."""

from __future__ import annotations

from typing import Any

Configs = dict[str, Any]

SD21: Configs = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "sample_size": 512,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "scheduler": {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "clip_sample": False,
        "prediction_type": "epsilon",
    },
}
"""Stable Diffusion 2.1-base."""

SMALL: Configs = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "in_channels": 8,
        "out_channels": 8,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
        "block_out_channels": [64, 96, 128],
        "layers_per_block": 1,
        "attention_head_dim": [2, 3, 4],
        "norm_num_groups": 16,
        "cross_attention_dim": 128,
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderDC",
        "latent_channels": 8,
        "encoder_block_out_channels": [32, 32, 64],
        "decoder_block_out_channels": [32, 32, 64],
        "encoder_layers_per_block": [0, 1, 4],
        "decoder_layers_per_block": [0, 1, 6],
        "encoder_qkv_multiscales": [[], [], []],
        "decoder_qkv_multiscales": [[], [], []],
        "decoder_conv_act_fn": "silu",
        "scaling_factor": 1.0,
    },
    "scheduler": {**SD21["scheduler"], "prediction_type": "v_prediction", "set_alpha_to_one": True},
}
"""The U-Net that is built in, and its autoencoder."""

SD35: Configs = {
    "transformer": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": 2,
        "in_channels": 16,
        "num_layers": 24,
        "attention_head_dim": 64,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048,
        "out_channels": 16,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    },
    "vae": {
        **SD21["vae"],
        "sample_size": 1024,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
}
"""Stable Diffusion 3.5 Medium."""

SMALL_DIT: Configs = {
    "transformer": {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 64,
        "patch_size": 2,
        "in_channels": 8,
        "num_layers": 6,
        "attention_head_dim": 24,
        "num_attention_heads": 6,
        "joint_attention_dim": 32,
        "caption_projection_dim": 144,
        "pooled_projection_dim": 32,
        "out_channels": 8,
        "pos_embed_max_size": 16,
        "dual_attention_layers": [],
        "qk_norm": "rms_norm",
    },
    "vae": SMALL["vae"],
    "scheduler": {**SD35["scheduler"], "shift": 1.0},
}
"""The transformer that is built in, 128 pixels a side in one piece and no text, on the same autoencoder."""
