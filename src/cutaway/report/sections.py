"""One function a view: from what was measured to what the page shows, with what is seen and what it can not tell."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import xarray
from numpy import ndarray

from cutaway.data import PLACES
from cutaway.methods.result import Provenance, Result
from cutaway.report.battery import Battery, Measured, Words
from cutaway.report.snippets import Snippets
from cutaway.report.words import aim, labels, name, quoted, reads, signed
from cutaway.views.kinds import Bar, Bars, Overlay, Table
from cutaway.views.picture import Picture

NEAREST = 12
SHARE = "largest share of one ninth"
RANDOM = "random texts, one standard deviation"
SHOWN = 3  # texts that get bars of their own
PATCHES = "What each patch adds"
CLEAR = 1e-3  # cosine: of less, shares are not told


# --- numbers ---------------------------------------------------------------------------------------------------------


def origin(told: Provenance | Result) -> dict[str, object]:
    """What a view says of where its numbers come from."""
    provenance = told.provenance if isinstance(told, Result) else told
    kept = asdict(provenance)
    return {name: value for name, value in kept.items() if value not in ("", None, (), {}, 0)}


def mass(values: ndarray, places: int = 3) -> tuple[str, float]:
    """The ninth of the picture that holds most of what is above zero, and its share of that."""
    above = np.clip(values, 0, None)
    rows, cols = above.shape
    ninths = np.zeros(places * places)
    for (row, col), value in np.ndenumerate(above):
        ninths[places * (row * places // rows) + col * places // cols] += value
    total = ninths.sum()
    return PLACES[int(ninths.argmax())], float(ninths.max() / total) if total else float("nan")


def mostly(values: ndarray) -> str:
    """Where on the picture most of what decides lies, on the side on which all patches together are; a clause."""
    side = -1 if values.sum() < 0 else 1
    place, share = mass(side * values)
    stance = "for" if side > 0 else "against"
    if np.isnan(share):
        return "No patch speaks for it"
    return f"{share:.1%} of what speaks {stance} it comes from the ninth at the {place}"


def balance(values: ndarray, what: str = "it") -> str:
    """What patches add on either side of zero, as a clause."""
    above, below = values[values > 0], values[values < 0]
    return f"{len(above)} patches speak for {what} ({_total(above)}), {len(below)} against it ({_total(below)})"


def _total(values: ndarray) -> str:
    return f"{signed(values.sum()):+.3f}"


def by_word_title(found: Battery, text: int) -> str:
    """The title of the view of the words of a text."""
    return f"{name(found, text)} word by word"


def aimed(measured: Measured) -> ndarray:
    """What each patch adds to the target, (row, col)."""
    values = measured.patches.values
    return values[0] - values[1] if len(values) > 1 else values[0]


def leading(measured: Measured) -> tuple[int, int]:
    """The layer and head that add most to the number, on the side that it is on."""
    side = -1 if measured.margin < 0 else 1
    layer, head = np.unravel_index((side * measured.heads.values).argmax(), measured.heads.shape)
    return int(layer), int(head)


def chances(found: Battery) -> ndarray:
    """What random texts give for the number that is explained, one standard deviation, at each layer."""
    words = found.own.texts.directions(centre=False)
    length = float((words[0] - words[1]).norm()) if len(words) > 1 else 1.0
    return np.asarray(found.own.lens["random"].values * length)


def inside(values: ndarray, mask: ndarray) -> tuple[float, float]:
    """What the patches of a region add together, and the region's share of the picture; partly covered ones in part."""
    rows, cols = values.shape
    cells = [np.array_split(part, cols, axis=1) for part in np.array_split(mask.astype(float), rows, axis=0)]
    cover = np.array([[cell.mean() for cell in row] for row in cells])
    return float((values * cover).sum()), float(cover.mean())


# --- where ------------------------------------------------------------------------------------------------------------


def patches(found: Battery, picture: Picture, code: Snippets) -> Overlay:
    """What each patch adds to the similarity with each text, through attention."""
    own, texts = found.own, found.case.texts
    values, names = own.patches.values, labels(found)
    if len(texts) > 1:
        values, names = np.concatenate([aimed(own)[None], values]), (aim(found), *names)
    total = values[0].sum()
    at = values[0].argmin() if total < 0 else values[0].argmax()
    row, col = np.unravel_index(at, values[0].shape)
    whole = f"{reads(own)} {signed(total):+.3f} of the {signed(own.margin):+.3f} for {aim(found)}"
    return Overlay(
        title=PATCHES,
        seen=f"{whole}: {balance(values[0])}. {mostly(values[0])}. The strongest such patch, row {row}, column {col}, "
        f"adds {signed(values[0].flat[at]):+.3f}. These numbers are parts of an exact sum.",
        limits=f"It counts what a patch hands on to the {own.reader} directly. By the later layers a patch may hold "
        "what it has gathered from its neighbours, so a bright patch is where something was read, not always where the "
        f"thing stands. What {'the embeddings of the patches' if own.all_read else f'the {own.reader}'}, MLPs and "
        "biases add is not on this map.",
        picture=picture, texts=names, values=values, unit="cosine", signed=True, code=code.patches(),
        provenance=origin(own.parts),
    )  # fmt: skip


