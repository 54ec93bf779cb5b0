"""Where the parts of each block class are. One row a class; `docs/adding-a-model.md` says how to add one."""

from __future__ import annotations

from cutaway.model.table import HEADS, PLANES, POOLED, TOKENS, UNITS, Attn, Block, Mlp, Port

_GATED = Mlp("mlp.gate_proj", "mlp.down_proj", "mlp", norm="post_attention_layernorm")
_LLAMA = Block(attn=Attn("self_attn", "self_attn.o_proj", "input_layernorm", v="self_attn.v_proj"), mlp=_GATED)
_CLIP = Block(
    attn=Attn("self_attn", "self_attn.out_proj", "layer_norm1", v="self_attn.v_proj"),
    mlp=Mlp("mlp.fc1", "mlp.fc2", "mlp", norm="layer_norm2"),
)
_DINO = Block(
    attn=Attn("attention", "attention.o_proj", "norm1", out="layer_scale1", v="attention.v_proj"),
    mlp=Mlp("mlp.fc1", "mlp.fc2", "layer_scale2", norm="norm2"),
)
_QWEN_VISION = Attn("attn", "attn.proj", "norm1")
_SPEECH_ATTN = Attn("self_attn", "self_attn.out_proj", "self_attn_layer_norm", v="self_attn.v_proj")
_SPEECH_CROSS = Attn("encoder_attn", "encoder_attn.out_proj", "encoder_attn_layer_norm")
_SPEECH_MLP = Mlp("fc1", "fc2", "fc2", norm="final_layer_norm")
_BERT_ATTN = Attn("attention", "attention.output.dense", "attention.output.LayerNorm", out="attention.output.dense",
                  caller="attention.self")  # fmt: skip

_TWO_STREAMS = {
    "image.resid_pre": Port("", "in", index=0, keyword="hidden_states"),
    "text.resid_pre": Port("", "in", index=1, keyword="encoder_hidden_states"),
    "image.resid_post": Port("", index=1),
}
_MMDIT = Block(
    attn=Attn("attn", ""),
    residual=False,
    extra={
        **_TWO_STREAMS,
        "image.attn.z": Port("attn.to_out.0", "in", HEADS, view="heads"),
        "text.attn.z": Port("attn.to_add_out", "in", HEADS, view="heads", unless="context_pre_only"),
        "image.attn.out": Port("attn.to_out.0"),
        "image.attn.gate": Port("norm1", axes=POOLED, index=1),
        "text.attn.out": Port("attn.to_add_out", unless="context_pre_only"),
        "image.resid_mid": Port("norm2", "mid"),
        "text.resid_mid": Port("norm2_context", "mid", unless="context_pre_only"),
        "image.mlp.pre": Port("ff.net.0.proj", axes=UNITS),
        "image.mlp.post": Port("ff.net.2", "in", UNITS),
        "image.mlp.out": Port("ff"),
        "image.mlp.gate": Port("norm1", axes=POOLED, index=4),
        "text.mlp.pre": Port("ff_context.net.0.proj", axes=UNITS, unless="context_pre_only"),
        "text.mlp.post": Port("ff_context.net.2", "in", UNITS, unless="context_pre_only"),
        "text.mlp.out": Port("ff_context", unless="context_pre_only"),
        "text.resid_post": Port("", index=0, unless="context_pre_only"),
    },
)

