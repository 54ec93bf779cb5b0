"""One function a view: from what was measured to what the page shows, with what is seen and what it can not tell."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import xarray
from numpy import ndarray

from cutaway.data import PLACES
from cutaway.methods.result import Provenance, Result
from cutaway.report.battery import Battery, Measured
from cutaway.report.picture import Picture
from cutaway.report.snippets import Snippets
from cutaway.report.views import Axis as Side
from cutaway.report.views import Bar, Bars, Curve, Head, HeadTable, Lens, Line, Overlay, Span, Table
from cutaway.report.words import aim, alone, key, labels, lettered, name, number, onward, quoted, reads, signed

NEAREST = 12
SHOWN = 3  # texts that get bars of their own
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


def mostly(values: ndarray, what: str) -> str:
    """Where on the picture most of what is above zero lies, as a clause."""
    place, share = mass(values)
    return "no patch speaks for it" if np.isnan(share) else f"{share:.0%} of {what} comes from the ninth at the {place}"


def aimed(measured: Measured) -> ndarray:
    """What each patch adds to the target, (row, col)."""
    values = measured.patches.values
    return values[0] - values[1] if len(values) > 1 else values[0]


def leading(measured: Measured) -> tuple[int, int]:
    """The layer and head that add most to the number, on the side that it is on."""
    side = -1 if measured.margin < 0 else 1
    layer, head = np.unravel_index((side * measured.heads.values).argmax(), measured.heads.shape)
    return int(layer), int(head)


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
    row, col = np.unravel_index(values[0].argmax(), values[0].shape)
    return Overlay(
        title="What each patch adds",
        seen=f"{reads(own)} {signed(total):+.3f} of the {signed(own.margin):+.3f} for {aim(found)}; "
        f"{mostly(values[0], 'what speaks for it')}. The largest patch, row {row}, column {col}, adds "
        f"{signed(values[0].max()):+.3f}. These numbers are parts of an exact sum.{key(found)}",
        limits=f"It counts what a patch hands on to the {own.reader} directly. By the later layers a patch may hold "
        "what it has gathered from its neighbours, so a bright patch is where something was read, not always where the "
        f"thing stands. What {'the embeddings of the patches' if own.all_read else f'the {own.reader}'}, MLPs and "
        "biases add is not on this map.",
        picture=picture, texts=names, values=values, unit="cosine", signed=True, code=code.patches(),
        provenance=origin(own.parts),
    )  # fmt: skip


def last_layer(found: Battery, picture: Picture, code: Snippets) -> Overlay:
    """What each patch says at the last layer, centred where there are other pictures."""
    lens, centred = found.centred or found.own.lens, found.centred is not None
    values = lens["patch"].isel(picture=0, layer=-1).transpose("text", "row", "col").values
    row, col = np.unravel_index(values[0].argmax(), values[0].shape)
    how = (
        f"Each patch is read {alone(found.own)}, less the mean over {lens.data.sizes['picture']} pictures, and "
        "compared "
        "with each text less the mean of the texts."
        if centred
        else f"Each patch is read {alone(found.own)} and compared with each text."
    )
    chance = float(lens["random"].values[-1])
    return Overlay(
        title="What each patch says at the last layer",
        seen=f"{how} {name(found, 0)} fits best at row {row}, column {col} (cosine {signed(values[0].max()):+.2f}); a "
        f"random direction fits a patch at ±{chance:.2f}. {(values[0] > 2 * chance).mean():.0%} of the patches fit "
        "it more "
        f"than twice as well.{key(found)}",
        limits=f"The model never reads patches this way: {onward(found.own)} on. A low number does not mean that a "
        "patch knows nothing of the text, only that the output's own words do not say so. The map above, which adds up "
        "to the output, is the one to trust where the two differ.",
        picture=picture, texts=labels(found), values=values, unit="cosine", signed=True, code=code.lens(centred),
        provenance=origin(lens),
    )  # fmt: skip


def by_layer(found: Battery, picture: Picture, code: Snippets) -> Lens:
    """Every layer and patch against every text, with the curve of what reads them."""
    lens = found.own.lens
    pooled = lens["pooled"].isel(picture=0).transpose("text", "layer").values
    names = tuple("input" if layer < 0 else str(layer) for layer in lens["layer"].values)
    first = int(np.argmax(pooled[0] >= 0.9 * pooled[0, -1])) if pooled[0, -1] > 0 else len(names) - 1
    return Lens(
        title="Layer by layer",
        seen=f"Read after each layer, the {found.own.reader}'s cosine with {name(found, 0)} goes from "
        f"{signed(pooled[0, 0]):+.3f} at the input to {signed(pooled[0, -1]):+.3f} at the end, which is the model's "
        "own "
        "number. It first has nine tenths of that at "
        f"{'the input' if names[first] == 'input' else f'layer {names[first]}'}.{key(found)}",
        limits="The final norm and projection were trained for the last layer and "
        f"{'for all patches' if found.own.all_read else f'the {found.own.reader} alone'}. In between, low means that "
        "the state is not yet in the output's own words, not that the model does not know. Pictures and texts also lie "
        "in two cones, so compare texts and layers rather than trust a single cosine.",
        picture=picture, texts=labels(found), layers=names, unit="cosine", pooled=pooled, code=code.lens(),
        values=lens["patch"].isel(picture=0).transpose("text", "layer", "row", "col").values, signed=True,
        reader=found.own.reader, provenance=origin(lens),
    )  # fmt: skip


def growth(found: Battery, code: Snippets) -> Curve:
    """The number that is explained at each layer, beside the untrained model and chance."""

    def line(measured: Measured) -> ndarray:
        pooled = measured.lens["pooled"].isel(picture=0).transpose("text", "layer").values
        return np.asarray(pooled[0] - pooled[1] if len(pooled) > 1 else pooled[0])

    lens, own = found.own.lens, line(found.own)
    lines = [Line("this picture", own)]
    if found.other is not None:
        lines.append(Line("the counterfactual", line(found.other)))
    if found.floor is not None:
        lines.append(Line("before training", line(found.floor), baseline=True))
    words = found.own.texts.directions(centre=False)
    length = float((words[0] - words[1]).norm()) if len(words) > 1 else 1.0
    chance = lens["random"].values * length
    lines.append(Line("random texts", np.zeros_like(chance), -chance, chance, baseline=True))
    step = int(np.abs(np.diff(own)).argmax())
    return Curve(
        title="Where the answer appears",
        seen=f"For {aim(found)}, {number(found)} changes most at layer {step} (by "
        f"{signed(own[step + 1] - own[step]):+.3f}) and ends at {signed(own[-1]):+.3f}. The grey band is what random "
        "texts "
        f"give, one standard deviation.{key(found)}",
        limits="The curve is read through the model's last norm and projection at every layer. A step says that the "
        "answer turned into the output's words there, not that it was worked out there.",
        x=Side("layer", tuple("input" if layer < 0 else str(layer) for layer in lens["layer"].values)),
        lines=tuple(lines), unit="cosine", code=code.lens(), provenance=origin(lens),
    )  # fmt: skip


# --- what adds up -----------------------------------------------------------------------------------------------------


def bars(found: Battery, code: Snippets) -> list[Bars]:
    """The number that is explained, then the similarity with each text, as sums."""
    effect = found.own.parts.effect(found.own.texts).isel(item=0)
    made, own = [], found.own
    if len(found.case.texts) > 1:
        less = effect.isel(text=0) - effect.isel(text=1).values
        made.append(_sum(found, less, f"What adds up to {aim(found)}", own.margin, code.bars(0, 1), key(found)))
    for index in range(len(found.case.texts[:SHOWN])):
        title = f"What adds up to {name(found, index)}"
        told = f" {name(found, index)} is {quoted(found.case.texts[index])}." if lettered(found) else ""
        number_of = float(own.similarity[index])
        made.append(_sum(found, effect.isel(text=index), title, number_of, code.bars(index), told))
    return made


def _sum(found: Battery, effect: xarray.DataArray, title: str, total: float, code: str, told: str) -> Bars:
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
        f"Together {signed(summed):.6f}: the model's own number is {signed(total):.6f}, and the gap of "
        f"{abs(summed - total):.0e} is rounding.{told}",
        limits="These are direct effects: what a layer writes that reaches the output unchanged. An early layer that "
        "only prepares the ground for a later one shows up as nothing. The final norm is held at its scale for this "
        "picture.",
        bars=tuple(made), unit="cosine", total=total, code=code, provenance=origin(found.own.parts),
    )  # fmt: skip


def heads(found: Battery, code: Snippets) -> HeadTable:
    """Each head's direct effect on the number that is explained, and the texts it varies with."""
    own, spans = found.own, found.spans
    mean = _usual(found)
    rows = []
    for (layer, head), value in np.ndenumerate(own.heads.values):
        at = {"layer": layer, "head": head}
        extra: dict[str, float | None] = {"random texts": float(own.head_chance.isel(at))}
        if mean is not None:
            extra["above its mean"] = float(value - mean[layer, head])
        named: tuple[Span, ...] = ()
        if spans is not None:
            one = spans.data.isel(at)
            explained = np.diff(one["explained"].values, prepend=0.0)
            named = tuple(Span(str(t), float(v)) for t, v in zip(one["text"].values, explained, strict=True))
            extra |= {"fit": float(one["fit"].values[0])}
        part = float(value) / own.margin if abs(own.margin) > CLEAR else None
        rows.append(Head(layer, head, float(value), part, spans=named, extra=extra))
    lead = leading(own)
    best = next(row for row in rows if (row.layer, row.head) == lead)
    share = "" if best.direct is None else f", {signed(best.direct):.0%} of all"
    above = sum(abs(row.effect or 0) > 2 * (row.extra["random texts"] or 0) for row in rows)
    said = (
        f" Over {found.crowd.data.sizes['item']} pictures it varies most with {quoted(best.spans[0].text)}"
        if best.spans and found.crowd is not None
        else " No texts describe the heads here: that takes many pictures (--pictures) and a bank of texts (--bank)."
    )
    if spans is not None:
        fit = float(spans["random_fit"].isel(pick=0).mean())
        said += f" (fit {best.extra['fit'] or 0:.2f}, random directions {fit:.2f} on average)."
    return HeadTable(
        title="Heads",
        seen=f"What each head adds directly to {number(found)}, for {aim(found)}. Layer {best.layer}, head {best.head} "
        f"adds most: {signed(best.effect or 0):+.3f}{share}. {above} of {len(rows)} heads add more "
        f"than twice what they would for random texts.{said}{key(found)}",
        limits="A direct effect is not the whole effect: a head can act through later layers, which patching shows and "
        "this does not. The texts say along which words a head varies over many pictures; near-synonyms share a "
        "direction, a bank without the right word names a neighbour, and a head need not be about one thing.",
        heads=tuple(rows), effect="direct effect", direct="share of all", code=code.heads(spans is not None),
        provenance=origin(spans if spans is not None else own.parts),
    )  # fmt: skip


