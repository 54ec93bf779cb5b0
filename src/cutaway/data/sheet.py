"""Contact sheets: many scenes at a glance, each with its caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFont

from cutaway.data.captions import caption
from cutaway.data.pairs import FACTORS, pairs
from cutaway.data.render import render
from cutaway.data.scene import Scene
from cutaway.data.splits import Split
from cutaway.data.worlds import DEFAULT, World, scenes
from cutaway.errors import InputError

_PAPER, _INK = (255, 255, 255), (30, 30, 34)
_MARGIN, _LINES = 8, 3


def contact_sheet(
    n: int = 24, split: Split = "train", seed: int = 0, size: int = 128, world: World = DEFAULT
) -> Image.Image:
    """The first n scenes of a split, drawn at `size` pixels, each with one caption below it."""
    world = replace(world, canvas=(size, size))
    found = list(scenes(split, n, seed, world))
    return sheet([(scene, caption(scene, scene.seed).text) for scene in found], size)


def pair_sheet(n: int = 2, split: Split = "test", seed: int = 0, size: int = 128) -> Image.Image:
    """N counterfactual pairs of every factor side by side, each picture with the caption that is true of it alone."""
    world = replace(DEFAULT, canvas=(size, size))
    found = [pair for factor in FACTORS for pair in pairs(factor, n, split, seed, world)]
    cells = [cell for pair in found for cell in ((pair.a, pair.caption_a.text), (pair.b, pair.caption_b.text))]
    return sheet(cells, size, columns=2 * n)


def sheet(cells: Sequence[tuple[Scene, str]], size: int = 128, columns: int | None = None) -> Image.Image:
    """Scenes with a text below each, in rows on white."""
    if not cells:
        raise InputError("there is nothing to show", expected="at least one scene", do="ask for more")
    columns = columns or max(1, min(len(cells), 1024 // (size + _MARGIN)))
    letter = max(10, size // 10)
    font = ImageFont.load_default(letter)
    line = round(letter * 1.25)
    tall, wide = size + _LINES * line + _MARGIN, size + _MARGIN
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * wide + _MARGIN, rows * tall + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    for index, (scene, text) in enumerate(cells):
        x, y = _MARGIN + index % columns * wide, _MARGIN + index // columns * tall
        picture = render(scene)
        picture.thumbnail((size, size))
        page.paste(picture, (x, y))
        room = int(size // (font.getlength("abcdefghijklmnopqrstuvwxyz ") / 27))
        short = textwrap.wrap(text, room, max_lines=_LINES, placeholder="…")
        draw.multiline_text((x, y + size + 1), "\n".join(short), fill=_INK, font=font, spacing=1)
    return page
