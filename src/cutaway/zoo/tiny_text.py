"""Word-level tokenizers for the tiny models: one vocabulary, one set of ids, a kind per family of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SPECIALS = """
<pad> <s> </s> <unk> <image> <|startoftext|> <|endoftext|> [CLS] [SEP] [MASK] <|vision_start|> <|vision_end|>
<|image_pad|> <|video_pad|> <|startoftranscript|> <|notimestamps|>
"""

_WORDS = """
a an the this that these those it its he she they we you i me my your his her their one two three four five six seven
eight nine ten of on in at to from with without by for over under near behind above below left right up down between
inside outside next front back top bottom middle and or not no yes but if then is are was were be been has have had do
does did can will there here what where who which when why how many much photo picture image drawing painting scene
color shape size number word answer question cat dog bird fish horse cow sheep car bus bike train boat plane tree
flower grass leaf house door window road street city sky sun moon star cloud rain snow sea river hill man woman boy girl
child person people hand eye face head foot table chair bed cup plate book ball box bag hat red green blue yellow orange
purple pink brown black white gray big small large little tall short long round square circle triangle heart old new
young hot cold happy sad good bad fast slow open closed sitting standing running eating holding looking flying
0 1 2 3 4 5 6 7 8 9 . , ! ? : ; ' " - ( ) /
"""

SPECIALS = _SPECIALS.split()
VOCABULARY = {word: index for index, word in enumerate([*SPECIALS, *_WORDS.split()])}


@dataclass(frozen=True)
class Kind:
    """What a family of tokenizers adds around the words: its special tokens, and the template that places them."""

    eos: str
    pad: str
    bos: str | None = None
    template: str = "$A"
    max_length: int = 128
    roles: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")


_VISION = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}

KINDS = {
    "clip": Kind("<|endoftext|>", "<|endoftext|>", "<|startoftext|>", "<|startoftext|> $A <|endoftext|>", 16),
    "siglip": Kind("</s>", "</s>", None, "$A </s>", 16, inputs=("input_ids",)),
    "siglip2": Kind("</s>", "<pad>", None, "$A", 64, inputs=("input_ids",)),
    "llama": Kind("</s>", "<pad>", "<s>", "<s> $A", roles={"image_token": "<image>"}),
    "gpt2": Kind("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    "qwen": Kind("<|endoftext|>", "<pad>", roles=_VISION),
    "opt": Kind("</s>", "<pad>", "</s>", "</s> $A"),
    "bert": Kind("[SEP]", "<pad>", "[CLS]", "[CLS] $A [SEP]"),
    "bart": Kind("</s>", "<pad>", "<s>", "<s> $A </s>"),
    "t5": Kind("</s>", "<pad>", None, "$A </s>"),
    "whisper": Kind(
        "<|endoftext|>", "<|endoftext|>", "<|startoftranscript|>", "<|startoftranscript|> <|notimestamps|> $A"
    ),
}


def special_ids(kind: str) -> dict[str, int | None]:
    """The ids a model's config must agree on with `tokenizer(kind)`."""
    made = KINDS[kind]
    roles = {"bos_token_id": made.bos, "eos_token_id": made.eos, "pad_token_id": made.pad}
    return {role: None if token is None else VOCABULARY[token] for role, token in roles.items()}


def tokenizer(kind: str) -> Any:
    """A lower-case word-level tokenizer with the special tokens of `kind`."""
    return word_tokenizer(KINDS[kind], VOCABULARY, SPECIALS, bert=kind == "bert")


def word_tokenizer(made: Kind, vocabulary: dict[str, int], specials: Sequence[str], *, bert: bool = False) -> Any:
    """A lower-case tokenizer with one id for each word and mark, `<unk>` for any other."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    used = {token for token in made.template.split() if token in vocabulary}
    backend.post_processor = processors.TemplateProcessing(
        single=made.template, special_tokens=[(token, vocabulary[token]) for token in sorted(used)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token=made.pad,
        eos_token=made.eos,
        bos_token=made.bos,
        model_max_length=made.max_length,
        model_input_names=list(made.inputs),
        extra_special_tokens=dict(made.roles),
        **({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"} if bert else {}),
    )
