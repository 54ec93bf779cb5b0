"""The edit bench on a page: another prompt drawn with the attention of the first, for more and more of the steps."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from cutaway.methods.cross_attention.drawn_again import DrawnAgain
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import films
from cutaway.views.picture import Picture
from cutaway.views.words import number

ENTRY = "prompt_to_prompt_drawings"
SHARES = (0.0, 0.4, 0.8)  # of the steps, on a page: nine drawings beside the first


def show(page: Page) -> Iterator[films.Gallery]:
    """The first drawing, the other prompt with more and more of its attention, and the most with patches by chance."""
    found: DrawnAgain = page.made(ENTRY)
    shares, last = found["share"].values, found.data.sizes["share"] - 1
    pictures = [found["first"], *found["drawn"], found["random_drawn"][last]]
    captions = ["this prompt", *(_caption(float(share)) for share in shares), "the last, its patches by chance"]
    rows = [(0.0, float(found["here"])), *zip(found["moved"].values, found["value"].values, strict=True)]
    rows.append((float(found["random_moved"][last]), float(found["random_value"][last])))
    yield films.Gallery(
        title="The other prompt, drawn where this one looked", seen=_said(found),
        limits="The same noise lays out much of a picture, so what stays need not lie in the attention. By chance as "
        "much attention goes to each word, in wrong places.",
        pictures=tuple(Picture.of(Image.fromarray(one.values), text)
                       for one, text in zip(pictures, captions, strict=True)),
        captions=tuple(captions),
        columns=("moved, grey levels of 255", found.provenance.options["unit"]),
        cells=tuple((float(moved), float(value)) for moved, value in rows),
        provenance=origin(found), code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def tell(page: Page) -> Iterator[str]:
    """How much nearer the other prompt stays with the attention of the first."""
    yield _said(page.made(ENTRY))


def _caption(share: float) -> str:
    return "the other prompt" if share == 0 else f"attention of {share:.0%} of the steps"


def _said(found: DrawnAgain) -> str:
    plain, most = (float(found["moved"][at]) for at in (0, -1))
    value, chance = float(found["value"][-1]), float(found["random_value"][-1])
    return (
        f"The other prompt moves the picture by {number(plain)} grey levels of 255; with the attention to words of "
        f"this one at {float(found['share'][-1]):.0%} of the steps by {number(most)}, with its patches by chance by "
        f"{number(float(found['random_moved'][-1]))}. What it asks for ({found.provenance.options['unit']}) is then "
        f"{number(value)}, by chance {number(chance)}, and {number(float(found['value'][0]))} without any of it."
    )
