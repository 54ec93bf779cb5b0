"""Relevance on a page: the maps of all methods on the picture, the words, how maps fit what is known to be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import xarray
from jaxtyping import Float
from PIL import Image

from cutaway.methods.relevance.measures import by_chance, covered, located
from cutaway.methods.relevance.relevance import Relevance
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.views import kinds
from cutaway.views.captions import WordMaps
from cutaway.views.picture import Picture
from cutaway.views.words import number, quoted

ENTRY = "relevance"
ENTRIES = {
    ENTRY: "AttnLRP", "relevance_by_attention": "attention x gradient", "relevance_by_slope": "gradient x input",
    "relevance_by_removal": "occlusion",
}  # fmt: skip
LIMITS = (
    "What the model would do without a part: only occlusion takes one away, and as no picture does. Methods contradict "
    "one another, and the scale of one says nothing beside that of another: each is shown as a share of its largest."
)


def show(page: Page) -> Iterator[kinds.View]:
    """The maps of every method, the words, and the scores where the truth is known."""
    made = found(page)
    if (
        page.picture is not None
        and all("picture" in one.data for one in made.values())
        and page.question.kind != "draw"
    ):
        yield maps(page, made)
    if any("word" in one.data for one in made.values()):
        yield words(page, made)
    if (drawing := drawn(page)) is not None and any("maps" in one.data for one in made.values()):
        yield counts(page, made, drawing)
    if scores := list(_scores(page, made)):
        yield _table(page, scores)


def found(page: Page) -> Mapping[str, Relevance]:
    """The results by what their methods are called."""
    return {said: page.made(name) for name, said in ENTRIES.items() if page.made(name) is not None}


def maps(page: Page, made: Mapping[str, Relevance]) -> kinds.Lens:
    """The first picture's map by each method."""
    shown, made = _laid(made)
    return kinds.Lens(
        title="Which patches the number depends on, by method",
        seen=f"By AttnLRP {_most(page.made(ENTRY))}.",
        limits=LIMITS, picture=page.seen, texts=(page.question.aim,), layers=tuple(made), axis="method",
        values=shown[None], unit="share of the largest", signed=True, provenance=origin(page.made(ENTRY)),
        code=page.applied[ENTRY].look(first_map).code,
    )  # fmt: skip


