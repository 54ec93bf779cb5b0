"""The heads on the page: what each adds, the texts it varies with, what it attends to, the pictures that move it."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from cutaway.data import Scene, render
from cutaway.questions.rows import unit
from cutaway.report.battery import Battery
from cutaway.report.sections import CLEAR, leading, origin
from cutaway.report.snippets import Snippets
from cutaway.report.words import aim, name, number, quoted, signed
from cutaway.views.kinds import Head, HeadTable, Span
from cutaway.views.picture import Picture

MOVED = 4  # pictures shown of those in which a head adds most, and as many of those in which it adds least
THUMB = {"longest": 64, "lossless": 2_500}
COVERED = 0.5  # cosine: a bank without a text this near to what two texts differ in has no word for it


def heads(found: Battery, picture: Picture, code: Snippets) -> HeadTable:
    """Each head's direct effect on the number that is explained, and what it is about."""
    own, spans = found.own, found.spans
    usual = _usual(found)
    most, least, pictures = _moved(usual, found)
    rows = []
    for (layer, head), value in np.ndenumerate(own.heads.values):
        at = {"layer": layer, "head": head}
        extra: dict[str, float | None] = {"random texts": float(own.head_chance.isel(at))}
        if usual is not None:
            extra["above its mean"] = float(value - usual[:, layer, head].mean())
        named: tuple[Span, ...] = ()
        if spans is not None:
            one = spans.data.isel(at)
            explained = np.diff(one["explained"].values, prepend=0.0)
            named = tuple(Span(str(t), float(v)) for t, v in zip(one["text"].values, explained, strict=True))
            extra |= {"fit": float(one["fit"].values[0])}
        part = float(value) / own.margin if abs(own.margin) > CLEAR else None
        rows.append(Head(layer, head, float(value), part, spans=named, extra=extra,
                         most=most.get((layer, head), ()), least=least.get((layer, head), ())))  # fmt: skip
    return HeadTable(
        title="Heads", seen=_seen(found, rows),
        limits="A direct effect is not the whole effect: a head can act through later layers, which patching shows and "
        "this does not. Attention says where a head looks, not what it takes from there. The texts say along which "
        "words a head varies over many pictures; near-synonyms share a direction, a bank without the right word names "
        "a neighbour, and a head need not be about one thing.",
        heads=tuple(rows), effect="direct effect", direct="share of all", code=code.heads(spans is not None),
        provenance=origin(spans if spans is not None else own.parts), picture=picture,
        reader="average patch" if own.all_read else own.reader,
        patterns=None if found.attention is None else found.attention.transpose("layer", "head", "row", "col").values,
        pictures=pictures,
    )  # fmt: skip


def _seen(found: Battery, rows: list[Head]) -> str:
    """What is seen: the head that carries most, how many are above chance, the texts it varies with."""
    own, spans = found.own, found.spans
    lead = leading(own)
    best = next(row for row in rows if (row.layer, row.head) == lead)
    share = "" if best.direct is None else f", {signed(best.direct):.1%} of all"
    above = sum(abs(row.effect or 0) > 2 * (row.extra["random texts"] or 0) for row in rows)
    if best.spans and found.crowd is not None and spans is not None:
        fit = float(spans["random_fit"].isel(pick=0).mean())
        said = (
            f" Over {found.crowd.data.sizes['item']} pictures it varies most with {quoted(best.spans[0].text)} "
            f"(fit {best.extra['fit'] or 0:.3f}, random directions {fit:.3f} on average).{_uncovered(found)}"
        )
    else:
        said = " No texts describe the heads here: that takes many pictures (--pictures) and a bank of texts (--bank)."
    against = "speaks most against it" if (best.effect or 0) < 0 else "adds most"
    return (
        f"What each head adds directly to {number(found)}, for {aim(found)}. Layer {best.layer}, head {best.head} "
        f"{against}: {signed(best.effect or 0):+.3f}{share}. {above} of {len(rows)} heads have more than twice the "
        f"effect that they have on random texts.{said}"
    )


def _uncovered(found: Battery) -> str:
    """A warning where no text of the bank is near to what is explained, so that a head's texts name something else."""
    bank = found.case.bank
    if bank is None:
        return ""
    own = found.own.texts.directions(centre=False).double()
    wanted = unit((own[0] - own[1] if len(own) > 1 else own[0])[None])[0]
    fits = (bank.directions(centre=len(own) > 1).double() @ wanted).abs().numpy(force=True)
    if fits.max() >= COVERED:
        return ""
    what = f"what {name(found, 0)} and {name(found, 1)} differ in" if len(own) > 1 else name(found, 0)
    return (
        f" No text of the bank covers {what} (the nearest, {quoted(bank.texts[int(fits.argmax())])}, has a cosine of "
        f"{fits.max():.3f} with it), so these texts cannot say what the heads do for it: they name what else the heads "
        "vary with."
    )


def _usual(found: Battery) -> ndarray | None:
    """What each head adds to the number that is explained on each of many pictures, (item, layer, head)."""
    if found.crowd is None:
        return None
    effect = found.crowd.effect(found.own.texts, "heads").transpose("text", "item", "layer", "head").values
    return np.asarray(effect[0] - effect[1] if len(effect) > 1 else effect[0])


Places = dict[tuple[int, ...], tuple[int, ...]]  # by layer and head


def _moved(usual: ndarray | None, found: Battery) -> tuple[Places, Places, tuple[Picture, ...]]:
    """For each head the pictures in which it adds most and least, as places in the pictures that are given back."""
    if usual is None or found.case.crowd is None:
        return {}, {}, ()
    order = np.argsort(-usual, 0)
    count = min(MOVED, len(order) // 2)
    first, last = order[:count], order[::-1][:count]
    used = {int(item): place for place, item in enumerate(np.unique([first, last]))}
    most, least = (
        {at: tuple(used[int(item)] for item in end[(slice(None), *at)]) for at in np.ndindex(order.shape[1:])}
        for end in (first, last)
    )
    many = {item: found.case.crowd[item] for item in used}
    shown = {item: render(one) if isinstance(one, Scene) else one for item, one in many.items()}
    return most, least, tuple(Picture.of(one, f"picture {item}", **THUMB) for item, one in shown.items())
