"""`zoo:planted-clip`: a small CLIP that matches a colour and a kind with words, by circuits planted in both towers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo import siit
from cutaway.zoo.planted import Edge, Plant, Values, Variable, Verdict, size
from cutaway.zoo.planting import planted
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

PAINTS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
COLOURS = tuple(PAINTS)
SHAPES = {
    "star": "x...x .x.x. ..x.. .x.x. x...x", "cross": "..x.. ..x.. xxxxx ..x.. ..x..",
    "ring": "xxxxx x...x x...x x...x xxxxx", "bar": "..... xxxxx xxxxx xxxxx .....",
}  # fmt: skip
THINGS = tuple(SHAPES)
PATCH, ACROSS = 5, 2
GRAIN = 12
WIDTH, INNER, HEADS, JOINT = 32, 96, 4, 32
_SPECIALS = ("<unk>", "<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Recipe(siit.Recipe):
    """How to plant: briefly, for no variable waits for another."""

    steps: int = 1200


@cache
def vocabulary() -> dict[str, int]:
    """Colours and things, then special tokens: a CLIP reads a text at its highest id."""
    return {word: index for index, word in enumerate((*COLOURS, *THINGS, *_SPECIALS))}


def processor() -> Any:
    """Pictures of 10 × 10 in [-1, 1], a word an id between CLIP's start and end."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    side, half = {"height": PATCH * ACROSS, "width": PATCH * ACROSS}, [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half)
    return CLIPProcessor(pictures, word_tokenizer(replace(KINDS["clip"], max_length=8), vocabulary(), _SPECIALS))


def untrained(seed: int = 0) -> Any:
    """Before training: a `transformers.CLIPModel`, drawn by `seed`."""
    from transformers import CLIPConfig, CLIPModel

    words = vocabulary()
    shared = {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "hidden_act": "gelu", "projection_dim": JOINT,
    }  # fmt: skip
    start, end = words["<|startoftext|>"], words["<|endoftext|>"]
    text = {
        **shared, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": start, "eos_token_id": end,
        "pad_token_id": end,
    }  # fmt: skip
    vision = {**shared, "image_size": PATCH * ACROSS, "patch_size": PATCH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=JOINT)).eval()


def draw(seed: int, n: int) -> Values:
    """A paint and a kind that are seen, those that are said, two greys and grain, all by chance."""
    made = torch.Generator().manual_seed(seed)
    side = PATCH * ACROSS
    four = {name: torch.randint(4, (n,), generator=made) for name in ("paint", "kind", "said colour", "said kind")}
    return {
        **four,
        "greys": torch.randint(40, 216, (n, 2), generator=made),
        "grain": torch.randint(-GRAIN, GRAIN + 1, (n, side, side, 3), generator=made),
    }


def pixels(values: Values) -> UInt8[Tensor, "row side side 3"]:
    """The paint at the top left, the kind in white at the bottom right, two greys; grain over all of it."""
    rows = size(values)
    patches = torch.zeros(rows, ACROSS, ACROSS, PATCH, PATCH, 3, dtype=torch.long)
    patches[:, 0, 0] = torch.tensor([PAINTS[one] for one in COLOURS])[values["paint"]][:, None, None]
    patches[:, 0, 1] = values["greys"][:, 0, None, None, None]
    patches[:, 1, 0] = values["greys"][:, 1, None, None, None]
    drawn = torch.tensor([[[dot == "x" for dot in line] for line in SHAPES[one].split()] for one in THINGS])
    patches[:, 1, 1] = drawn[values["kind"]][..., None] * 190 + 30
    shown = patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2) + values["grain"]
    return shown.clamp(0, 255).to(torch.uint8)


def pictures(values: Values) -> list[Image.Image]:
    """The same as pictures."""
    return [Image.fromarray(one) for one in pixels(values).numpy()]


def texts(values: Values, seen: bool = False) -> list[str]:
    """What is said, such as "red star"; or what would be right to say of what is `seen`."""
    colour, kind = ("paint", "kind") if seen else ("said colour", "said kind")
    both = zip(values[colour].tolist(), values[kind].tolist(), strict=True)
    return [f"{COLOURS[one]} {THINGS[other]}" for one, other in both]


def as_said(values: Values) -> Values:
    """The same where what is seen is what is said."""
    return {**values, "paint": values["said colour"], "kind": values["said kind"]}


def inputs(model: Model, values: Values) -> Inputs:
    """As many pictures as texts, as the processor makes them of `pictures` and `texts`."""
    words = vocabulary()
    first = torch.full_like(values["kind"], words["<|startoftext|>"])
    said = [values["said colour"] + words[COLOURS[0]], values["said kind"] + words[THINGS[0]]]
    prompt = torch.stack([first, *said, torch.full_like(first, words["<|endoftext|>"])], 1)
    shown = pixels(values).permute(0, 3, 1, 2).float() / 127.5 - 1
    return model.inputs(input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=shown)


def judge(run: Run, values: Values) -> Verdict:
    """Of picture i and text i: whether what is nearest in the batch matches, if anything does; the loss is CLIP's."""
    fit: Float[Tensor, "row row"] = run.outputs.logits_per_image
    match: Bool[Tensor, "row row"] = (values["seen"][:, None] == values["said"]).to(fit.device)
    loss, right = torch.zeros_like(fit[:, 0]), torch.ones_like(match[:, 0])
    for near, alike in ((fit, match), (fit.T, match.T)):
        likely = near.log_softmax(-1).masked_fill(~alike, torch.finfo(near.dtype).min).logsumexp(-1)
        loss = loss - torch.where(alike.any(-1), likely, 0.0) / 2
        right = right & (alike.gather(1, near.argmax(-1, keepdim=True))[:, 0] | ~alike.any(-1))
    return Verdict(loss, right, torch.cat([run.outputs.image_embeds, run.outputs.text_embeds], -1))


def _same(value: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    return value


def _both(colour: Int[Tensor, " row"], kind: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    return colour * len(THINGS) + kind


def _moved(name: str, tower: str, head: str, about: str, given: str) -> Variable:
    node = f"{tower}.{head}"
    return Variable(name, node, about, {"value": Edge(f"{tower}.embed", f"{node}.v")}, _same, {"value": given})


PLANT = Plant(
    "planted-clip", "a colour and a kind in a picture, and in words: whether both match", len(COLOURS) * len(THINGS),
    draw,
    {"paint": "vision.embed", "kind": "vision.embed", "said colour": "text.embed", "said kind": "text.embed"},
    (
        _moved("colour seen", "vision", "0.attn[3]", "the paint, brought to the class token", "paint"),
        _moved("kind seen", "vision", "1.attn[0]", "the kind, brought to the class token", "kind"),
        Variable(
            "seen", "vision.end", "what the picture is in the space of both",
            {"colour": Edge("vision.0.attn[3]", "vision.end"), "kind": Edge("vision.1.attn[0]", "vision.end")}, _both,
            {"colour": "colour seen", "kind": "kind seen"},
        ),
        _moved("kind said", "text", "0.attn[1]", "the kind, brought to the end token", "said kind"),
        _moved("colour said", "text", "1.attn[2]", "the colour, brought to the end token", "said colour"),
        Variable(
            "said", "text.end", "what the text is in the space of both",
            {"colour": Edge("text.1.attn[2]", "text.end"), "kind": Edge("text.0.attn[1]", "text.end")}, _both,
            {"colour": "colour said", "kind": "kind said"},
        ),
    ),
    inputs, judge, ("seen", "said"),
)  # fmt: skip

SPEC = planted(PLANT, untrained, processor, Recipe, Path(__file__).with_suffix(".md"))