def _laid(made: Mapping[str, Relevance]) -> tuple[Float[np.ndarray, "method row col"], dict[str, Relevance]]:
    """The maps on the finest of their grids: a tower that merges patches has a coarser one behind that."""
    heats = {name: _share(one.map().values) for name, one in made.items()}
    rows, cols = (max(heat.shape[axis] for heat in heats.values()) for axis in (0, 1))
    fits = {name: heat for name, heat in heats.items() if not rows % heat.shape[0] and not cols % heat.shape[1]}
    laid = [heat.repeat(rows // heat.shape[0], 0).repeat(cols // heat.shape[1], 1) for heat in fits.values()]
    return np.stack(laid), {name: made[name] for name in fits}


def first_map(found: Relevance) -> xarray.DataArray:
    """The map of the first picture."""
    return found.map()


def words(page: Page, made: Mapping[str, Relevance]) -> kinds.Table:
    """The words by each method."""
    first = next(one for one in made.values() if "word" in one.data)
    said = first.words()
    shown = {name: _share(one["word"].values[0][: len(said)]) for name, one in made.items() if "word" in one.data}
    cells: list[tuple[kinds.Cell, ...]] = [
        (word, *(round(float(each[at]), 3) for each in shown.values())) for at, word in enumerate(said)
    ]
    return kinds.Table(
        title="Which words the number depends on, by method",
        seen=f"By AttnLRP {_most(page.made(ENTRY))}.", limits=LIMITS, columns=("word", *shown), cells=tuple(cells),
        provenance=origin(page.made(ENTRY)), code=page.applied[ENTRY].look().code,
    )  # fmt: skip


def drawn(page: Page) -> Picture | None:
    """What was drawn, where anything on this page drew it."""
    every = (one.result.data for one in page.applied.values())
    found = next((x["drawn"].values[0] for x in every if "drawn" in x and x["drawn"].dims[0] == "picture"), None)
    return None if found is None else Picture.of(Image.fromarray(found), "what was drawn")


def counts(page: Page, made: Mapping[str, Relevance], drawing: Picture) -> WordMaps:
    """Where each word of a prompt counts in what was drawn, by the methods that have maps of words."""
    mapped = {name: one for name, one in made.items() if "maps" in one.data}
    look = page.applied[next(name for name, said in ENTRIES.items() if said in mapped)].look(word_maps)
    said = next(iter(mapped.values())).words()
    values = np.stack([_share(one["maps"].values[0][: len(said)]) for one in mapped.values()], 1)
    shares = {name: _share(one["word"].values[0][: len(said)]) for name, one in made.items() if "word" in one.data}
    best = int(np.nanargmax(values[:, 0].mean((1, 2))))
    return WordMaps(
        title="Where each word counts in the drawing", picture=drawing, words=tuple(said), ways=tuple(mapped),
        told=tuple(f"The word at one step of the drawing: {_told(shares, at)}." for at in range(len(said))),
        values=values, shown=best, unit="share of the largest",
        bars=tuple(tuple(kinds.Bar(name, "by method", float(one[at])) for name, one in shares.items())
                   for at in range(len(said))),
        seen=f"By {next(iter(mapped))} {quoted(said[best])} counts most, over all places.",
        limits=f"{LIMITS} It is of one step; the picture is what the whole drawing came to.",
        provenance=origin(next(iter(mapped.values()))), code=look.code,
    )  # fmt: skip


def word_maps(found: Relevance) -> xarray.DataArray:
    """Where the words of the prompt count: (place, row, col)."""
    return found["maps"].isel(target=0)


def _told(shares: Mapping[str, np.ndarray], at: int) -> str:
    return ", ".join(f"{name} {number(float(one[at]))}" for name, one in shares.items())


def _scores(page: Page, made: Mapping[str, Relevance]) -> Iterator[tuple[kinds.Cell, ...]]:
    """Of each true thing that is spoken of: how the maps of the methods fit it, beside shuffled ones."""
    said = f"{' '.join(page.question.words)} {page.question.text}".lower()
    for name, mask in page.question.truth.items():
        if name.removeprefix("the ").split(" ")[-1] not in said:
            continue
        for method, one in made.items():
            if "picture" not in one.data:
                continue
            heat = one.map().values
            if mask.shape[0] % heat.shape[0] or mask.shape[1] % heat.shape[1]:
                continue
            truth = covered(mask, heat)
            fit, chance = located(heat, truth), by_chance(heat, truth)
            yield (
                name, method, round(fit.iou, 2), round(fit.best, 2), round(fit.hit, 2), round(fit.mass, 2),
                round(chance.iou, 2), round(chance.mass, 2),
            )  # fmt: skip


def _table(page: Page, rows: list[tuple[kinds.Cell, ...]]) -> kinds.Table:
    best = max(rows, key=lambda row: float(row[5] or 0))
    return kinds.Table(
        title="How relevance fits what is known to be there",
        seen=f"Most of its relevance on a thing has {best[1]}, on {quoted(str(best[0]))}: {best[5]} "
        f"({best[7]} by chance).",
        limits="Whether a map is true to the model: a model may look elsewhere, and a map that says so fits less.",
        columns=("thing", "method", "overlap", "best overlap", "points at it", "share on it", "overlap by chance",
                 "share by chance"),
        cells=tuple(rows), provenance=origin(page.made(ENTRY)), code=page.applied[ENTRY].look(first_map).code,
    )  # fmt: skip


def _share(values: np.ndarray) -> np.ndarray:
    return values / max(float(np.nanmax(np.abs(values))), 1e-30)


def _most(one: Relevance) -> str:
    """The word and the patch that count most, for the number or against it, in words."""
    said = []
    if "word" in one.data and one.words():
        values = one["word"].values[0][: len(one.words())]
        at = int(np.nanargmax(np.abs(values)))
        said.append(f"the word that counts most is {quoted(one.words()[at])}{_against(values[at])}")
    if "picture" in one.data and bool(one["picture"].isel(target=0).notnull().any()):
        heat = one.map().values
        size = np.abs(heat)
        row, col = np.unravel_index(int(np.nanargmax(size)), heat.shape)
        share = float(size[row, col] / max(np.nansum(size), 1e-30))
        said.append(f"the patch at row {row}, column {col}{_against(heat[row, col])} ({share:.1%} of the size of all)")
    return ", and ".join(said) or "nothing has any"


def _against(value: float) -> str:
    return " (against it)" if value < 0 else ""
