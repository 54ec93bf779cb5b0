"""`zoo:emoji-clip`: what it is made of, and the batches it is trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

from cutaway import data
from cutaway.data.worlds import EMOJIWORLD
from cutaway.errors import InputError
from cutaway.zoo.contrastive import Pairs, Recipe, train
from cutaway.zoo.evaluate import Eyes, Row, evaluate
from cutaway.zoo.spec import Spec, Told
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

SIDE, PATCH, LONGEST = 64, 8, 32
# How often the pairs of each factor are shown in training: more of what random captions rarely ask for.
TOLD = {
    "category": 1, "place": 4, "artist": 2, "background": 1, "add": 1, "remove": 1, "binding place": 3,
    "binding colour": 2, "label": 1,
}  # fmt: skip
_SPECIALS = ("<unk>", "<|startoftext|>", "<|endoftext|>")


def untrained(seed: int = 0) -> Any:
    """The model before training, the same for the same seed: a `transformers.CLIPModel` of 2 million parameters."""
    from transformers import CLIPConfig, CLIPModel

    start, end = (vocabulary()[word] for word in _SPECIALS[1:])
    shared = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    text = {
        **shared, "num_hidden_layers": 3, "vocab_size": len(vocabulary()), "max_position_embeddings": LONGEST,
        "bos_token_id": start, "eos_token_id": end, "pad_token_id": end, "projection_dim": 128,
    }  # fmt: skip
    vision = {**shared, "num_hidden_layers": 6, "image_size": SIDE, "patch_size": PATCH, "projection_dim": 128}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)).eval()


def processor() -> Any:
    """Its picture and text processing: any picture squeezed to 64 × 64 and scaled to [-1, 1], one id for each word."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    size = {"height": SIDE, "width": SIDE}
    half = [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessorPil(size=size, do_center_crop=False, image_mean=half, image_std=half)
    return CLIPProcessor(pictures, tokenizer())


@cache
def tokenizer() -> Any:
    """A word-level tokenizer over `vocabulary()`, lower-case, with CLIP's start and end."""
    return word_tokenizer(replace(KINDS["clip"], max_length=LONGEST), vocabulary(), _SPECIALS)


@cache
def vocabulary() -> dict[str, int]:
    """Every word of the concepts and of the phrasings in which captions speak, in alphabetical order.

    The end of the text has the highest id, as in every CLIP: the library reads a text there, or, for one with
    `eos_token_id` 2, at its highest id.
    """
    said = [phrase for concept in data.concepts() for phrase in (concept.name, concept.one, concept.many)]
    for index in range(500):
        said += [one.text for one in data.captions(data.scene_at("train", index))]
    for factor in data.FACTORS:
        said += [
            text for pair in data.pairs(factor, 200, "train") for text in (pair.caption_a.text, pair.caption_b.text)
        ]
    said += [*data.PLACES, *data.COLOURS, *data.TINTS, *data.ARTISTS]
    words = {word for phrase in said for word in re.findall(r"\w+|[^\w\s]+", phrase.lower())}
    return {word: index for index, word in enumerate((*sorted(words), *_SPECIALS))}


def batches(recipe: Recipe) -> Callable[[int], Pairs]:
    """The pairs of any step: scenes of the training split with a caption each, some as counterfactual pairs."""
    once = recipe.contrast * recipe.batch / 2 / sum(TOLD.values())
    told = {factor: round(once * weight) for factor, weight in TOLD.items()}
    plain = recipe.batch - 2 * sum(told.values())
    if plain < 0:
        raise InputError(
            f"pairs of every factor, rounded, fill {recipe.batch - plain} places of a batch of {recipe.batch}",
            expected="at most as many as the batch has", do="a larger `batch`, or less `contrast`",
        )  # fmt: skip

    def draw(step: int) -> Pairs:
        scenes, said = [], []
        for factor, number in told.items():
            for pair in islice(_training_pairs(factor, recipe.seed, step), number):
                scenes += [pair.a, pair.b]
                said += [pair.caption_a.text, pair.caption_b.text]
        for index in range(step * plain, (step + 1) * plain):
            scenes.append(data.scene_at("train", index, recipe.seed))
            said.append(data.caption(scenes[-1], scenes[-1].seed).text)
        words = tokenizer()(said, padding=True, truncation=True, return_tensors="pt")
        return Pairs(data.tensor(scenes), words["input_ids"], words["attention_mask"])

    return draw


def _training_pairs(factor: str, seed: int, step: int) -> Any:
    """Pairs whose both scenes may be trained on."""
    for block in count():
        for pair in data.pairs(factor, 16, "train", seed=(seed * 1_000_003 + step) * 64 + block):
            if data.split_of(pair.b) == "train":
                yield pair


def _lost(module: Any, shipped: Any) -> float:
    """The largest change of a cosine of 500 test scenes and their captions."""
    items = list(data.items("test", 500))
    cosines = [
        eyes.scenes(item.scene for item in items) @ eyes.texts(item.caption.text for item in items).T
        for eyes in (Eyes(module, processor()), Eyes(shipped, processor()))
    ]
    return (cosines[0] - cosines[1]).abs().max().item()


def _measure(module: Any, tools: Any, n: int, told: Told) -> list[Row]:
    return evaluate(module, tools, n=n, told=told)


SPEC = Spec(
    "emoji-clip", "a small CLIP trained on the drawn scenes of EmojiWorld",
    start=untrained, processor=processor, recipe=Recipe, batches=batches, train=train,
    measure=_measure, lost=_lost, template=Path(__file__).with_suffix(".md"),
    asked="match", crowd=EMOJIWORLD, bank=EMOJIWORLD,
)  # fmt: skip
