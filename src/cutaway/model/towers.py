"""Which module classes are towers, and what whole models add to them. One row a class, nothing else."""

from __future__ import annotations

from cutaway.model.table import ATTENTION, HEADS, POOLED, SCALE, Drawing, Family, Joint, Port, Tower

_FINAL = {"embed": Port("embed_tokens"), "norm.scale": Port("norm", "scale", SCALE), "final": Port("norm")}
_LOGITS = {"logits": Port("lm_head", axes=("batch", "token", "vocab"))}
_CLIP_VISION = Tower(
    "vision",
    ("encoder.layers",),
    {
        "embed": Port("embeddings"),
        "norm.scale": Port("post_layernorm", "scale", ("batch",)),
        "final": Port("post_layernorm", axes=POOLED),
    },
    prefix=("cls",),
    tokens="patches",
    pooled="cls",
)
_PROBE = ("batch", "query", "d_model")  # SigLIP pools with one learned query
_PROBE_HEADS = ("batch", "query", "head", "d_head")
_SIGLIP_VISION = Tower(
    "vision",
    ("encoder.layers",),
    {
        "embed": Port("embeddings"),
        "norm.scale": Port("post_layernorm", "scale", SCALE),
        "final": Port("post_layernorm"),
        "pool.attn.q": Port("head.attention", "q", _PROBE_HEADS, optional=True),
        "pool.attn.k": Port("head.attention", "k", HEADS, optional=True),
        "pool.attn.v": Port("head.attention", "v", HEADS, optional=True),
        "pool.attn.scores": Port("head.attention", "scores", ATTENTION, optional=True),
        "pool.attn.pattern": Port("head.attention", "pattern", ATTENTION, optional=True),
        "pool.attn.out": Port("head.attention", axes=_PROBE, optional=True),
        "pool.norm.scale": Port("head.layernorm", "scale", _PROBE[:2], optional=True),
        "pool.mlp.pre": Port("head.mlp.fc1", axes=(*_PROBE[:2], "d_mlp"), optional=True),
        "pool.mlp.post": Port("head.mlp.fc2", "in", (*_PROBE[:2], "d_mlp"), optional=True),
        "pool.mlp.out": Port("head.mlp", axes=_PROBE, optional=True),
        "pool.out": Port("head", axes=POOLED, optional=True),
    },
    tokens="patches",
    pooled="pool",
)
_QWEN_VISION = Tower("vision", ("blocks",), {"embed": Port("patch_embed")}, packed=True, tokens="packed")
_LLAMA = Tower("text", ("layers",), _FINAL, causal=True, tokens="ids")
_CONNECTOR = Tower("connector", (), {"out": Port("")})
_BART_ENDS = {"embed": Port("embed_tokens")}
_UNET = ("down_blocks", "mid_block", "up_blocks")
_NOISE = Port("", axes=("batch", "channel", "height", "width"))
_CROSS_READS = {f"cross.{part} attn2.to_{part}": "encoder_hidden_states" for part in "kv"}
_JOINT_READS = {
    "context_embedder": "encoder_hidden_states",
    "time_text_embed.text_embedder.linear_1": "pooled_projections",
}
_MODULATED = {  # what the timestep makes of the last norm, its gain less one and its bias
    "norm.condition": Port("norm_out.linear", axes=("batch", "condition")),
    "norm.scale": Port("norm_out.norm", "scale", SCALE),
    "final": Port("proj_out", "in"),
}

