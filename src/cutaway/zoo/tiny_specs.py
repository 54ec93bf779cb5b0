"""The tiny transformers models as data: their classes, the configs that make them tiny, their input processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cutaway.zoo.tiny_text import VOCABULARY, special_ids

Config = Mapping[str, Any]

IMAGE, PATCH = 32, 8


@dataclass(frozen=True)
class Part:
    """A class of the named library and its config; for a tokenizer, the kind (see `tiny_text.KINDS`)."""

    of: str
    config: Config = field(default_factory=dict)


@dataclass(frozen=True)
class Tiny:
    """One architecture: the `model` class of transformers or diffusers, and the `config` that makes it tiny.

    `prompt` is a text it accepts, image placeholders included. `frontend` turns pictures or sound into arrays,
    `processor` joins it with the tokenizer; a pipeline has `parts` instead.
    """

    name: str
    family: str
    modalities: tuple[str, ...]
    model: str
    config: Config = field(default_factory=dict)
    tokens: str | None = None
    frontend: Part | None = None
    processor: Part | None = None
    prompt: str = "a photo of a cat"
    generation: Config = field(default_factory=dict)
    parts: Mapping[str, Part | None] = field(default_factory=dict)


TOWER: Config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION: Config = {**TOWER, "image_size": IMAGE, "patch_size": PATCH}
CLIP_VISION: Config = {**VISION, "projection_dim": 32}
DINO: Config = {k: v for k, v in VISION.items() if k != "intermediate_size"} | {"mlp_ratio": 2}


def text(tokens: str, **changes: Any) -> dict[str, Any]:
    """A transformer over the shared vocabulary, its special ids those of `tokenizer(tokens)`."""
    shape = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 256}
    return {**TOWER, **shape, **special_ids(tokens), **changes}


def decoder(tokens: str = "llama", **changes: Any) -> dict[str, Any]:
    """`text` with two key/value heads for four query heads."""
    return text(tokens, num_key_value_heads=2, **changes)


def seq2seq(tokens: str, **changes: Any) -> dict[str, Any]:
    """An encoder-decoder in the words of BART and Whisper."""
    side = {"layers": 3, "attention_heads": 4, "ffn_dim": 64}
    sides = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
    return {"d_model": 32, "vocab_size": len(VOCABULARY), **sides, **special_ids(tokens), **changes}


def llava(model_type: str, **changes: Any) -> dict[str, Any]:
    """A CLIP vision tower read at its last layer but one, a projector, a decoder of `model_type`."""
    return {
        "vision_config": {"model_type": "clip_vision_model", **CLIP_VISION},
        "text_config": {"model_type": model_type, **decoder()},
        "image_token_index": VOCABULARY["<image>"],
        "image_seq_length": (IMAGE // PATCH) ** 2,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **changes,
    }


def qwen_vl(**vision: Any) -> dict[str, Any]:
    """Rotary positions in three sections (time, row, column), image patches merged two by two."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    marks = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    marks |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {
        "text_config": decoder("qwen", rope_parameters=rope),
        "vision_config": {"depth": 3, "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": 2, **vision},
        **{key: VOCABULARY[f"<|{token}|>"] for key, token in marks.items()},
    }


