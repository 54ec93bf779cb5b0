"""How a report begins: one sentence that says what was found, one map, the numbers of the texts, the evidence."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from cutaway.report import sections, words
from cutaway.report.battery import LEAST, Battery
from cutaway.report.words import quoted, signed
from cutaway.views.kinds import Opening, Overlay
from cutaway.views.picture import Picture

QUOTED = 64  # letters; longer texts go by their letters in the verdict
MOST = 0.5  # a region with this share of what speaks for the verdict is where it was read


def opening(found: Battery, overlay: Overlay) -> Opening:
    """All of it for the page; `overlay` is the view of what each patch adds."""
    told = summary(found)
    columns = {"this picture": found.own, "counterfactual": found.other, "before training": found.floor}
    shown = {name: of for name, of in columns.items() if of is not None}
    rows = [
        (words.letter(found, at), text, *(f"{signed(of.similarity[at]):+.3f}" for of in shown.values()))
        for at, text in enumerate(found.case.texts)
    ]
    if len(rows) > 1:
        margins = (f"{signed(of.margin):+.3f}" for of in shown.values())
        rows.append(("", f"the difference, {words.aim(found)}", *margins))
    taken = {one.text: sections.by_word_title(found, one.text) for one in found.words}
    return Opening(
        verdict=told[0], lead=_lead(found, overlay), columns=tuple(shown), texts=tuple(rows),
        words=tuple(taken.get(at, "") for at in range(len(rows))), evidence=told[2:],
    )  # fmt: skip


def summary(found: Battery) -> tuple[str, ...]:
    """What was found: the verdict, then what it rests on, in four sentences with numbers."""
    return tuple(told for told in (verdict(found), _cosines(found), _heads(found), _third(found)) if told)


def verdict(found: Battery) -> str:
    """One sentence: what the model takes the picture for, and where it reads that."""
    own, texts = found.own, found.case.texts
    if len(texts) == 1:
        return f"{_rank(found)} {_stance(sections.aimed(own))}."
    taken, other = (_called(found, at) for at in ((0, 1) if own.margin >= 0 else (1, 0)))
    if abs(own.margin) < LEAST:
        gap = f"{abs(own.margin):.3f} between the cosines"
        return f"The model hardly tells {taken} from {other} on this picture: {gap}."
    gap = f"by {abs(own.margin):.3f} in cosine"
    return f"The model takes this picture for {taken} rather than {other}, {gap}, {_where(found)}."


def _called(found: Battery, at: int) -> str:
    text = found.case.texts[at]
    return quoted(text) if len(text) <= QUOTED else words.name(found, at)


def _rank(found: Battery) -> str:
    """What there is to say of one text without a rival."""
    text, cosine = _called(found, 0), float(found.own.similarity[0])
    if found.nearest is None:
        beside = "which is much or little only beside a rival (a second --text)"
        return f"The picture has a cosine of {signed(cosine):+.3f} with {text}, {beside};"
    place = 1 + int((found.nearest.values > found.nearest.values[0]).sum())
    return f"Of {found.nearest.size} texts, {text} is number {place} for this picture (cosine {signed(cosine):+.3f});"


def _stance(added: ndarray) -> str:
    """Whether all patches together speak for a text or against it, and where."""
    side = -1 if added.sum() < 0 else 1
    place, share = sections.mass(side * added)
    if np.isnan(share):
        return "no patch adds anything"
    stance = "for" if side > 0 else "against"
    return (
        f"its patches together speak {stance} it ({signed(added.sum()):+.3f}), {share:.1%} of that side at the {place}"
    )


def _where(found: Battery) -> str:
    """Where the patches lie that speak for the verdict."""
    side = -1 if found.own.margin < 0 else 1
    added = side * sections.aimed(found.own)
    above = np.clip(added, 0, None).sum()
    for region, mask in found.case.truth.items():
        part = sections.inside(added, mask)[0]
        if above and part >= MOST * above:
            return f"and reads that off {region}"
    place, share = sections.mass(added)
    if np.isnan(share) or added.sum() <= 0:
        return "though the patches together speak against it"
    return f"and reads that mostly off the {place}" if share >= MOST else f"and reads that most off the {place}"


def _cosines(found: Battery) -> str:
    """The numbers of the texts."""
    own, texts = found.own, found.case.texts
    said = [
        f"{words.name(found, at)}, {quoted(text)}," if words.lettered(found) else quoted(text)
        for at, text in enumerate(texts[:4])
    ]
    told = [f"{text} {signed(own.similarity[at]):+.3f}" for at, text in enumerate(said)]
    beside = [] if found.other is None else [f"on the counterfactual picture {signed(found.other.margin):+.3f}"]
    beside += [] if found.floor is None else [f"before training {signed(found.floor.margin):+.3f}"]
    first = f"Cosines with this picture: {'; '.join(told)}"
    if len(texts) > 1:
        first += f". That is {signed(own.margin):+.3f} for {words.aim(found)}"
    return first + (f" ({', '.join(beside)})." if beside else ".")


def _heads(found: Battery) -> str:
    """What heads and patches add together, and what one head has of it."""
    own = found.own
    layer, head = sections.leading(own)
    added = sections.aimed(own)
    return (
        f"All heads together add {signed(own.heads.sum()):+.3f}, layer {layer} head {head} alone "
        f"{signed(own.heads.values[layer, head]):+.3f}. {sections.balance(added, words.aim(found))}; "
        f"{sections.mostly(added)}."
    )


def _third(found: Battery) -> str:
    """Where it is known what is where: what that part adds. Else what patching brings back, or the nearest text."""
    own = found.own
    for region, mask in found.case.truth.items():
        added, area = sections.inside(sections.aimed(own), mask)
        rest = float(sections.aimed(own).sum()) - added
        before = ""
        if found.floor is not None:
            before = f" (before training {signed(sections.inside(sections.aimed(found.floor), mask)[0]):+.3f})"
        told = (
            f"The patches of {region}, {area:.1%} of the picture, add {signed(added):+.3f}{before}, all others "
            f"together {signed(rest):+.3f}."
        )
        return told + _carried(found)
    if found.patching:
        return _carried(found).strip()
    if found.nearest is not None:
        best = found.nearest.isel(text=int(found.nearest.values.argmax()))
        text = quoted(str(best["text"].values))
        return f"Of {found.nearest.size} texts, {text} fits best ({signed(best):+.3f})."
    return ""


def _carried(found: Battery) -> str:
    """What the head that carries most brings back into the counterfactual."""
    if "head" not in found.patching:
        return ""
    recovery = found.patching["head"]["mean"].transpose("layer", "head").values
    layer, head = np.unravel_index(np.nanargmax(recovery), recovery.shape)
    return (
        f" Carried over into the counterfactual, layer {layer} head {head} alone brings back "
        f"{signed(recovery[layer, head]):.1%} of the difference between the two pictures."
    )


def _lead(found: Battery, overlay: Overlay) -> Overlay:
    """The first map of what each patch adds, with a caption that says how to read it."""
    what = words.aim(found)
    return Overlay(
        title=overlay.title, limits=overlay.limits, picture=overlay.picture, texts=overlay.texts[:1],
        values=overlay.values[:1], unit=overlay.unit, signed=True,
        seen=f"Left: what the model sees{_shape(found, overlay.picture)}. Right: what each patch adds to "
        f"the cosine; orange speaks for {what}, blue against.",
    )  # fmt: skip


def _shape(found: Battery, seen: Picture) -> str:
    """What the model does to the shape of the picture, where it does something."""
    whole = found.case.picture
    if abs(np.log((whole.width / whole.height) / (seen.width / seen.height))) < 0.02:
        return ""
    cropped = getattr(found.case.model.engine.tools.images, "do_center_crop", False)
    how = "the middle only" if cropped else "all, squeezed to this shape"
    return f" (of {whole.width} × {whole.height} pixels, {how})"
