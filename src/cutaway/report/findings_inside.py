"""The inside of a model that answers, in words: what writes the answer, who looks at what, what can be read where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray

from cutaway.report.findings_asked import KINDS
from cutaway.report.findings_looks import FORMS, LOOKS
from cutaway.report.findings_spots import READ, SPOTS
from cutaway.report.findings_words import both, listed, markdown, ranged
from cutaway.report.findings_writes import HOW, PARTS

Found = dict[str, xarray.Dataset]
WELL = 0.75  # right of 100 from which a probe is said to read
SHOWN = 4  # heads of a kind in the table
SPOKEN = {
    "patch": "the patch of the thing named first",
    "first name": "its name",
    "second name": "the other name",
    "last": "the last position",
}


# --- sentences --------------------------------------------------------------------------------------------------------


def fetches(found: Found) -> str:
    """Which heads the names of a question look at the picture with, and whether the same do in words."""
    one, before = found["looks"].sel(look=LOOKS[0]), found["looks_floor"].sel(look=LOOKS[0], form=FORMS[0])
    seen, heard = (one.sel(form=form) for form in FORMS)
    told = (
        f"when the names in a left-or-right question cannot look at the picture there, {both(seen['own_right'])} of "
        f"100 answers are right (uncut {both(seen['right'])}; as many other heads cut instead, at least "
        f"{both(seen['random_right_low'])}); before training {both(before['right'])} are right to begin with"
    )
    heads = _same(seen)
    if not (heads and needed(seen)):
        return (
            f"**It cannot be said which heads fetch where things are**: without heads {_heads(seen)}, which other "
            f"scenes chose, {both(seen['own_right'])} of 100 left-or-right answers are right (uncut "
            f"{both(seen['right'])}; as many other heads cut instead, at least {both(seen['random_right_low'])})."
        )
    several = len(str(seen["chosen"].values[0]).split(", ")) > 1
    name = f"{'Heads' if several else 'Head'} {heads}"
    verb = "fetch" if several else "fetches"
    if _same(heard) == heads and needed(heard):
        rest = f"Told in words, the same: {both(heard['own_right'])} of 100 (uncut {both(heard['right'])})"
    else:
        rest = f"That it is the same in words cannot be said (heads {_heads(heard)})"
    return f"**{name} {verb} where things are**: {told}. {rest}."


def arrives(found: Found) -> str:
    """After which layer a probe reads the answer, by position."""
    at = {spot: reads_from(found, spot, "answer") for spot in SPOTS}
    known = {spot: layer for spot, layer in at.items() if layer is not None}
    last = found["spots"].sel(spot="last", label="answer").isel(layer=-1)
    before = found["spots_floor"]["mean"].sel(label="answer")
    if len(known) < 2 or "last" not in known:
        return (
            "**It cannot be said where the answer can be read first**: at the last position, after the last layer, a "
            f"linear probe tells left from right in {both(last['mean'])} of 100 held-out questions (always the more "
            f"frequent: {both(last['majority'])})."
        )
    order = sorted(known, key=lambda spot: known[spot])
    told = listed([f"at {SPOKEN[spot]} after {_layer(known[spot])}" for spot in order])
    early = [spot for spot in order if known[spot] < known["last"]]
    begins = "The answer travels to the end" if early else "The answer can be read"
    return (
        f"**{begins}**: a linear probe tells left from right {told} ({both(last['mean'])} of 100 at the end; always "
        f"the more frequent {both(last['majority'])}; before training, at any of them and after any layer, at most "
        f"{both(before.max(('spot', 'layer')))})."
    )


def ranks(found: Found) -> str:
    """How far direct effects and ablations rank heads alike."""
    own, before = (found[name].sel(part="heads", how="mean") for name in ("writes", "writes_floor"))
    by_kind = own["rho"].mean("set")
    least, most = (str(own["kind"].values[int(at)]) for at in (by_kind.argmin("kind"), by_kind.argmax("kind")))
    told = (
        "over all heads, the ranks of what a head writes into the answer directly and of what is lost without it "
        f"correlate by {_pair(own['rho'].sel(kind=least))} ({least}) to {_pair(own['rho'].sel(kind=most))} ({most}), "
        f"by chance up to {_pair(own['permuted_high'].max('kind'))}, before training by at least "
        f"{_pair(before['rho'].min('kind'))}"
    )
    if not bool((own["rho_low"] > own["permuted_high"]).all()):
        return f"**It cannot be said that direct effects tell which heads matter**: {told}."
    if bool((own["rho_high"].max("kind") < before["rho_low"].min("kind")).all()):
        return (
            "**What a head writes directly tells only in part what is lost without it, and less than before "
            f"training**: {told}."
        )
    return f"**Heads that write more directly cost more when they are gone, beyond chance**: {told}."


def needed(one: xarray.Dataset) -> bool:
    """Whether answers are right, and lost without the chosen heads more than without any others, in both sets."""
    knows = one["right"] > 0.5 + 1 / one["scenes"] ** 0.5  # two standard errors of a coin
    return bool(
        (knows & (one["own_lost_low"] > np.maximum(one["random_lost_high"], 0)) & (one["own_right_high"] < one["right"])
         & (one["own_right_high"] < one["random_right_low"])).all()
    )  # fmt: skip


def reads_from(found: Found, spot: str, label: str) -> int | None:
    """The first layer from which a probe reads `WELL`, above chance, control and floor, in both sets; else None."""
    own, before = (found[name].sel(spot=spot, label=label) for name in ("spots", "spots_floor"))
    well = (own["mean"] >= WELL) & (own["low"] > own["majority"]) & (own["low"] > own["control"])
    sure = (well & (own["low"] > before["mean"])).all("set")
    return int(own["layer"].values[int(sure.values.argmax())]) if bool(sure.any()) else None


# --- parts ------------------------------------------------------------------------------------------------------------


def decomposition(found: Found) -> str:
    """The section on direct effects: what writes, from where, and what is lost without."""
    one = found["writes"]
    by_chance = one["first_chance"].isel(kind=0).sel(part="heads", how="mean")
    return (
        "## Decomposition: what writes the answer\n\n"
        f"Questions of {len(KINDS)} kinds ({int(one['questions'].min())} each). The difference of the logits of the "
        "true answer and a rival is an exact sum over everything that is added to the last position "
        "(`logit_decomposition`). *Gap*: by how much the sum misses it at most. *Read at*: of what all heads bring, "
        "how much comes from patches of which the asked things cover at least half (in brackets, their share of the "
        "patches, in %), from other patches, from the names of things in the question, from its other words, and from "
        f"the last position itself. Logits, means over questions.\n\n{_written(one, found['writes_floor'])}\n\n"
        "### Do direct effects rank as ablation does?\n\nEach head (MLP) is ablated at the last position: it gives its "
        "mean over the questions there, or zero. *ρ*: Spearman's correlation, over all heads, of direct effect and "
        "logits lost, mean over questions, with its 95 % interval over questions. *By chance*: what 95 % of "
        "permutations of the heads give. *Stranger*: the direct effects of one question against what another loses. "
        "*Of means*: ρ of the means over questions. *Same first*: of 100 questions, in how many the same head is "
        f"largest, in size, by both (chance {both(by_chance)}).\n\n"
        f"{_ranked(found)}\n\nThe heads without which most is lost, with what they write directly:\n\n{_largest(one)}"
    )


def circuit(found: Found) -> str:
    """The section on who looks at what for left and right."""
    one = found["looks"]
    return (
        "## The circuit of sides\n\n“Is the dog to the left or to the right of the car?” Two looks are cut, by "
        "attention knock-out: of the *names at the scene* (the picture tokens, or the words that tell the scene) and "
        f"of the *last* position *at the names*. On {int(one['scenes'].min())} scenes the layer is chosen whose cut "
        "loses most, and in it the fewest heads that lose 80 % of that, at most three; on as many others it is "
        "measured: right answers, and the share of the mean logit difference that is lost, in %. *Whole layer*: the "
        "look is cut in all heads of the layer that loses most. *Others*: the greatest loss without as many other "
        "heads of any layers (all single ones, or 12 random sets). *Only these*: what is lost when the look is cut in "
        "every other head of every layer. *Other's heads*: with those that were chosen for the other form of the "
        "scene.\n\n"
        f"{_looked(found)}\n\nWhat is lost, in %, when the look is cut in all heads of one layer:\n\n{_by_layer(one)}"
    )


def probing(found: Found) -> str:
    """The section on what can be read where."""
    one = found["spots"]
    counts = "/".join(str(int(value)) for value in one["questions"].values)
    return (
        f"## Probing by position\n\nLinear probes on {counts} questions which of left and right (`linear_probing`): "
        "right of 100 held-out ones after each layer (`input`: before the first). *Group*: of the thing that is named "
        "first (animals, food, …). *Answer*: left or right. The *patch* is the picture token that the thing named "
        "first covers most. *There*: at the layer that is best on the other set, with its 95 % interval over splits; "
        "*control*: with labels that say nothing, one for each concept (group) or question (answer); *majority*: "
        "always the most frequent label; *floor*: the same layer before training. The half of the picture in which "
        f"the first thing lies is the answer in {both(one['by_place'])} of 100 questions, so a patch whose own place "
        f"can be read gives as much.\n\n{_probed(found)}"
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _written(one: xarray.Dataset, floor: xarray.Dataset) -> str:
    header = ["question", "right, %", "difference", "gap", "heads", "MLPs", "the rest", "asked things (of patches)",
              "other patches", "names", "other words", "itself", "before training"]  # fmt: skip
    rows = []
    for kind in KINDS:
        mine = one.sel(kind=kind)
        heads, mlps = mine["direct"].sum(("layer", "head")), mine["direct_mlp"].sum("layer")
        read = [_pair(mine["read"].sel(source=source)) for source in mine["source"].values]
        rows.append([
            kind, both(mine["right"]), _pair(mine["total"]), f"{float(mine['error'].max()):.0e}", _pair(heads),
            _pair(mlps), _pair(mine["total"] - heads - mlps), f"{read[0]} ({both(mine['area'])})", *read[1:],
            _pair(floor["total"].sel(kind=kind)),
        ])  # fmt: skip
    return markdown(header, rows)


def _ranked(found: Found) -> str:
    header = ["question", "heads: ρ", "by chance", "stranger", "of means", "same first, %", "zero: ρ", "MLPs: ρ",
              "by chance", "before training: heads", "MLPs"]  # fmt: skip
    rows = []
    for kind in KINDS:
        own, before = (found[name].sel(kind=kind) for name in ("writes", "writes_floor"))
        mean, zero = (own.sel(part="heads", how=how) for how in HOW)
        mlps = own.sel(part="MLPs", how="mean")
        rows.append([
            kind, _between(mean, "rho"), _ends(mean), _pair(mean["stranger"]), _pair(mean["rho_mean"]),
            both(mean["first"]), _pair(zero["rho"]), _between(mlps, "rho"), _ends(mlps),
            *(_between(before.sel(part=part, how="mean"), "rho") for part in PARTS),
        ])  # fmt: skip
    return markdown(header, rows)


def _largest(one: xarray.Dataset) -> str:
    rows = []
    for kind in KINDS:
        lost, direct = one["ablated"].sel(kind=kind, how="mean"), one["direct"].sel(kind=kind)
        flat = lost.mean("set").transpose("layer", "head").values
        cells = []
        for at in np.argsort(-flat, axis=None)[:SHOWN]:
            place = dict(zip(("layer", "head"), map(int, np.unravel_index(at, flat.shape)), strict=True))
            cells.append(
                f"{place['layer']}.{place['head']}: {_pair(lost.isel(place))}, writes {_pair(direct.isel(place))}"
            )
        rows.append([kind, *cells])
    return markdown(["question", *(f"{k}." for k in range(1, SHOWN + 1))], rows)


def _looked(found: Found) -> str:
    header = ["look", "scene", "heads found", "right uncut", "right without", "lost, %", "whole layer", "others",
              "only these", "other's heads"]  # fmt: skip
    rows = []
    for label, one in (("", found["looks"]), (", before training", found["looks_floor"])):
        for look in LOOKS:
            for form in one["form"].values:
                mine = one.sel(look=look, form=form)
                rows.append([
                    look, f"{form}{label}", _heads(mine), both(mine["right"]),
                    ranged(*(mine[f"own_right{end}"] for end in ("", "_low", "_high"))),
                    ranged(*(mine[f"own_lost{end}"] for end in ("", "_low", "_high"))),
                    both(mine["layer_lost"].max("layer")), both(mine["random_lost_high"]), both(mine["alone_lost"]),
                    "–" if label else both(mine["other_lost"]),
                ])  # fmt: skip
    return markdown(header, rows)


def _by_layer(one: xarray.Dataset) -> str:
    rows = [
        [look, form, *(both(one["layer_lost"].sel(look=look, form=form, layer=layer)) for layer in one["layer"].values)]
        for look in LOOKS
        for form in FORMS
    ]
    return markdown(["look", "scene", *map(str, one["layer"].values)], rows)


def _probed(found: Found) -> str:
    one, floor = found["spots"], found["spots_floor"]
    layers = one["layer"].values.tolist()
    header = ["read", "at", *("input" if layer < 0 else str(layer) for layer in layers), "there", "control",
              "majority", "floor"]  # fmt: skip
    rows = []
    for label in READ:
        for spot in SPOTS:
            mine, before = (which.sel(label=label, spot=spot) for which in (one, floor))
            at = [int(mine["mean"].isel(set=1 - k).argmax("layer")) for k in range(mine.sizes["set"])]
            index = {"layer": xarray.DataArray(at, dims="set"), "set": xarray.DataArray(range(len(at)), dims="set")}
            best, there = mine.isel(index), before.isel(index)
            rows.append([
                label, spot, *(both(mine["mean"].sel(layer=layer)) for layer in layers),
                ranged(best["mean"], best["low"], best["high"]), both(best["control"]), both(best["majority"]),
                both(there["mean"]),
            ])  # fmt: skip
    return markdown(header, rows)


# --- how numbers are written ------------------------------------------------------------------------------------------


def _pair(values: xarray.DataArray) -> str:
    """A number in each set, with two digits behind the point: `0.26/0.29`."""
    return "/".join(f"{float(value):.2f}" for value in values.values).replace("-0.00", "0.00")


def _between(one: xarray.Dataset, name: str) -> str:
    cells: Sequence[np.ndarray] = [one[name + end].values for end in ("", "_low", "_high")]
    return " / ".join(f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in zip(*cells, strict=True))


def _ends(one: xarray.Dataset) -> str:
    pairs = zip(one["permuted_low"].values, one["permuted_high"].values, strict=True)
    return " / ".join(f"[{low:.2f}, {high:.2f}]" for low, high in pairs)


def _heads(one: xarray.Dataset) -> str:
    """The heads that each set chose: `3.2`, or `3.2; 4.0, 4.4` where they differ."""
    return "; ".join(dict.fromkeys(str(heads) for heads in one["chosen"].values))


def _same(one: xarray.Dataset) -> str:
    """The heads, where both sets chose the same; "" else."""
    heads = {str(some) for some in one["chosen"].values}
    return listed(heads.pop().split(", ")) if len(heads) == 1 else ""


def _layer(layer: int) -> str:
    return "the input" if layer < 0 else f"layer {layer}"