_SQUARE = {"height": IMAGE, "width": IMAGE}
_CLIP_IMAGE = Part("CLIPImageProcessorPil", {"size": {"shortest_edge": IMAGE}, "crop_size": _SQUARE})
_DINO_IMAGE = Part("BitImageProcessorPil", _CLIP_IMAGE.config)
_SIGLIP_IMAGE = Part("SiglipImageProcessorPil", {"size": _SQUARE})
_QWEN_IMAGE = Part(
    "Qwen2VLImageProcessorPil",
    {"size": {"shortest_edge": IMAGE**2, "longest_edge": (2 * IMAGE) ** 2}, "patch_size": PATCH, "merge_size": 2},
)
_PINPOINTS = [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE], [2 * IMAGE, 2 * IMAGE]]
_LLAVA = {"patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
_BOTH = ("image", "text")

_CONTRASTIVE = (
    Tiny(
        "clip",
        "contrastive",
        _BOTH,
        "CLIPModel",
        {"text_config": text("clip", max_position_embeddings=16), "vision_config": VISION, "projection_dim": 32},
        tokens="clip",
        frontend=_CLIP_IMAGE,
        processor=Part("CLIPProcessor"),
    ),
    Tiny(
        "siglip",
        "contrastive",
        _BOTH,
        "SiglipModel",
        {"text_config": text("siglip", max_position_embeddings=16), "vision_config": VISION},
        tokens="siglip",
        frontend=_SIGLIP_IMAGE,
        processor=Part("SiglipProcessor"),
    ),
    Tiny(
        "siglip2",
        "contrastive",
        _BOTH,
        "Siglip2Model",
        {
            "text_config": text("siglip2", max_position_embeddings=64),
            "vision_config": {**TOWER, "patch_size": 16, "num_patches": 256},
        },
        tokens="siglip2",
        frontend=Part("Siglip2ImageProcessorPil"),  # its processor insists on patches of 16, 256 of them
        processor=Part("Siglip2Processor"),
    ),
)

_ENCODERS = (
    Tiny(
        "vit",
        "encoder",
        ("image",),
        "ViTForImageClassification",
        {**VISION, "id2label": dict(enumerate(("cat", "dog", "bird", "car", "tree")))},
        frontend=Part("ViTImageProcessorPil", {"size": _SQUARE}),
    ),
    Tiny("dinov2", "encoder", ("image",), "Dinov2Model", DINO, frontend=_DINO_IMAGE),
    Tiny(
        "dinov2-registers",
        "encoder",
        ("image",),
        "Dinov2WithRegistersModel",
        {**DINO, "num_register_tokens": 2},
        frontend=_DINO_IMAGE,
    ),
    Tiny("bert", "encoder", ("text",), "BertForMaskedLM", text("bert"), "bert", prompt="a photo of a [MASK]"),
)

_OPT = text("opt", ffn_dim=64, word_embed_proj_dim=32)
_MAMBA = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "state_size": 8, "num_hidden_layers": 3}
_DECODERS = tuple(
    Tiny(name, "decoder", ("text",), model, config, tokens)
    for name, model, tokens, config in (
        ("llama", "LlamaForCausalLM", "llama", decoder()),
        ("mistral", "MistralForCausalLM", "llama", decoder(sliding_window=4)),
        ("qwen2", "Qwen2ForCausalLM", "qwen", decoder("qwen")),
        ("qwen3", "Qwen3ForCausalLM", "qwen", decoder("qwen", head_dim=16)),
        ("gemma", "GemmaForCausalLM", "llama", decoder(head_dim=16)),
        ("gemma2", "Gemma2ForCausalLM", "llama", decoder(head_dim=16, query_pre_attn_scalar=16, sliding_window=4)),
        ("phi3", "Phi3ForCausalLM", "llama", decoder()),
        ("smollm3", "SmolLM3ForCausalLM", "llama", decoder(no_rope_layer_interval=3)),
        ("gpt2", "GPT2LMHeadModel", "gpt2", text("gpt2", n_inner=64)),
        ("opt", "OPTForCausalLM", "opt", _OPT),
        ("opt-postnorm", "OPTForCausalLM", "opt", {**_OPT, "do_layer_norm_before": False}),
        ("mamba", "MambaForCausalLM", "llama", {**_MAMBA, **special_ids("llama")}),
    )
)

