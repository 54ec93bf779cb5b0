"""The logit of an answer on a page: the sum, the heads, what picture tokens add, and how the page begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy import ndarray

from cutaway.methods.representation_decomposition.logit_decomposition import CHANCE, LogitDecomposition
from cutaway.methods.representation_decomposition.verdict import shape
from cutaway.methods.result import origin
from cutaway.methods.shown import Page, measured
from cutaway.views.kinds import Bar, Bars, Head, HeadTable, Opening, Overlay, View
from cutaway.views.words import adding_up, balance, mostly, quoted, signed

ENTRY = "logits"
LEAST = 0.02  # logits: answers closer than this are hardly told apart
CLEAR = 1e-3  # logits: of less, shares are not told
KINDS = {"image": "picture tokens", "text": "words"}
NO_HEAD = "not by a head"
HEADS = {"heads": "Heads", "cross_heads": "Heads of the cross-attention"}
MAP = "What the picture tokens add"


def show(page: Page) -> Iterator[View]:
    """The map where there is a picture, the sum, and the heads."""
    found = page.made(ENTRY)
    if has_map(page, found):
        yield picture_tokens(page, found)
    yield bars(page, found)
    yield from (heads(page, found, name) for name in HEADS if name in found.data)


def tell(page: Page) -> Iterator[str]:
    """Which head adds most, and where the number enters."""
    found = page.made(ENTRY)
    layer, head = _largest(found["heads"].isel(row=0).values)
    effect, chance = (float(found[name][0, layer, head]) for name in ("heads", "heads" + CHANCE))
    yield (
        f"Of all heads, layer {layer} head {head} has the largest direct effect on {page.number} for "
        f"{page.names.aim}: {_signed(effect)} (for two random words ±{chance:.3f})."
    )
    yield _entering_told(page)


def lead(page: Page) -> tuple[Opening, tuple[str, ...]]:
    """The opening, the map of the picture tokens in front where there is one, and what all methods tell."""
    found, told = page.made(ENTRY), tuple(page.told())
    sides = {name: entering(side) for name, side in page.beside.items()}
    rows = [("", page.names.aim, *(_signed(side.question.value) for side in page.beside.values()))]
    for kind in entering(page):
        values = (_signed(known[kind]) if kind in known else "" for known in sides.values())
        rows.append(("", _where(kind), *values))
    said = verdict(page)
    opened = Opening(
        verdict=said, lead=_lead(page, found) if has_map(page, found) else None, columns=tuple(page.beside),
        texts=tuple(rows), evidence=told, heading="logits, and where they come from",
    )  # fmt: skip
    return opened, (said, measured(page), *told)


def verdict(page: Page) -> str:
    """One sentence: the answer that the model prefers, by how much, how much of that enters at the picture."""
    value, names, enters = page.question.value, page.names, entering(page)
    if len(names) == 1:
        return measured(page)
    first, other = (quoted(names.texts[at]) for at in ((0, 1) if value >= 0 else (1, 0)))
    if abs(value) < LEAST:
        return f"The model hardly tells {first} from {other} as an answer: {abs(value):.3f} logits between them."
    side = -1 if value < 0 else 1
    at = f", of which {_signed(side * enters['image'])} are read at the picture" if "image" in enters else ""
    return f"The model answers {first} rather than {other} by {_signed(abs(value))} logits{at}{_first_word(page)}."


def _first_word(page: Page) -> str:
    """What the model says first of all, where that is neither of the words asked about; a clause."""
    lens = page.made("word_lens")
    if lens is None:
        return ""
    last = lens.data.isel(prompt=0, layer=-1, token=-1)
    if int(last["word_rank"].min()) == 1:
        return ""
    return f"; of all words it finds {quoted(str(last['top'].values[0]).strip())} likeliest"


def entering(page: Page) -> Mapping[str, float]:
    """What heads bring from tokens of each kind, of pictures first, and what they do not bring; {} if not measured."""
    found = page.made(ENTRY)
    known = {} if found is None else {str(kind): float(value) for kind, value in found.entering().iloc[0].items()}
    return {kind: known[kind] for kind in sorted(known, key=lambda kind: (kind == NO_HEAD, kind != "image"))}


def has_map(page: Page, found: LogitDecomposition) -> bool:
    """Whether there is a picture whose tokens lie on a grid."""
    return page.picture is not None and bool((found["patch_row"].values >= 0).any())


def added(found: LogitDecomposition) -> ndarray:
    """What each token of the first picture adds through all heads, (row, column)."""
    return np.asarray(entered(found)[0].values)


def picture_tokens(page: Page, found: LogitDecomposition) -> Overlay:
    """What the last position gathers from each picture token, folded on the picture."""
    values, aim = added(found), page.names.aim
    row, col = np.unravel_index(np.nanargmax(np.abs(values)), values.shape)
    whole, here = entering(page)["image"], float(np.nansum(values))
    rest = "" if np.isclose(whole, here, atol=5e-4) else (
        f" The map is of the first picture, in one piece: {_signed(here)} of what all picture tokens bring."
    )  # fmt: skip
    known = np.nan_to_num(values)
    return Overlay(
        title=MAP,
        seen=f"{_entering_told(page)}{rest} On the map, {balance(known)}; {mostly(known)}. The strongest token, row "
        f"{row}, column {col}, adds {_signed(float(values[row, col]))}. These numbers are parts of an exact sum.",
        limits="It counts what a picture token hands on to the last position directly, through one head. What goes "
        "through another token first, a word that has read the picture, counts for that token. By the later layers a "
        "picture token may hold what it has gathered from others, so a bright one is where something was read, not "
        "always where the thing stands.",
        picture=page.seen, texts=(aim,), values=values[None], unit="logits", signed=True, provenance=origin(found),
        code=page.applied[ENTRY].look(entered).code,
    )  # fmt: skip


def bars(page: Page, found: LogitDecomposition) -> Bars:
    """The number as a sum: the embedding, the heads of each layer together, the MLPs, constants and rounding."""
    data, total = found.data.isel(row=0), summed(found)[1]
    made = [Bar("embedding of the last position", "embedding", float(data["embed"]))]
    for name, title in HEADS.items():
        if name in data:
            each = enumerate(data[name].sum("head").values)
            made += [Bar(f"{title.lower()} of layer {layer}", "heads", float(value)) for layer, value in each]
    made += [Bar(f"MLP of layer {layer}", "MLPs", float(value)) for layer, value in enumerate(data["mlps"].values)]
    biases = sum(float(data[name].sum()) for name in ("biases", "cross_biases") if name in data)
    constant = {"attention biases": biases, "bias of the last norm": float(data["norm_bias"]),
                "bias of the unembedding": float(data["offset"])}  # fmt: skip
    made += [Bar(label, "constants", value) for label, value in constant.items()]
    made.append(Bar("last norm, beside its formula", "rounding", float(data["rounding"])))
    return Bars(
        title=f"What adds up to {page.names.aim}",
        seen=adding_up(made, total),
        limits="These are direct effects: what a layer writes that reaches the output unchanged. An early layer that "
        "only prepares the ground for a later one shows up as nothing, and so does all that other positions do before "
        "a head reads them. The last norm is held at its scale for this input.",
        folded=True, bars=tuple(made), unit="logits", total=total, provenance=origin(found),
        code=page.applied[ENTRY].look(summed).code,
    )  # fmt: skip


def heads(page: Page, found: LogitDecomposition, name: str) -> HeadTable:
    """Each head's direct effect beside its size for random words, and its part that comes from picture tokens."""
    look = page.applied[ENTRY].look(written, name=name, random=name + CHANCE)
    values, chance = (one.values for one in look.value)
    total = float(found["total"][0])
    seen = _from_picture(found) if name == "heads" else None
    rows = []
    for (layer, head), effect in np.ndenumerate(values):
        extra: dict[str, float | None] = {"random words": float(chance[layer, head])}
        if seen is not None:
            extra["from picture tokens"] = float(seen[layer, head])
        share = float(effect) / total if abs(total) > CLEAR else None
        rows.append(Head(layer, head, float(effect), share, extra=extra))
    layer, head = _largest(values)
    above = int((np.abs(values) > 2 * chance).sum())
    return HeadTable(
        title=HEADS[name],
        seen=f"What each head adds directly to {page.number}, for {page.names.aim}, at the last position. Layer "
        f"{layer}, head {head} has the largest effect: {_signed(float(values[layer, head]))}. {above} of "
        f"{values.size} heads have more than twice the effect that they have on two random words (root mean square).",
        limits="A direct effect is not the whole effect: a head can act through later layers, or at other positions, "
        "which patching shows and this does not. A head that is large for random words too says little of these.",
        heads=tuple(rows), effect="direct effect", direct="share of all", provenance=origin(found),
        folded=name != "heads",
        code=look.code,
        tower=(page.question.voice or "") if name == "heads" else "",
    )  # fmt: skip


