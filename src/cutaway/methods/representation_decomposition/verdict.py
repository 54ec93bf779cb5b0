"""How a page on a picture and texts begins: one sentence that says what was found, one map, the texts, the evidence."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from cutaway.methods.representation_decomposition.direct import Direct
from cutaway.methods.representation_decomposition.views import ENTRY, by_word_title, direct, patches
from cutaway.methods.shown import Page
from cutaway.questions.given import with_asked
from cutaway.views.kinds import Opening, Overlay
from cutaway.views.words import balance, inside, mass, mostly, quoted, signed

QUOTED = 64  # letters; longer texts go by their letters in the verdict
MOST = 0.5  # a region with this share of what speaks for the verdict is where it was read
LEAST = 0.02  # cosine: texts closer than this are hardly told apart


def lead(page: Page) -> tuple[Opening, tuple[str, ...]]:
    """The opening, and what was found in four sentences with numbers: the verdict, then what it rests on."""
    own, names = Direct(page.question, page.made(ENTRY)), page.names
    told = verdict(page, own), _cosines(page, own), _heads(page, own), _third(page, own)
    sides = {name: Direct(side.question, side.made(ENTRY)) for name, side in page.beside.items()}
    rows = [
        (names.letter(at), text, *(f"{signed(of.cosines[at]):+.3f}" for of in sides.values()))
        for at, text in enumerate(names.texts)
    ]
    if len(rows) > 1:
        margins = (f"{signed(of.question.value):+.3f}" for of in sides.values())
        rows.append(("", f"the difference, {names.aim}", *margins))
    taken = {at: by_word_title(page, at) for at in own.taken_apart}
    opened = Opening(
        verdict=told[0], lead=_lead(page, patches(page, own)), columns=tuple(sides), texts=tuple(rows),
        words=tuple(taken.get(at, "") for at in range(len(rows))), evidence=tuple(said for said in told[2:] if said),
    )  # fmt: skip
    return opened, tuple(said for said in told if said)


def verdict(page: Page, own: Direct) -> str:
    """One sentence: what the model takes the picture for, and where it reads that."""
    value = page.question.value
    if len(page.names) == 1:
        return f"{_rank(page, own)} {_stance(own.added.values)}."
    taken, other = (_called(page, at) for at in ((0, 1) if value >= 0 else (1, 0)))
    if abs(value) < LEAST:
        gap = f"{abs(value):.3f} between the cosines"
        return f"The model hardly tells {taken} from {other} on this picture: {gap}."
    gap = f"by {abs(value):.3f} in cosine"
    return f"The model takes this picture for {taken} rather than {other}, {gap}, {_where(page, own)}."


def _called(page: Page, at: int) -> str:
    text = page.names.texts[at]
    return quoted(text) if len(text) <= QUOTED else page.names[at]


def _rank(page: Page, own: Direct) -> str:
    """What there is to say of one text without a rival."""
    text, cosine, bank = _called(page, 0), float(own.cosines[0]), page.question.bank
    if bank is None:
        beside = "which is much or little only beside a rival (a second --text)"
        return f"The picture has a cosine of {signed(cosine):+.3f} with {text}, {beside};"
    near = own.parts.cosines(with_asked(own.texts, bank)).values[0]
    place = 1 + int((near > near[0]).sum())
    return f"Of {near.size} texts, {text} is number {place} for this picture (cosine {signed(cosine):+.3f});"


def _stance(added: ndarray) -> str:
    """Whether all patches together speak for a text or against it, and where."""
    side = -1 if added.sum() < 0 else 1
    place, share = mass(side * added)
    if np.isnan(share):
        return "no patch adds anything"
    stance = "for" if side > 0 else "against"
    return (
        f"its patches together speak {stance} it ({signed(added.sum()):+.3f}), {share:.1%} of that side at the {place}"
    )


def _where(page: Page, own: Direct) -> str:
    """Where the patches lie that speak for the verdict."""
    added = (-1 if page.question.value < 0 else 1) * own.added.values
    above = np.clip(added, 0, None).sum()
    for region, mask in page.question.truth.items():
        if above and inside(added, mask)[0] >= MOST * above:
            return f"and reads that off {region}"
    place, share = mass(added)
    if np.isnan(share) or added.sum() <= 0:
        return "though the patches together speak against it"
    return f"and reads that mostly off the {place}" if share >= MOST else f"and reads that most off the {place}"


def _cosines(page: Page, own: Direct) -> str:
    """The numbers of the texts."""
    names, value = page.names, page.question.value
    said = [
        f"{names[at]}, {quoted(text)}," if names.lettered else quoted(text) for at, text in enumerate(names.texts[:4])
    ]
    told = [f"{text} {signed(own.cosines[at]):+.3f}" for at, text in enumerate(said)]
    words = {"counterfactual": "on the counterfactual picture", "before training": "before training"}
    sides = page.beside
    beside = [f"{said} {signed(sides[name].question.value):+.3f}" for name, said in words.items() if name in sides]
    first = f"Cosines with this picture: {'; '.join(told)}"
    if len(names) > 1:
        first += f". That is {signed(value):+.3f} for {names.aim}"
    return first + (f" ({', '.join(beside)})." if beside else ".")


def _heads(page: Page, own: Direct) -> str:
    """What heads and patches add together, and what one head has of it."""
    layer, head = own.leading
    added = own.added.values
    return (
        f"All heads together add {signed(own.heads.sum()):+.3f}, layer {layer} head {head} alone "
        f"{signed(own.heads.values[layer, head]):+.3f}. {balance(added, page.names.aim)}; {mostly(added)}."
    )


def _third(page: Page, own: Direct) -> str:
    """Where it is known what is where: what that part adds. Else what patching brings back, or the nearest text."""
    carried = _carried(page)
    for region, mask in page.question.truth.items():
        added, area = inside(own.added.values, mask)
        rest = float(own.added.sum()) - added
        before, floor = "", direct(page.floor)
        if floor is not None:
            before = f" (before training {signed(inside(floor.added.values, mask)[0]):+.3f})"
        told = (
            f"The patches of {region}, {area:.1%} of the picture, add {signed(added):+.3f}{before}, all others "
            f"together {signed(rest):+.3f}."
        )
        return f"{told} {carried}".strip()
    if carried or page.question.bank is None:
        return carried
    near = own.parts.cosines(with_asked(own.texts, page.question.bank)).isel(item=0)
    best = near.isel(text=int(near.values.argmax()))
    return f"Of {near.size} texts, {quoted(str(best['text'].values))} fits best ({signed(float(best)):+.3f})."


def _carried(page: Page) -> str:
    """What the head that carries most brings back into the counterfactual, where heads were patched."""
    found = page.made("patching_head")
    if found is None:
        return ""
    recovery = found["mean"].transpose("layer", "head").values
    layer, head = np.unravel_index(np.nanargmax(recovery), recovery.shape)
    return (
        f"Carried over into the counterfactual, layer {layer} head {head} alone brings back "
        f"{signed(recovery[layer, head]):.1%} of the difference between the two pictures."
    )


def _lead(page: Page, overlay: Overlay) -> Overlay:
    """The first map of what each patch adds, with a caption that says how to read it."""
    return Overlay(
        title=overlay.title, limits=overlay.limits, picture=overlay.picture, texts=overlay.texts[:1],
        values=overlay.values[:1], unit=overlay.unit, signed=True,
        seen=f"Left: what the model sees{shape(page)}. Right: what each patch adds to "
        f"the cosine; orange speaks for {page.names.aim}, blue against.",
    )  # fmt: skip


def shape(page: Page) -> str:
    """What the model does to the shape of the picture, where it does something."""
    whole, seen = page.question.pictures[0], page.seen
    if abs(np.log((whole.width / whole.height) / (seen.width / seen.height))) < 0.02:
        return ""
    cropped = getattr(page.question.model.engine.tools.images, "do_center_crop", False)
    how = "the middle only" if cropped else "all, squeezed to this shape"
    return f" (of {whole.width} × {whole.height} pixels, {how})"