def by_word(found: Battery, words: Words, picture: Picture, code: Snippets) -> Overlay:
    """What the patches add for a text by each of its words."""
    values, text = words.added.values, name(found, words.text)
    most = int(np.abs(values.sum((1, 2))).argmax())
    return Overlay(
        title=by_word_title(found, words.text),
        seen=f"One word of {text} is left out at a time; each map shows what the patches add for {text}, less what "
        f"they add without the word. {quoted(words.words[most])} matters most: the patches give "
        f"{signed(values[most].sum()):+.3f} for it, {balance(values[most])}. Choose a word to see its map.",
        limits="A text without a word may be read differently in other ways than by this word, most of all where it is "
        "no longer a sentence. The maps of the words do not add up to the map of the text.",
        picture=picture, texts=words.words, values=values, unit="cosine", signed=True, caption=True, folded=True,
        code=code.by_word(words.text), provenance=origin(found.own.parts),
    )  # fmt: skip


# --- what adds up -----------------------------------------------------------------------------------------------------


def bars(found: Battery, code: Snippets) -> list[Bars]:
    """The number that is explained, then the similarity with each text, as sums."""
    effect = found.own.parts.effect(found.own.texts).isel(item=0)
    made, own = [], found.own
    if len(found.case.texts) > 1:
        less = effect.isel(text=0) - effect.isel(text=1).values
        made.append(_sum(found, less, f"What adds up to {aim(found)}", own.margin, code.bars(0, 1)))
    for index in range(len(found.case.texts[:SHOWN])):
        title = f"What adds up to {name(found, index)}"
        made.append(_sum(found, effect.isel(text=index), title, float(own.similarity[index]), code.bars(index)))
    return made


def _sum(found: Battery, effect: xarray.DataArray, title: str, total: float, code: str) -> Bars:
    """One sum: the embedding, the heads of each layer together, the MLPs, and all that is constant."""
    terms = {str(name): float(value) for name, value in zip(effect["term"].values, effect.values, strict=True)}
    layers = range(found.own.parts.data.sizes["layer"])
    heads = [sum(v for name, v in terms.items() if name.startswith(f"{layer}.head.")) for layer in layers]
    mlps = {f"MLP of layer {layer}": terms[f"{layer}.mlp"] for layer in layers}
    mlps |= {"MLP of the pooling head": terms["pool_mlp"]} if "pool_mlp" in terms else {}
    biases = sum(terms[f"{layer}.attn_bias"] for layer in layers)
    first = "patches and positions" if found.own.all_read else f"{found.own.reader} and position"
    made = [Bar(first, "embedding", terms["embed"])]
    made += [Bar(f"heads of layer {layer}", "heads", value) for layer, value in enumerate(heads)]
    made += [Bar(title, "MLPs", value) for title, value in mlps.items()]
    made += [Bar("attention biases", "constants", biases), Bar("norm and projection bias", "constants",
             terms["norm_bias"] + terms["offset"])]  # fmt: skip
    summed = sum(terms.values())
    most = max(made, key=lambda bar: abs(bar.value or 0))
    return Bars(
        title=title,
        seen=f"The heads add {signed(sum(heads)):+.3f}, the MLPs {signed(sum(mlps.values())):+.3f}, everything else "
        f"{signed(summed - sum(heads) - sum(mlps.values())):+.3f}; the largest single bar is {most.label} with "
        f"{signed(most.value or 0):+.3f}. "
        f"Together {signed(summed):+.3f}: the model's own number is {signed(total):+.3f}, and the gap of "
        f"{abs(summed - total):.0e} is rounding.",
        limits="These are direct effects: what a layer writes that reaches the output unchanged. An early layer that "
        "only prepares the ground for a later one shows up as nothing. The final norm is held at its scale for this "
        "picture.",
        folded=True, bars=tuple(made), unit="cosine", total=total, code=code, provenance=origin(found.own.parts),
    )  # fmt: skip


# --- texts ------------------------------------------------------------------------------------------------------------


