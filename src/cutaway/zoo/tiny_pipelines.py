"""The tiny diffusion pipelines as data: their parts, and the configs that make them tiny."""

from __future__ import annotations

from typing import Any

from cutaway.zoo.tiny_specs import IMAGE, T5, Part, Tiny, text
from cutaway.zoo.tiny_text import special_ids

_CLIP_TEXT = text("clip", max_position_embeddings=16, num_hidden_layers=2, projection_dim=32)
_CLIP_ENCODER = Part("transformers.CLIPTextModel", _CLIP_TEXT)
_CLIP_PROJECTED = Part("transformers.CLIPTextModelWithProjection", _CLIP_TEXT)
_CLIP_TOKENIZER = Part("tokenizer", {"kind": "clip"})
_T5_TOKENIZER = Part("tokenizer", {"kind": "t5"})
_FLOW = Part("diffusers.FlowMatchEulerDiscreteScheduler", {"shift": 3.0})


def t5_encoder(width: int) -> Part:
    """A two-layer T5 encoder of the given width."""
    return Part("transformers.T5EncoderModel", {**T5, **special_ids("t5"), "num_layers": 2, "d_model": width})


def vae(**changes: Any) -> Part:
    """An autoencoder of two levels: four latent channels at half the picture's size."""
    config = {
        "block_out_channels": [16, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "sample_size": IMAGE,
    }
    return Part("diffusers.AutoencoderKL", {**config, **changes})


def unet(*down: str, **changes: Any) -> Part:
    """A UNet with one residual block a level, the levels named from the top down."""
    config = {
        "sample_size": IMAGE // 2,
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "down_block_types": list(down),
        "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    }
    return Part("diffusers.UNet2DConditionModel", {**config, **changes})


_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
_FLOW_VAE = vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.5)
_DIT = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2}

PIPELINES = (
    Tiny(
        "sd",
        "diffusion",
        ("text",),
        "StableDiffusionPipeline",
        parts={
            "unet": unet("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "vae": vae(),
            "text_encoder": _CLIP_ENCODER,
            "tokenizer": _CLIP_TOKENIZER,
            "scheduler": Part("diffusers.DDIMScheduler", {**_NOISE, "clip_sample": False, "set_alpha_to_one": False}),
            "safety_checker": None,
            "feature_extractor": None,
        },
    ),
    Tiny(
        "sdxl",
        "diffusion",
        ("text",),
        "StableDiffusionXLPipeline",
        parts={
            "unet": unet(
                "DownBlock2D",
                "CrossAttnDownBlock2D",
                transformer_layers_per_block=[1, 2],
                use_linear_projection=True,
                cross_attention_dim=64,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + 32,
            ),
            "vae": vae(),
            "text_encoder": _CLIP_ENCODER,
            "tokenizer": _CLIP_TOKENIZER,
            "text_encoder_2": _CLIP_PROJECTED,
            "tokenizer_2": _CLIP_TOKENIZER,
            "scheduler": Part("diffusers.EulerDiscreteScheduler", _NOISE),
        },
    ),
    Tiny(
        "sd3",
        "diffusion",
        ("text",),
        "StableDiffusion3Pipeline",
        parts={
            "transformer": Part(
                "diffusers.SD3Transformer2DModel",
                {
                    **_DIT,
                    "sample_size": IMAGE // 2,
                    "in_channels": 4,
                    "out_channels": 4,
                    "joint_attention_dim": 64,
                    "caption_projection_dim": 32,
                    "pooled_projection_dim": 64,
                    "pos_embed_max_size": IMAGE,
                },
            ),
            "vae": _FLOW_VAE,
            "text_encoder": _CLIP_PROJECTED,
            "tokenizer": _CLIP_TOKENIZER,
            "text_encoder_2": _CLIP_PROJECTED,
            "tokenizer_2": _CLIP_TOKENIZER,
            "text_encoder_3": t5_encoder(64),
            "tokenizer_3": _T5_TOKENIZER,
            "scheduler": _FLOW,
        },
    ),
    Tiny(
        "flux",
        "diffusion",
        ("text",),
        "FluxPipeline",
        parts={
            "transformer": Part(
                "diffusers.FluxTransformer2DModel",
                {
                    **_DIT,
                    "in_channels": 16,
                    "num_single_layers": 2,
                    "joint_attention_dim": 32,
                    "pooled_projection_dim": 32,
                    "guidance_embeds": True,
                    "axes_dims_rope": [2, 2, 4],
                },
            ),
            "vae": _FLOW_VAE,
            "text_encoder": _CLIP_ENCODER,
            "tokenizer": _CLIP_TOKENIZER,
            "text_encoder_2": t5_encoder(32),
            "tokenizer_2": _T5_TOKENIZER,
            "scheduler": _FLOW,
        },
    ),
    Tiny(
        "dit",
        "diffusion",
        ("label",),
        "DiTPipeline",
        parts={
            "transformer": Part(
                "diffusers.DiTTransformer2DModel",
                {
                    **_DIT,
                    "sample_size": IMAGE // 2,
                    "in_channels": 4,
                    "out_channels": 8,
                    "num_embeds_ada_norm": 1000,
                },
            ),
            "vae": vae(),
            "scheduler": Part("diffusers.DDIMScheduler", {"clip_sample": False}),
        },
    ),
    Tiny(
        "ddpm",
        "diffusion",
        (),
        "DDPMPipeline",
        parts={
            "unet": Part(
                "diffusers.UNet2DModel",
                {
                    "sample_size": IMAGE // 2,
                    "block_out_channels": [16, 32],
                    "layers_per_block": 1,
                    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
                    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
                    "attention_head_dim": 8,
                    "norm_num_groups": 8,
                },
            ),
            "scheduler": Part("diffusers.DDPMScheduler", {}),
        },
    ),
)