def entered(found: LogitDecomposition) -> tuple[Any, Any]:
    """What each token of the first picture adds through all heads, and what tokens of each kind bring."""
    return found.on_grid().sum(("layer", "head"), skipna=False), found.entering()


def summed(found: LogitDecomposition) -> tuple[Any, float]:
    """The terms of the sum, and the number itself as the model gives it."""
    return (found.terms().isel(row=0), float(found["total"][0]))


def written(found: LogitDecomposition, name: str, random: str) -> tuple[Any, Any]:
    """What each head adds, and the same for two random words."""
    return found[name].isel(row=0), found[random].isel(row=0)


def _from_picture(found: LogitDecomposition) -> ndarray | None:
    """What each head brings from all picture tokens, (layer, head); None where there are none."""
    here = found["token_kind"] == "image"
    if not here.any():
        return None
    return np.asarray(found["head_tokens"].where(here, 0).isel(row=0).sum("token").values)


def _lead(page: Page, found: LogitDecomposition) -> Overlay:
    """The map with a caption that says how to read it."""
    overlay = picture_tokens(page, found)
    return Overlay(
        title=overlay.title, limits=overlay.limits, picture=overlay.picture, texts=overlay.texts,
        values=overlay.values, unit=overlay.unit, signed=True,
        seen=f"Left: what the model sees{shape(page)}. Right: what each picture token adds to {page.number}, read by "
        f"the heads at the last position; orange speaks for {page.names.aim}, blue against.",
    )  # fmt: skip


def _entering_told(page: Page) -> str:
    """How much of the number enters at the tokens of each kind, and how much by no head."""
    enters = entering(page)
    parts = [f"{_signed(value)} {_where(kind)}{_elsewhere(page, kind)}" for kind, value in enters.items()]
    total = _signed(float(page.made(ENTRY)["total"][0]))
    return f"The {total} for {page.names.aim} is the sum of {', '.join(parts[:-1])} and {parts[-1]}."


def _elsewhere(page: Page, kind: str) -> str:
    """What enters at tokens of a picture in the counterfactual and before training."""
    sides = {name: entering(side) for name, side in page.beside.items() if side is not page}
    said = [f"{name} {_signed(known[kind])}" for name, known in sides.items() if kind == "image" and kind in known]
    return f" ({', '.join(said)})" if said else ""


def _where(kind: str) -> str:
    """Where a part enters, in words."""
    return "not brought by a head" if kind == NO_HEAD else f"read at {KINDS.get(kind, f'{kind} tokens')}"


def _largest(values: ndarray) -> tuple[int, int]:
    layer, head = np.unravel_index(np.abs(values).argmax(), values.shape)
    return int(layer), int(head)


def _signed(value: float) -> str:
    return f"{signed(value):+.3f}"
