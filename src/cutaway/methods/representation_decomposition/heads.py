"""The heads on a page: what each adds, the texts it varies with, what it attends to, the pictures that move it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray
from numpy import ndarray

from cutaway.data import Scene, render
from cutaway.methods.method import together
from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.representation_decomposition import Decomposition
from cutaway.methods.result import origin
from cutaway.methods.shown import Page
from cutaway.questions.question import Question
from cutaway.questions.rows import unit
from cutaway.views.kinds import Head, HeadTable, Phrase
from cutaway.views.picture import Picture
from cutaway.views.words import quoted, signed

MOVED = 4  # pictures shown of those in which a head adds most, and as many of those in which it adds least
THUMB = {"longest": 64, "lossless": 2_500}
COVERED = 0.5  # cosine: a bank without a text this near to what two texts differ in has no word for it
CLEAR = 1e-3  # cosine: of less, shares are not told


def heads(page: Page, own: Direct) -> HeadTable:
    """Each head's direct effect on the number that is explained, and what it is about."""
    spans, usual, value = page.made("head_texts"), own.usual(), page.question.value
    many = None if usual is None else usual.transpose("item", "layer", "head").values
    most, least, pictures = _moved(many, page)
    rows = []
    for (layer, head), effect in np.ndenumerate(own.heads.values):
        at = {"layer": layer, "head": head}
        extra: dict[str, float | None] = {"random texts": float(own.chance.isel(at))}
        if many is not None:
            extra["above its mean"] = float(effect - many[:, layer, head].mean())
        phrases: tuple[Phrase, ...] = ()
        if spans is not None:
            one = spans.data.isel(at)
            explained = np.diff(one["explained"].values, prepend=0.0)
            phrases = tuple(Phrase(str(t), float(v)) for t, v in zip(one["text"].values, explained, strict=True))
            extra |= {"fit": float(one["fit"].values[0])}
        part = float(effect) / value if abs(value) > CLEAR else None
        rows.append(Head(layer, head, float(effect), part, phrases=phrases, extra=extra,
                         most=most.get((layer, head), ()), least=least.get((layer, head), ())))  # fmt: skip
    return HeadTable(
        title="Heads", seen=_seen(page, own, rows, len(many) if many is not None else 0),
        limits="A direct effect is not the whole effect: a head can act through later layers, which patching shows and "
        "this does not. Attention says where a head looks, not what it takes from there. The texts say along which "
        "words a head varies over many pictures; near-synonyms share a direction, a bank without the right word names "
        "a neighbour, and a head need not be about one thing.",
        heads=tuple(rows), effect="direct effect", direct="share of all", code=_code(page),
        provenance=origin(own.parts if spans is None else spans), picture=page.picture,
        reader="average patch" if own.all_read else own.reader,
        patterns=own.attention().transpose("layer", "head", "row", "col").values, pictures=pictures, tower="vision",
    )  # fmt: skip


def _code(page: Page) -> str:
    """What heads add, and the texts they vary with where there are any."""
    looks: dict[str, Callable[..., Any]] = {"decomposition": by_head, "head_texts": named}
    return together(*((page.applied[name], look) for name, look in looks.items() if name in page.applied))


def by_head(found: Decomposition, question: Question) -> xarray.DataArray:
    """What each head adds to the number."""
    return Direct(question, found).heads


def named(found: Any) -> Any:
    """The texts that each head varies with."""
    return found.named()


def _seen(page: Page, own: Direct, rows: list[Head], many: int) -> str:
    """What is seen: the head that carries most, how many are above chance, the texts it varies with."""
    spans = page.made("head_texts")
    lead = own.leading
    best = next(row for row in rows if (row.layer, row.head) == lead)
    share = "" if best.direct is None else f", {signed(best.direct):.1%} of all"
    above = sum(abs(row.effect or 0) > 2 * (row.extra["random texts"] or 0) for row in rows)
    if best.phrases and spans is not None:
        fit = float(spans["random_fit"].isel(pick=0).mean())
        said = (
            f" Over {many} pictures it varies most with {quoted(best.phrases[0].text)} "
            f"(fit {best.extra['fit'] or 0:.3f}, random directions {fit:.3f} on average).{_uncovered(page, own)}"
        )
    else:
        said = " No texts describe the heads here: that takes many pictures (--pictures) and a bank of texts (--bank)."
    against = "speaks most against it" if (best.effect or 0) < 0 else "adds most"
    return (
        f"What each head adds directly to {page.number}, for {page.names.aim}. Layer {best.layer}, head {best.head} "
        f"{against}: {signed(best.effect or 0):+.3f}{share}. {above} of {len(rows)} heads have more than twice the "
        f"effect that they have on random texts.{said}"
    )


def _uncovered(page: Page, own: Direct) -> str:
    """A warning where no text of the bank is near to what is explained, so that a head's texts name something else."""
    bank, names = page.question.bank, page.names
    if bank is None:
        return ""
    words = own.texts.directions(centre=False).double()
    wanted = unit((words[0] - words[1] if len(words) > 1 else words[0])[None])[0]
    fits = (bank.directions(centre=len(words) > 1).double() @ wanted).abs().numpy(force=True)
    if fits.max() >= COVERED:
        return ""
    what = f"what {names[0]} and {names[1]} differ in" if len(words) > 1 else names[0]
    return (
        f" No text of the bank covers {what} (the nearest, {quoted(bank.texts[int(fits.argmax())])}, has a cosine of "
        f"{fits.max():.3f} with it), so these texts cannot say what the heads do for it: they name what else the heads "
        "vary with."
    )


Places = dict[tuple[int, ...], tuple[int, ...]]  # by layer and head


def _moved(usual: ndarray | None, page: Page) -> tuple[Places, Places, tuple[Picture, ...]]:
    """For each head the pictures in which it adds most and least, as places in the pictures that are given back."""
    crowd = page.question.crowd
    if usual is None or crowd is None:
        return {}, {}, ()
    order = np.argsort(-usual, 0)
    count = min(MOVED, len(order) // 2)
    first, last = order[:count], order[::-1][:count]
    used = {int(item): place for place, item in enumerate(np.unique([first, last]))}
    most, least = (
        {at: tuple(used[int(item)] for item in end[(slice(None), *at)]) for at in np.ndindex(order.shape[1:])}
        for end in (first, last)
    )
    many = {item: crowd[item] for item in used}
    shown = {item: render(one) if isinstance(one, Scene) else one for item, one in many.items()}
    return most, least, tuple(Picture.of(one, f"picture {item}", **THUMB) for item, one in shown.items())
