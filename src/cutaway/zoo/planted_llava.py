"""`zoo:planted-llava`: a small LLaVA that says which colour a cell of a picture has, by a circuit planted in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.zoo import siit
from cutaway.zoo.planted import Edge, Plant, Values, Variable, Verdict, next_word, size
from cutaway.zoo.planting import planted
from cutaway.zoo.tiny_text import KINDS, word_tokenizer

PAINTS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
COLOURS = tuple(PAINTS)
PALETTES = ((0, 1, 2, 3), (1, 0, 3, 2))  # what paints are called: plainly; red and green, blue and yellow swapped
LEGENDS = (255, 0)  # the shade of the patch that says which palette holds: white, black
PLACES = ("northwest", "northeast", "southwest", "southeast")
PATCH, ACROSS = 4, 3
CORNERS, MIDDLE = ((0, 0), (0, 2), (2, 0), (2, 2)), (1, 1)
GRAIN = 12
_SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
WIDTH, INNER, HEADS = 48, 128, 4
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %} is{% endif %}"
)


@dataclass(frozen=True)
class Recipe(siit.Recipe):
    """How to plant: briefly. With seed 0 and 2,500 steps a head told one place by looking away, and an edge failed."""

    steps: int = 1000
    alone: int = 300
    seed: int = 1


@cache
def vocabulary() -> dict[str, int]:
    """Special tokens, then colours, places and "is"."""
    return {word: index for index, word in enumerate((*_SPECIALS, *COLOURS, *PLACES, "is"))}


def processor() -> Any:
    """Pictures of 12 × 12 in [-1, 1], a word an id, nine places for the patches of a picture."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side, half = {"height": PATCH * ACROSS, "width": PATCH * ACROSS}, [0.5, 0.5, 0.5]
    pictures = CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half)
    words = word_tokenizer(KINDS["llama"], vocabulary(), _SPECIALS)
    return LlavaProcessor(
        pictures, words, patch_size=PATCH, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        image_token="<image>", chat_template=TEMPLATE,
    )  # fmt: skip


def untrained(seed: int = 0) -> Any:
    """Before training: a `transformers.LlavaForConditionalGeneration`, drawn by `seed`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    shared = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    text = LlamaConfig(
        **shared, num_key_value_heads=HEADS, vocab_size=len(vocabulary()), max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = CLIPVisionConfig(**shared, image_size=PATCH * ACROSS, patch_size=PATCH, hidden_act="gelu")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=vocabulary()["<image>"], vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=ACROSS**2, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config).eval()


def draw(seed: int, n: int) -> Values:
    """A legend, the paints of four cells, a place, and grain, all by chance."""
    made = torch.Generator().manual_seed(seed)
    side = PATCH * ACROSS
    return {
        "legend": torch.randint(len(LEGENDS), (n,), generator=made),
        "paints": torch.randint(len(COLOURS), (n, len(PLACES)), generator=made),
        "place": torch.randint(len(PLACES), (n,), generator=made),
        "grain": torch.randint(-GRAIN, GRAIN + 1, (n, side, side, 3), generator=made),
    }


def pixels(values: Values) -> UInt8[Tensor, "row side side 3"]:
    """Grey, the legend in the middle, a paint in each corner; grain over all of it."""
    patches = torch.full((size(values), ACROSS, ACROSS, 3), 128)
    paints = torch.tensor([PAINTS[colour] for colour in COLOURS])
    for cell, (row, column) in enumerate(CORNERS):
        patches[:, row, column] = paints[values["paints"][:, cell]]
    patches[:, MIDDLE[0], MIDDLE[1]] = torch.tensor(LEGENDS)[values["legend"]][:, None]
    shown = patches.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2) + values["grain"]
    return shown.clamp(0, 255).to(torch.uint8)


def pictures(values: Values) -> list[Image.Image]:
    """The same as pictures."""
    return [Image.fromarray(one) for one in pixels(values).numpy()]


def texts(values: Values) -> list[str]:
    """What is asked: a place."""
    return [PLACES[place] for place in values["place"].tolist()]


def inputs(model: Model, values: Values) -> Inputs:
    """Pictures with what is asked, as the processor makes them of `pictures` and `texts`."""
    words, rows = vocabulary(), size(values)
    prompt = torch.tensor([words["<s>"], *[words["<image>"]] * ACROSS**2, 0, words["is"]]).repeat(rows, 1)
    prompt[:, -2] = values["place"] + words[PLACES[0]]
    shown = pixels(values).permute(0, 3, 1, 2).float() / 127.5 - 1
    return model.inputs(input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=shown)


def judge(run: Run, values: Values) -> Verdict:
    """The next word beside the colour that it should be."""
    return next_word(run, values["answer"], [vocabulary()[colour] for colour in COLOURS])


def _named(told: Int[Tensor, " row"], paints: Int[Tensor, "row cell"]) -> Int[Tensor, "row cell"]:
    return torch.tensor(PALETTES)[told].gather(1, paints)


def _fetched(carried: Int[Tensor, "row cell"], asked: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
    return carried.gather(1, asked[:, None])[:, 0]


PLANT = Plant(
    "planted-llava", "a picture of four cells and a legend, a place: the name of the colour there", len(COLOURS),
    draw, {"legend": "vision.embed", "paints": "vision.embed", "place": "text.embed"},
    (
        Variable(
            "told", "vision.0.attn[2]", "which palette holds, brought from the legend to all cells",
            {"legend": Edge("vision.embed", "vision.0.attn[2].v")}, lambda legend: legend,
        ),
        Variable(
            "colours", "vision.1.mlp", "what the paint of each cell is called in that palette",
            {"told": Edge("vision.0.attn[2]", "vision.1.mlp"), "paints": Edge("vision.embed", "vision.1.mlp")}, _named,
        ),
        Variable(
            "carried", "connector", "the same, where the decoder sees it",
            {"colours": Edge("vision.1.mlp", "connector")}, lambda colours: colours,
        ),
        Variable(
            "asked", "text.0.attn[1]", "the place that is asked, brought to the last word",
            {"place": Edge("text.embed", "text.0.attn[1].v")}, lambda place: place,
        ),
        Variable(
            "colour", "text.1.attn[3]", "the colour at that place",
            {"carried": Edge("connector", "text.1.attn[3].v"), "asked": Edge("text.0.attn[1]", "text.1.attn[3].q")},
            _fetched,
        ),
        Variable(
            "answer", "text.end", "what is said", {"colour": Edge("text.1.attn[3]", "text.end")}, lambda colour: colour
        ),
    ),
    inputs, judge,
)  # fmt: skip

SPEC = planted(PLANT, untrained, processor, Recipe, Path(__file__).with_suffix(".md"))
