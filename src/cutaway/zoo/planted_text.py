"""`zoo:planted-text`: a small Llama that says which colour stands at a place, by a circuit that was planted in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo.planted import Edge, Plant, Values, Variable, Verdict, next_word
from cutaway.zoo.planting import planted
from cutaway.zoo.siit import Recipe
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
PLACES = ("north", "east", "south", "west")
WAYS = ("here", "across")  # the place itself, or the one across from it
_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
WIDTH, INNER, HEADS, LAYERS = 48, 128, 4, 3


@cache
def vocabulary() -> dict[str, int]:
    """Special tokens, then colours, places and ways."""
    return {word: index for index, word in enumerate((*_SPECIALS, *COLOURS, *PLACES, *WAYS))}


def processor() -> Any:
    """A tokenizer with an id for each word, `<s>` in front."""
    return word_tokenizer(KINDS["llama"], vocabulary(), _SPECIALS)


def untrained(seed: int = 0) -> Any:
    """Before training: a `transformers.LlamaForCausalLM`, drawn by `seed`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, vocab_size=len(vocabulary()), max_position_embeddings=16, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def draw(seed: int, n: int) -> Values:
    """Four colours, a place and a way, all by chance."""
    made = torch.Generator().manual_seed(seed)
    return {
        "colours": torch.randint(len(COLOURS), (n, len(PLACES)), generator=made),
        "place": torch.randint(len(PLACES), (n,), generator=made),
        "way": torch.randint(len(WAYS), (n,), generator=made),
    }


def texts(values: Values) -> list[str]:
    """The prompts, such as "red blue green red north across"."""
    return [
        " ".join([*(COLOURS[one] for one in colours), PLACES[place], WAYS[way]])
        for colours, place, way in zip(*(values[name].tolist() for name in ("colours", "place", "way")), strict=True)
    ]


def inputs(model: Model, values: Values) -> Inputs:
    """The prompts as the tokenizer makes them of `texts`."""
    words = vocabulary()
    first = torch.full_like(values["place"], words["<s>"])
    ids = [first, *(values["colours"].T + words[COLOURS[0]]), values["place"] + words[PLACES[0]]]
    prompt = torch.stack([*ids, values["way"] + words[WAYS[0]]], 1)
    return model.inputs(input_ids=prompt, attention_mask=torch.ones_like(prompt))


def judge(run: Run, values: Values) -> Verdict:
    """The next word beside the colour that it should be."""
    return next_word(run, values["answer"], [vocabulary()[colour] for colour in COLOURS])


def _there(asked: Int[Tensor, " row"], way: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    return (asked + way * (len(PLACES) // 2)) % len(PLACES)


def _fetched(colours: Int[Tensor, "row place"], at: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    return colours.gather(1, at[:, None])[:, 0]


PLANT = Plant(
    "planted-text", "four colours in order, a place, here or across: the colour there", len(COLOURS),
    draw, {"colours": "text.embed", "place": "text.embed", "way": "text.embed"},
    (
        Variable(
            "asked", "text.0.attn[1]", "the place that is named, brought to the last word",
            {"place": Edge("text.embed", "text.0.attn[1].v")}, lambda place: place,
        ),
        Variable(
            "at", "text.1.mlp", "the place that is meant, of the place and the way",
            {"asked": Edge("text.0.attn[1]", "text.1.mlp"), "way": Edge("text.embed", "text.1.mlp")}, _there,
        ),
        Variable(
            "colour", "text.2.attn[2]", "the colour that stands there",
            {"colours": Edge("text.embed", "text.2.attn[2].v"), "at": Edge("text.1.mlp", "text.2.attn[2].q")}, _fetched,
        ),
        Variable(
            "answer", "text.end", "what is said", {"colour": Edge("text.2.attn[2]", "text.end")}, lambda colour: colour
        ),
    ),
    inputs, judge,
)  # fmt: skip

SPEC = planted(PLANT, untrained, processor, Recipe, Path(__file__).with_suffix(".md"))