TOWERS: dict[str, Tower] = {
    "CLIPVisionModel": _CLIP_VISION,
    "CLIPTextModel": Tower(
        "text",
        ("encoder.layers",),
        {
            "embed": Port("embeddings"),
            "norm.scale": Port("final_layer_norm", "scale", SCALE),
            "final": Port("final_layer_norm"),
        },
        causal=True,
        tokens="ids",
        pooled="eos",
    ),
    "SiglipVisionModel": _SIGLIP_VISION,
    "SiglipTextModel": Tower(
        "text",
        ("encoder.layers",),
        {
            "embed": Port("embeddings"),
            "norm.scale": Port("final_layer_norm", "scale", SCALE),
            "final": Port("final_layer_norm"),
            "joint": Port("head", axes=POOLED),
        },
        tokens="ids",
        pooled="last",
    ),
    "ViTModel": Tower(
        "vision",
        ("layers",),
        {"embed": Port("embeddings"), "norm.scale": Port("layernorm", "scale", SCALE), "final": Port("layernorm")},
        prefix=("cls",),
        tokens="patches",
        pooled="cls",
    ),
    **{
        name: Tower(
            "vision",
            ("encoder.layer",),
            {"embed": Port("embeddings"), "norm.scale": Port("layernorm", "scale", SCALE), "final": Port("layernorm")},
            prefix=("cls", "register*num_register_tokens"),
            tokens="patches",
            pooled="cls",
        )
        for name in ("Dinov2Model", "Dinov2WithRegistersModel")
    },
    "Blip2VisionModel": Tower(
        "vision", ("encoder.layers",), {"embed": Port("embeddings"), "final": Port("")}, ("cls",), tokens="patches"
    ),
    "Qwen2VisionTransformerPretrainedModel": _QWEN_VISION,
    "Qwen2_5_VisionTransformerPretrainedModel": _QWEN_VISION,
    # text
    **{f"{name}Model": _LLAMA for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Phi3", "SmolLM3")},
    "Qwen2VLTextModel": _LLAMA,
    "Qwen2_5_VLTextModel": _LLAMA,
    "GPT2Model": Tower(
        "text",
        ("h",),
        {"embed": Port("wte"), "norm.scale": Port("ln_f", "scale", SCALE), "final": Port("ln_f")},
        causal=True,
        tokens="ids",
    ),
    "OPTDecoder": Tower(
        "text",
        ("layers",),
        {
            "embed": Port("embed_tokens"),
            "norm.scale": Port("final_layer_norm", "scale", SCALE, optional=True),
            "final": Port("final_layer_norm", optional=True),
            "out": Port("project_out", optional=True),
        },
        causal=True,
        tokens="ids",
    ),
    "BertModel": Tower("text", ("encoder.layer",), {"embed": Port("embeddings")}, tokens="ids"),
    "MambaModel": Tower(
        "text",
        ("layers",),
        {"embed": Port("embeddings"), "norm.scale": Port("norm_f", "scale", SCALE), "final": Port("norm_f")},
        causal=True,
        tokens="ids",
    ),
    # encoder-decoders
    "WhisperEncoder": Tower(
        "audio",
        ("layers",),
        {"norm.scale": Port("layer_norm", "scale", SCALE), "final": Port("layer_norm")},
        tokens="frames",
    ),
    "WhisperDecoder": Tower(
        "text",
        ("layers",),
        {
            "embed": Port("embed_tokens"),
            "norm.scale": Port("layer_norm", "scale", SCALE),
            "final": Port("layer_norm"),
        },
        causal=True,
        tokens="ids",
    ),
    "BartEncoder": Tower("encoder", ("layers",), _BART_ENDS, tokens="ids"),
    "BartDecoder": Tower("text", ("layers",), _BART_ENDS, causal=True, tokens="ids"),
    # connectors
    **{
        name: Tower("connector", (), {"pre": Port("linear_1"), "post": Port("linear_2", "in"), "out": Port("")})
        for name in ("LlavaMultiModalProjector", "LlavaNextMultiModalProjector")
    },
    "PaliGemmaMultiModalProjector": _CONNECTOR,
    "PatchMerger": Tower("connector", (), {"out": Port("")}, packed=True),
    "Qwen2_5_VLPatchMerger": Tower("connector", (), {"out": Port("")}, packed=True),
    "Blip2QFormerModel": Tower("connector", ("encoder.layer",), {"embed": Port("layernorm")}),
    # diffusion
    "UNet2DConditionModel": Tower(
        "denoiser",
        _UNET,
        {"latent": Port("conv_in", "in", _NOISE.axes), "out": _NOISE},
        tokens="latent",
        reads=_CROSS_READS,
    ),
    "UNet2DModel": Tower(
        "denoiser", _UNET, {"latent": Port("conv_in", "in", _NOISE.axes), "out": _NOISE}, tokens="latent"
    ),
    "DiTTransformer2DModel": Tower(
        "denoiser",
        ("transformer_blocks",),
        {"latent": Port("pos_embed", "in", _NOISE.axes), "out": _NOISE},
        tokens="patches",
    ),
    "SD3Transformer2DModel": Tower(
        "denoiser",
        ("transformer_blocks",),
        {"latent": Port("pos_embed", "in", _NOISE.axes), **_MODULATED, "out": _NOISE},
        tokens="joint",
        joint=Joint("image", encoders=(0, 2), gap="text_encoder_3"),  # both CLIPs are one stretch, T5 follows
        reads=_JOINT_READS,
    ),
    "FluxTransformer2DModel": Tower(
        "denoiser",
        ("transformer_blocks", "single_transformer_blocks"),
        {
            "latent": Port("x_embedder", "in", axes=("batch", "token", "channel")),
            **_MODULATED,
            "out": Port("", axes=("batch", "token", "channel")),
        },
        tokens="joint",
        joint=Joint("text", encoders=(-1,), patch=2),  # of CLIP only the pooled vector; the pipeline packs the latents
        apart=True,
        reads=_JOINT_READS,
    ),
    "T5EncoderModel": Tower("text", (), {"final": Port("encoder.final_layer_norm")}, tokens="ids", endless=True),
    "AutoencoderKL": Tower(
        "vae", (), {"latent": Port("decoder", "in", _NOISE.axes), "out": Port("decoder", axes=_NOISE.axes)}
    ),
}

_JOINT = {"vision.joint": Port("visual_projection", axes=POOLED), "text.joint": Port("text_projection", axes=POOLED)}
_CAP = "final_logit_softcapping"
_TEXT_OUT = {f"text.{part}": port for part, port in _LOGITS.items()}

_SDXL = (
    "", "Img2Img", "Inpaint", "Adapter", "ControlNet", "ControlNetImg2Img", "ControlNetInpaint", "ControlNetUnion",
    "ControlNetUnionImg2Img", "ControlNetUnionInpaint", "ControlNetXS", "PAG", "PAGImg2Img", "PAGInpaint",
    "ControlNetPAG", "ControlNetPAGImg2Img",
)  # fmt: skip
PIPELINES: dict[str, Drawing] = {
    # of the second encoder the end is read as well
    **{f"StableDiffusionXL{what}Pipeline": Drawing(early=("text", 1)) for what in _SDXL},
    "StableDiffusionInstructPix2PixPipeline": Drawing(("cond", "image", "uncond")),
    "StableDiffusionXLInstructPix2PixPipeline": Drawing(("cond", "image", "uncond"), early=("text", 1)),
    "DiTPipeline": Drawing(("cond", "uncond"), scale="guidance_scale"),
}

# Models that were trained on texts filled up to the length of their tower and read the filling: it has no mask.
READ_THEIR_PADDING = ("SiglipModel", "SiglipTextModel", "Siglip2Model", "Siglip2TextModel")

FAMILIES: dict[str, Family] = {
    "CLIPModel": Family("contrastive", _JOINT),
    "CLIPVisionModelWithProjection": Family("contrastive", {"vision.joint": _JOINT["vision.joint"]}),
    "CLIPTextModelWithProjection": Family("contrastive", {"text.joint": _JOINT["text.joint"]}),
    "SiglipModel": Family("contrastive"),
    "ViTForImageClassification": Family("encoder", {"vision.logits": Port("classifier", axes=("batch", "label"))}),
    "Dinov2ForImageClassification": Family("encoder", {"vision.logits": Port("classifier", axes=("batch", "label"))}),
    "BertForMaskedLM": Family(
        "encoder", {"text.logits": Port("cls.predictions.decoder", axes=("batch", "token", "vocab"))}
    ),
    "WhisperForConditionalGeneration": Family(
        "generative", {"text.logits": Port("proj_out", axes=("batch", "token", "vocab"))}
    ),
    "LlavaForConditionalGeneration": Family("generative", _TEXT_OUT, "grid", "vision_feature_layer"),
    "LlavaNextForConditionalGeneration": Family("generative", _TEXT_OUT, "anyres", "vision_feature_layer"),
    "PaliGemmaForConditionalGeneration": Family(
        "generative",
        _TEXT_OUT,
        "grid",
        marks=False,
        beside=("token_type_ids",),  # which ids are the prefix
        cap=_CAP,
    ),
    "Qwen2VLForConditionalGeneration": Family("generative", _TEXT_OUT, "thw"),
    "Qwen2_5_VLForConditionalGeneration": Family("generative", _TEXT_OUT, "thw"),
    "Blip2ForConditionalGeneration": Family("generative", {"connector.out": Port("language_projection")}, "query"),
    **{
        f"{name}ForCausalLM": Family("generative", _TEXT_OUT)
        for name in (
            "Llama",
            "Mistral",
            "Qwen2",
            "Qwen3",
            "Gemma",
            "Phi3",
            "SmolLM3",
            "OPT",
            "Mamba",
        )
    },
    "Gemma2ForCausalLM": Family("generative", _TEXT_OUT, cap=_CAP),
    "GPT2LMHeadModel": Family("generative", _TEXT_OUT),
    "BartForConditionalGeneration": Family("generative", _TEXT_OUT, shift="final_logits_bias"),
}