T5: Config = {"vocab_size": len(VOCABULARY), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
_ENCODER_DECODERS = (
    Tiny(
        "whisper",
        "encoder-decoder",
        ("audio", "text"),
        "WhisperForConditionalGeneration",
        seq2seq(
            "whisper",
            num_mel_bins=16,
            max_source_positions=100,
            max_target_positions=64,
            decoder_start_token_id=VOCABULARY["<|startoftranscript|>"],
        ),
        tokens="whisper",
        frontend=Part("WhisperFeatureExtractor", {"feature_size": 16, "chunk_length": 2}),
        processor=Part("WhisperProcessor"),
        generation={"no_timestamps_token_id": VOCABULARY["<|notimestamps|>"], "is_multilingual": False},
    ),
    Tiny(
        "bart",
        "encoder-decoder",
        ("text",),
        "BartForConditionalGeneration",
        seq2seq("bart", max_position_embeddings=256, decoder_start_token_id=VOCABULARY["</s>"]),
        "bart",
    ),
    Tiny(
        "t5",
        "encoder-decoder",
        ("text",),
        "T5ForConditionalGeneration",
        {**T5, **special_ids("t5"), "decoder_start_token_id": VOCABULARY["<pad>"]},
        "t5",
    ),
)

_QWEN_PROMPT = "<|vision_start|><|image_pad|><|vision_end|> what is this ?"
_GENERATIVE = (
    Tiny(
        "llava",
        "generative",
        _BOTH,
        "LlavaForConditionalGeneration",
        llava("llama"),
        "llama",
        _CLIP_IMAGE,
        Part("LlavaProcessor", _LLAVA),
        prompt="<image> what is this ?",
    ),
    Tiny(
        "llava-next",
        "generative",
        _BOTH,
        "LlavaNextForConditionalGeneration",
        llava("mistral", image_grid_pinpoints=_PINPOINTS),
        "llama",
        Part("LlavaNextImageProcessorPil", {**_CLIP_IMAGE.config, "image_grid_pinpoints": _PINPOINTS}),
        Part("LlavaNextProcessor", _LLAVA),
        prompt="<image> what is this ?",
    ),
    Tiny(
        "qwen2-vl",
        "generative",
        _BOTH,
        "Qwen2VLForConditionalGeneration",
        qwen_vl(embed_dim=32, hidden_size=32, mlp_ratio=2),
        "qwen",
        _QWEN_IMAGE,
        prompt=_QWEN_PROMPT,
    ),
    Tiny(
        "qwen2.5-vl",
        "generative",
        _BOTH,
        "Qwen2_5_VLForConditionalGeneration",
        qwen_vl(
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            window_size=4 * PATCH,
            fullatt_block_indexes=[1],
        ),
        "qwen",
        _QWEN_IMAGE,
        prompt=_QWEN_PROMPT,
    ),
    Tiny(
        "paligemma",
        "generative",
        _BOTH,
        "PaliGemmaForConditionalGeneration",
        {
            "vision_config": {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            "text_config": {"model_type": "gemma", **decoder(head_dim=16)},
            "image_token_index": VOCABULARY["<image>"],
            "projection_dim": 32,
            "hidden_size": 32,
        },
        "llama",
        Part("SiglipImageProcessorPil", {"size": _SQUARE, "image_seq_length": (IMAGE // PATCH) ** 2}),
        Part("PaliGemmaProcessor"),
        prompt="<image> what is this ?",
    ),
    Tiny(
        "blip2",
        "generative",
        _BOTH,
        "Blip2ForConditionalGeneration",
        {
            "vision_config": VISION,
            "qformer_config": {**TOWER, "vocab_size": len(VOCABULARY), "cross_attention_frequency": 2},
            "text_config": {"model_type": "opt", **_OPT},
            "num_query_tokens": 4,
            "image_text_hidden_size": 32,
            "image_token_index": VOCABULARY["<image>"],
        },
        "opt",
        Part("BlipImageProcessorPil", {"size": _SQUARE}),
        Part("Blip2Processor", {"num_query_tokens": 4}),
        prompt="what is this ?",
    ),
)

MODELS = (*_CONTRASTIVE, *_GENERATIVE, *_ENCODERS, *_DECODERS, *_ENCODER_DECODERS)