def _usual(found: Battery) -> ndarray | None:
    """The mean over many pictures of what each head adds to the number that is explained, (layer, head)."""
    if found.crowd is None:
        return None
    effect = found.crowd.effect(found.own.texts, "heads").mean("item").transpose("text", "layer", "head").values
    return np.asarray(effect[0] - effect[1] if len(effect) > 1 else effect[0])


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
        f"cosine of {signed(cosine):.2f}; the heaviest are {named}. As many random directions in place of the texts "
        "reach "
        f"{signed(chance):.2f}.",
        limits="A description, not an effect on the output. It can use no word that the bank lacks, and picks "
        "neighbours for what it has no word for. Where random directions do nearly as well, the words carry little.",
        columns=("text", "topic", "weight"), cells=cells, code=code.splice(), provenance=origin(made),
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
        f"{rank[0]} ({signed(values[0]):.3f}); the best of the bank is {quoted(str(texts[best]))} "
        f"({signed(values[best]):.3f}). The last column counts standard deviations above the mean of all "
        f"texts.{key(found)}",
        limits="Longer texts and common phrases sit nearer to every picture, so ranks of unlike texts say little. A "
        "text that is near is not thereby true.",
        columns=("rank", "text", "topic", "cosine", "above the mean (sd)"), cells=cells, code=code.nearest(),
        provenance=origin(found.own.parts) | {"texts": len(values)},
    )  # fmt: skip


