"""SmolLM2 out of a GGUF file: the names of its weights, the order of their rotary pairs, its tokenizer, its config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, PreTrainedTokenizerFast

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
CONTROL = 3  # the type of a token that is no text
HEADS = {"attn_q": "head_count", "attn_k": "head_count_kv"}

Fields = Mapping[str, Any]


def convert(path: Path, to: Path) -> None:
    """Write a GGUF file of a Llama with a byte-level BPE as a folder that `transformers` opens; needs `gguf`."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    given = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    to.mkdir(parents=True, exist_ok=True)
    save_file(weights(given, fields), to / "model.safetensors", {"format": "pt"})
    config(fields, tied="output.weight" not in given).save_pretrained(to)
    tokenizer(fields).save_pretrained(to)


def weights(given: Mapping[str, np.ndarray], fields: Fields) -> dict[str, torch.Tensor]:
    """The weights under the names and in the layout of `transformers`."""
    made = {}
    for name, value in given.items():
        part = name.split(".")[-2]
        if part in HEADS:
            value = halves(value, fields[f"llama.attention.{HEADS[part]}"])
        made[renamed(name)] = torch.from_numpy(np.array(value, dtype=np.float32, order="C"))
    return made


def renamed(name: str) -> str:
    """The name of a weight in `transformers`: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    known = {} if found is None else WHOLE if found[1] is None else BLOCK
    if found is None or found[2] not in known:
        raise KeyError(f"no weight of a Llama is called '{name}'")
    inside = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{inside}{known[found[2]]}.weight"


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of queries or keys with rotary pairs in two halves of a head, from pairs that are neighbours."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def config(fields: Fields, *, tied: bool) -> LlamaConfig:
    """The shape of the model."""
    named = {name.removeprefix("llama."): value for name, value in fields.items()}
    return LlamaConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]), hidden_size=named["embedding_length"],
        intermediate_size=named["feed_forward_length"], num_hidden_layers=named["block_count"],
        num_attention_heads=named["attention.head_count"], num_key_value_heads=named["attention.head_count_kv"],
        max_position_embeddings=named["context_length"],
        rms_norm_eps=round(named["attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": named["rope.freq_base"]}, tie_word_embeddings=tied,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"], eos_token_id=fields["tokenizer.ggml.eos_token_id"],
        pad_token_id=fields["tokenizer.ggml.padding_token_id"], architectures=["LlamaForCausalLM"], dtype="float32",
    )  # fmt: skip


def tokenizer(fields: Fields) -> PreTrainedTokenizerFast:
    """The tokenizer: a byte-level BPE that cuts numbers into digits, as the family's own does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"a tokenizer of another kind: {fields['tokenizer.ggml.pre']}")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    digits, text = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, text])
    made.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    made.add_special_tokens([AddedToken(token, special=True) for token, kind in kinds if kind == CONTROL])
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    named = {f"{role}_token": tokens[fields[f"tokenizer.ggml.{name}_token_id"]] for role, name in roles.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template=fields.get("tokenizer.chat_template"), clean_up_tokenization_spaces=False,
        model_max_length=fields["llama.context_length"], **named,
    )  # fmt: skip