def sparse(found: Battery, code: Snippets) -> Table | None:
    """The embedding as a few texts."""
    if found.splice is None or found.case.bank is None:
        return None
    made, bank = found.splice, found.case.bank
    top = made.top(count=NEAREST)
    cells = tuple((str(r["text"]), str(r["topic"]), float(r["weight"])) for r in top.to_dict("records"))
    cosine, chance, used = (float(made[name].values[0]) for name in ("cosine", "random", "used"))
    named = ", ".join(quoted(text) for text, _, _ in cells[:3]) or "nothing"
    return Table(
        title="The embedding as a few texts",
        seen=f"{used:.0f} of {len(bank)} texts rebuild the picture's embedding, less the mean of many pictures, with a "
        f"cosine of {signed(cosine):+.3f}; the heaviest are {named}. As many random directions in place of the texts "
        f"reach {signed(chance):+.3f}.",
        limits="A description, not an effect on the output. It can use no word that the bank lacks, and picks "
        "neighbours for what it has no word for. Where random directions do nearly as well, the words carry little.",
        columns=("text", "topic", "weight"), cells=cells, code=code.splice(), provenance=origin(made), folded=True,
    )  # fmt: skip


def nearest(found: Battery, code: Snippets) -> Table | None:
    """The texts of the bank that fit the picture best, and where the user's texts stand among them."""
    if found.nearest is None:
        return None
    values, texts = found.nearest.values, found.nearest["text"].values
    order = np.argsort(-values)
    rank = {int(index): place for place, index in enumerate(order, 1)}
    shown = sorted({*order[:NEAREST].tolist(), *range(len(found.case.texts))}, key=rank.__getitem__)
    mean, spread = values.mean(), values.std() or 1.0
    topics = found.nearest["topic"].values
    cells = tuple(
        (rank[i], str(texts[i]), str(topics[i]), float(values[i]), float((values[i] - mean) / spread)) for i in shown
    )
    asked = len(found.case.texts)
    best = next(int(index) for index in order if index >= asked or len(values) == asked)
    return Table(
        title="Nearest texts",
        seen=f"Of {len(values)} texts, the {asked} asked and the rest of the bank, {name(found, 0)} is number "
        f"{rank[0]} ({signed(values[0]):+.3f}); the best of the bank is {quoted(str(texts[best]))} "
        f"({signed(values[best]):+.3f}). The last column counts standard deviations above the mean of all texts.",
        limits="Longer texts and common phrases sit nearer to every picture, so ranks of unlike texts say little. A "
        "text that is near is not thereby true.",
        columns=("rank", "text", "topic", "cosine", "above the mean (sd)"), cells=cells, code=code.nearest(),
        provenance=origin(found.own.parts) | {"texts": len(values)}, folded=True,
    )  # fmt: skip


# --- what it is worth -------------------------------------------------------------------------------------------------


def floors(found: Battery, code: Snippets) -> Table:
    """The main numbers beside the same of the untrained model, the counterfactual and chance."""
    own, floor, other = found.own, found.floor, found.other
    rows: list[tuple[str, float | None, float | None, float | None, float | None, str]] = []

    def add(what: str, of: Any, chance: float, kind: str) -> None:
        there = of(other) if other is not None else None
        rows.append((what, of(own), there, of(floor) if floor is not None else None, chance, kind))

    size = float(own.lens["random"].values[-1])
    for index in range(len(found.case.texts)):
        add(f"cosine with {labels(found)[index]}", lambda m, at=index: float(m.similarity[at]), size, RANDOM)
    if len(found.case.texts) > 1:
        add(aim(found), lambda m: m.margin, float(chances(found)[-1]), RANDOM)
    add(SHARE, lambda m: mass(aimed(m))[1], 1 / 9, "even spread over the picture")
    for region, mask in found.case.truth.items():
        fair = float(aimed(own).sum()) * inside(aimed(own), mask)[1]
        add(f"added by the patches of {region}", lambda m, here=mask: inside(aimed(m), here)[0], fair,
            "even spread over the picture")  # fmt: skip
    if found.splice is not None:
        cosine, chance = (float(found.splice[name].values[0]) for name in ("cosine", "random"))
        rows.append(("cosine of the sparse texts", cosine, None, None, chance, "random directions as texts"))
    if found.spans is not None:
        fit, chance = (float(found.spans[name].isel(pick=0).mean()) for name in ("fit", "random_fit"))
        rows.append(("mean fit of the heads' first texts", fit, None, None, chance, "random directions as texts"))
    untold = (
        f" Before training it gave {signed(floor.margin):+.3f}."
        if floor is not None
        else " No untrained twin of this model is known, so that column is empty."
    )
    return Table(
        title="Beside chance",
        seen=f"The model gives this picture {signed(own.margin):+.3f} for {aim(found)}.{untold} The main numbers of "
        "this page stand beside the same for the counterfactual picture, for the model before training, and for "
        "chance; the last column says which chance.",
        limits="Chance is a random direction or place, not a wrong but sensible text; for that, give the wrong text as "
        "a second --text. Random texts fall on both sides of zero, so their chance is a size, ±. One picture is one "
        "case: nothing here says how often the model behaves so.",
        columns=("number", "this picture", "counterfactual", "before training", "chance", "which chance"),
        folded=True, cells=tuple(rows), units=tuple("share" if row[0] == SHARE else "" for row in rows),
        code=code.similarity(), provenance=origin(own.parts),
    )  # fmt: skip