# --- what it is worth -------------------------------------------------------------------------------------------------


def floors(found: Battery, code: Snippets) -> Table:
    """The main numbers beside the same of the untrained model, the counterfactual and chance."""
    own, floor, other = found.own, found.floor, found.other
    rows: list[tuple[str, float, float | None, float | None, float | None]] = []

    def add(what: str, of: Any, chance: float | None = None) -> None:
        there = of(other) if other is not None else None
        rows.append((what, of(own), there, of(floor) if floor is not None else None, chance))

    size = float(own.lens["random"].values[-1])
    for index in range(len(found.case.texts)):
        add(f"cosine with {labels(found)[index]}", lambda m, at=index: float(m.similarity[at]), size)
    if len(found.case.texts) > 1:
        add(aim(found), lambda m: m.margin)
    add("largest share of one ninth", lambda m: mass(aimed(m))[1], 1 / 9)
    for region, mask in found.case.truth.items():
        fair = float(aimed(own).sum()) * inside(aimed(own), mask)[1]
        add(f"added by the patches of {region}", lambda m, here=mask: inside(aimed(m), here)[0], fair)
    if found.splice is not None:
        rows.append(("cosine of the sparse texts", *_first(found.splice, "cosine"), None, None,
                     *_first(found.splice, "random")))  # fmt: skip
    if found.spans is not None:
        fit, chance = (float(found.spans[name].isel(pick=0).mean()) for name in ("fit", "random_fit"))
        rows.append(("mean fit of the heads' first texts", fit, None, None, chance))
    untold = (
        f" Before training it gave {signed(floor.margin):+.3f}."
        if floor is not None
        else " No untrained twin of this model is known, so that column is empty."
    )
    return Table(
        title="Beside chance",
        seen=f"The model gives this picture {signed(own.margin):+.3f} for {aim(found)}.{untold} The main numbers of "
        "this "
        "page stand beside the same for the counterfactual picture, for the model before training, and for chance: a "
        "random "
        "direction (root mean square), an even spread over the picture, random directions in place of texts."
        f"{key(found)}",
        limits="Chance is a random direction or place, not a wrong but sensible text; for that, give the wrong text as "
        "a second --text. One picture is one case: nothing here says how often the model behaves so.",
        columns=("number", "this picture", "counterfactual", "before training", "chance"), cells=tuple(rows),
        code=code.similarity(), provenance=origin(own.parts),
    )  # fmt: skip


def _first(result: Result, name: str) -> tuple[float]:
    return (float(result[name].values[0]),)