BLOCKS: dict[str, Block] = {
    # pictures
    "CLIPEncoderLayer": _CLIP,
    "SiglipEncoderLayer": _CLIP,
    "Blip2EncoderLayer": Block(
        attn=Attn("self_attn", "self_attn.projection", "layer_norm1"),
        mlp=Mlp("mlp.fc1", "mlp.fc2", "mlp", norm="layer_norm2"),
    ),
    "ViTLayer": Block(
        attn=Attn("attention", "attention.o_proj", "layernorm_before", v="attention.v_proj"),
        mlp=Mlp("mlp.fc1", "mlp.fc2", "mlp", norm="layernorm_after"),
    ),
    "Dinov2Layer": _DINO,
    "Dinov2WithRegistersLayer": _DINO,
    "Qwen2VLVisionBlock": Block(attn=_QWEN_VISION, mlp=Mlp("mlp.fc1", "mlp.fc2", "mlp", norm="norm2")),
    "Qwen2_5_VLVisionBlock": Block(attn=_QWEN_VISION, mlp=Mlp("mlp.gate_proj", "mlp.down_proj", "mlp", norm="norm2")),
    # decoders
    **{
        f"{name}DecoderLayer": _LLAMA
        for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "SmolLM3", "Qwen2VL", "Qwen2_5_VL")
    },
    "Gemma2DecoderLayer": Block(
        attn=Attn("self_attn", "self_attn.o_proj", "input_layernorm", out="post_attention_layernorm"),
        mlp=Mlp("mlp.gate_proj", "mlp.down_proj", "post_feedforward_layernorm", norm="pre_feedforward_layernorm"),
    ),
    "Phi3DecoderLayer": Block(
        attn=Attn("self_attn", "self_attn.o_proj", "input_layernorm", v="self_attn.qkv_proj"),
        mlp=Mlp("mlp.gate_up_proj", "mlp.down_proj", "mlp", "post_attention_layernorm", pre_view="first_half"),
    ),
    "GPT2Block": Block(
        attn=Attn("attn", "attn.c_proj", "ln_1", v="attn.c_attn"), mlp=Mlp("mlp.c_fc", "mlp.c_proj", "mlp", norm="ln_2")
    ),
    "OPTDecoderLayer": Block(_SPEECH_ATTN, mlp=_SPEECH_MLP, post_norm="!do_layer_norm_before", flat=True),
    "MambaBlock": Block(
        extra={
            "mixer.norm.scale": Port("norm", "scale", ("batch", "token")),
            "mixer.x": Port("mixer.in_proj", axes=("batch", "token", "d_inner"), view="first_half"),
            "mixer.gate": Port("mixer.in_proj", axes=("batch", "token", "d_inner"), view="second_half"),
            "mixer.conv": Port("mixer.x_proj", "mid", ("batch", "token", "d_inner")),
            "mixer.dt": Port("mixer.x_proj", axes=("batch", "token", "dt_rank"), view="dt"),
            "mixer.B": Port("mixer.x_proj", axes=("batch", "token", "d_state"), view="B"),
            "mixer.C": Port("mixer.x_proj", axes=("batch", "token", "d_state"), view="C"),
            "mixer.y": Port("mixer.out_proj", "in", ("batch", "token", "d_inner")),
            "mixer.out": Port("mixer"),
        }
    ),
    # encoders and encoder-decoders
    "BertLayer": Block(
        attn=_BERT_ATTN,
        mlp=Mlp("intermediate.dense", "output.dense", "output.dense", norm="output.LayerNorm"),
        post_norm=True,
    ),
    "Blip2QFormerLayer": Block(
        attn=Attn(
            "attention",
            "attention.output.dense",
            "attention.output.LayerNorm",
            out="attention.output.dense",
            caller="attention.attention",
        ),
        cross=Attn(
            "crossattention",
            "crossattention.output.dense",
            "crossattention.output.LayerNorm",
            out="crossattention.output.dense",
            caller="crossattention.attention",
            optional=True,
        ),
        mlp=Mlp("intermediate_query.dense", "output_query.dense", "output_query.dense", norm="output_query.LayerNorm"),
        post_norm=True,
    ),
    "WhisperEncoderLayer": Block(attn=_SPEECH_ATTN, mlp=_SPEECH_MLP),
    "WhisperDecoderLayer": Block(attn=_SPEECH_ATTN, cross=_SPEECH_CROSS, mlp=_SPEECH_MLP),
    "BartEncoderLayer": Block(attn=_SPEECH_ATTN, mlp=_SPEECH_MLP, post_norm=True),
    "BartDecoderLayer": Block(attn=_SPEECH_ATTN, cross=_SPEECH_CROSS, mlp=_SPEECH_MLP, post_norm=True),
    # diffusion
    "BasicTransformerBlock": Block(
        attn=Attn("attn1", "attn1.to_out.0", "norm1", adaptive="use_ada_layer_norm_zero"),
        cross=Attn("attn2", "attn2.to_out.0", "norm2", optional=True),
        mlp=Mlp("ff.net.0.proj", "ff.net.2", "ff", norm="norm3", pre_view="second_half", gate="ff.net.0"),
    ),
    # alone in a UNet without words; over planes, so that only its inside has positions
    "Attention": Block(attn=Attn("", "to_out.0", out="to_out.0"), residual=False, unless="added_kv_proj_dim"),
    "ResnetBlock2D": Block(residual=False, extra={"res.out": Port("", axes=PLANES)}),
    "JointTransformerBlock": _MMDIT,
    "FluxTransformerBlock": _MMDIT,
    "FluxSingleTransformerBlock": Block(
        attn=Attn("attn", ""),
        residual=False,
        extra={
            **_TWO_STREAMS,
            "attn.z": Port("proj_out", "in", HEADS, view="front_heads"),
            "mlp.pre": Port("proj_mlp", axes=UNITS),
            "mlp.post": Port("proj_out", "in", UNITS, view="back"),
            "gate": Port("norm", axes=POOLED, index=1),
            "text.resid_post": Port("", index=0),
        },
    ),
}

# First layers of an MLP in diffusers: whether the second half goes through the non-linearity and gates the first.
GATES = {"GEGLU": True, "SwiGLU": True, "GELU": False}

# Layers that keep their matrix as (in, out), as GPT-2 does.
TRANSPOSED = ("Conv1D",)

# Attention processors of diffusers that attend a second time, with the same queries, to the picture of an image prompt.
IMAGE_PROMPTED = (
    "IPAdapterAttnProcessor2_0", "IPAdapterAttnProcessor", "IPAdapterXFormersAttnProcessor",
    "SD3IPAdapterJointAttnProcessor2_0", "FluxIPAdapterAttnProcessor", "FluxIPAdapterJointAttnProcessor2_0",
)  # fmt: skip

RESIDUAL: dict[str, Port] = {"resid_pre": Port("", "in", TOKENS, keyword="hidden_states"), "resid_post": Port("")}
