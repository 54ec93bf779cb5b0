"""The page of findings of models that draw: five sentences first, a UNet beside joint attention, every number made."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray

from cutaway import __version__
from cutaway.report.findings_drawn import HIDDEN, MAPS, PARTS, PLACES, STEPS, WAYS
from cutaway.report.findings_page import About
from cutaway.report.findings_words import both, listed, markdown, ranged
from cutaway.zoo.trained import trained

Found = Mapping[str, xarray.Dataset]
UNET, JOINT = "emoji-sd", "emoji-mmdit"
MODELS = {"": UNET, "_joint": JOINT}


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    parts = [
        _front(found, figures), _reading(about), _drawn(), _maps(found), _hidden(found), _places(found), _layers(found),
        _lens(found), _edits(found), _limits(),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def sentences(found: Found) -> list[str]:
    """What a reader should know first; each says what was found, and where nothing was."""
    return [lies(found), stays(found), carried(found), enters(found), exchanged(found)]


def _front(found: Found, figures: dict[str, str]) -> str:
    said = "\n".join(f"{i}. {one}" for i, one in enumerate(sentences(found), 1))
    first = found["shown"].isel(set=0)
    asked = listed([f"“{one}”" for one in first["said"].values])
    pairs = zip(first["name"].values, first["other"].values, strict=True)
    others = listed([f"“{name}” means “{other}”" for name, other in pairs])
    return (
        f"# From words to things: a UNet and joint attention\n\n{said}\n\n"
        "*Where two numbers stand with a slash between them, the same was measured on two sets of prompts, each with "
        "noise of its own; a thing is said to be so where both sets show it. All is in percent, and what is there is "
        "told by `zoo:emoji-judge`, which sees the picture and nothing else.*\n\n"
        "![What two prompts draw, where patches look for a word and for the one behind it, what is drawn without the "
        f"word, and with another meaning]({figures['strip']})\n\n*The first two prompts of the first set, whatever "
        f"they show: {asked}. From left: what is drawn; where patches look for the name of the thing, and for the word "
        "behind it, bright is more, from 0 to the greatest; the same noise when no patch can see the name; the same "
        f"noise when {others}.*\n\n"
        "![What positions of the prompt bring back of a thing and of a background; what is drawn from each layer of "
        f"the text encoder]({figures['places']})\n\n*Left and middle: the states of the text encoder at one kind of "
        "position, put into the drawing of a prompt that differs in one word, both models, a dot for each set. Right: "
        "drawn from the states behind each layer of the text encoder.*\n\n"
        "![What is left of a thing when words are hidden; through which grids of the UNet a prompt enters; what "
        f"another meaning draws]({figures['changes']})\n\n*Left: the probability of a thing when words are hidden "
        "from every patch. Middle: the prompt put in through layers of one grid of the UNet, at all steps. Right: "
        "shares of drawings that have the new thing, when the maps that read its word are solved anew, and when they "
        "change at random as much; and of those that have what they were asked for, of things nobody told the change "
        "of.*"
    )


def _reading(about: About) -> str:
    command = f"cutaway findings {about.model} --out {about.out} --n {about.n} --seed {about.seed}"
    return (
        f"## How this page is made\n\nEvery number and sentence on it is written by one command:\n\n"
        f"```sh\n{command}\n```\n\n"
        f"Measuring took {sum(about.seconds.values()):.0f} s. cutaway {__version__}, torch {torch.__version__}. "
        f"Two sets of held-out prompts, of the seeds {about.seed} and {about.seed + 1}: {max(4, about.n // 40)} of one "
        f"thing and as many of two for maps and the lens, {max(4, about.n // 64)} pairs that differ in one word for "
        f"each part, {max(2, about.n // 80)} exchanged words. Drawings have {STEPS} steps and guidance 3. Intervals "
        "are 95 %, from a bootstrap over things, prompts, pairs or words. *Before training* is the same model as it "
        "was drawn from its seed: the judge sees what was asked for in its drawings as often as by chance, so that "
        "only its maps are a floor, held against what the trained one drew from the same noise."
    )


def _drawn() -> str:
    rows = []
    cards = [{(row["measure"], row["of"]): row for row in trained(name).measured()["rows"]} for name in (UNET, JOINT)]
    for key, row in cards[0].items():
        other = cards[1].get(key)
        cells = [f"{100 * one['value']:.0f} [{100 * one['low']:.0f}, {100 * one['high']:.0f}]" if one else "–"
                 for one in (row, other)]  # fmt: skip
        rows.append([f"{key[0]}, {key[1]}", *cells, f"{100 * row['chance']:.0f}"])
    return (
        "## What they draw\n\nFrom the cards of the two models (20 steps, one seed each). They have the same words, "
        "latents, pictures and number of steps of training.\n\n"
        + markdown(["what holds of the drawing", UNET, JOINT, "chance"], rows)
    )


# --- the five sentences -----------------------------------------------------------------------------------------------


def lies(found: Found) -> str:
    """Whether maps of a word, and of the word behind, lie on its thing, in both models."""
    told, sure = [], dict.fromkeys(MAPS[:2], True)
    for end, name in MODELS.items():
        one, floor = found[f"maps{end}"].sel(things=2), found[f"maps{end}_floor"].sel(things=2)
        own, behind = (one.sel(map=which) for which in MAPS[:2])
        before = floor["iou"].sel(map=MAPS[0])
        told.append(
            f"in {name} {both(own['iou'])} (the word behind it {both(behind['iou'])}, shuffled "
            f"{both(own['shuffled'])}, before training {both(before)})"
        )
        for which in sure:
            here, under = one.sel(map=which), floor["iou_high"].sel(map=which)
            sure[which] &= bool((here["iou_low"] > under).all() and (here["iou_low"] > here["shuffled"]).all())
    rest = f"overlap of maps and things, two in a prompt: {listed(told)}"
    own, behind = sure.values()
    if own and behind:
        return f"**A thing lies where its word is looked for, and the word behind it is looked for there too**: {rest}."
    if own:
        return f"**A thing lies where its word is looked for**: {rest}."
    return f"**It cannot be said that both models look for a word where its thing is**: {rest}."


def stays(found: Found) -> str:
    """Of which models a thing stays when its name is hidden."""
    told: list[str] = []
    kept: list[str] = []
    open_: list[str] = []
    for end, name in MODELS.items():
        one = found[f"maps{end}"].sel(things=1)
        own, everything = (one["left"].sel(hidden=which) for which in ("its words", "all words"))
        told.append(f"in {name} {both(own)} (all words hidden {both(everything)})")
        low = one["left_low"].sel(hidden="its words")
        (kept if (low > 0.5 * one["left"].sel(hidden="nothing")).all() else open_).append(name)
    rest = f"its probability, of drawings of one thing that had it: {listed(told)}"
    if not kept:
        return f"**It cannot be said that a thing is still drawn when no patch can see its name**: {rest}."
    but = f"; of {listed(open_)} that cannot be said in both sets" if open_ else ""
    return f"**In {listed(kept)} a thing is still drawn when no patch can see its name{but}**: {rest}."


def carried(found: Found) -> str:
    """Which positions of the prompt bring a background back."""
    told, sure = [], True
    for end, name in MODELS.items():
        one = found[f"places{end}"].sel(part="background")
        word, padding = (one["in_mean"].sel(position=where) for where in ("the word", "padding"))
        told.append(f"in {name} {both(padding)} by the padding, {both(word)} by its own word")
        sure &= bool((one["in_low"].sel(position="padding") > one["in_high"].sel(position="the word")).all())
    rest = f"of the gap between two prompts that differ in the colour, {listed(told)}"
    if sure:
        return f"**A background is read off the states of the padding, not off that of its word**: {rest}."
    return f"**What carries a background is not the same in both models, or not in both sets**: {rest}."


def enters(found: Found) -> str:
    """By which grid of the UNet a thing and a background come in."""
    one = found["layers"]
    grids = [str(name) for name in one["layer"].values if "×" in str(name)]
    told, most = [], {}
    for part in PARTS:
        here = one.sel(part=part, layer=grids)
        most[part] = [  # the grid that brings back more than any other, in both sets
            grid for grid in grids
            if (here["in_low"].sel(layer=grid) > here["in_high"].drop_sel(layer=grid).max("layer")).all()
        ]  # fmt: skip
        shares = [f"{both(here['in_mean'].sel(layer=grid))} by {grid}" for grid in grids]
        told.append(f"a {part} {listed(shares)}")
    rest = f"of the gap, put in through the layers of a grid of {UNET} alone: {'; '.join(told)}"
    one_each = {part: " and ".join(f"{grid}" for grid in where) for part, where in most.items()}
    if all(most.values()) and most["thing"] != most["background"]:
        return f"**In the UNet background and thing come in at different grids**: {rest}."
    known = [f"a {part} comes in at {where}" for part, where in one_each.items() if where]
    unknown = [f"a {part}" for part, where in one_each.items() if not where]
    if known and unknown:
        said = f"In the UNet {listed(known)}; at which grid {listed(unknown)} does cannot be told in both sets"
        return f"**{said}**: {rest}."
    return f"**At which grid of the UNet a thing and a background come in cannot be told apart in both sets**: {rest}."


def exchanged(found: Found) -> str:
    """Whether a word can be given another meaning in closed form."""
    told, sure = [], True
    for end, name in MODELS.items():
        edit, random = (found[f"edits{end}"].sel(way=way) for way in WAYS)
        before = found[f"edits{end}"].sel(way="before")
        told.append(
            f"in {name} {both(edit['new'])} of prompts of the old word draw the new thing (random change "
            f"{both(random['new'])}), and {both(edit['untold'])} of things that nobody told it of are still drawn "
            f"(random change {both(random['untold'])}, before {both(before['untold'])})"
        )
        sure &= bool((edit["new_low"] > random["new_high"]).all())
    rest = listed(told)
    if sure:
        return f"**Solving the linear maps that read the prompt anew gives a word another meaning**: with that, {rest}."
    return f"**That a word can be given another meaning in closed form cannot be said of both models**: {rest}."


# --- tables -----------------------------------------------------------------------------------------------------------


def _cells(one: xarray.Dataset, name: str) -> str:
    return ranged(one[name], one[f"{name}_low"], one[f"{name}_high"])


def _maps(found: Found) -> str:
    rows = []
    for end, name in MODELS.items():
        for things in (1, 2):
            for which in MAPS:
                one = found[f"maps{end}"].sel(things=things, map=which)
                before = found[f"maps{end}_floor"].sel(things=things, map=which)
                rows.append([name, str(things), which, _cells(one, "iou"), _cells(one, "hit"), both(one["shuffled"]),
                             both(before["iou"])])  # fmt: skip
    counts = {name: found[f"maps{end}"]["drawn"] for end, name in MODELS.items()}
    drawn = "; ".join(
        f"{name} {listed([both_counts(one.sel(things=things)) for things in (1, 2)])}" for name, one in counts.items()
    )
    return (
        "## Where words are looked for\n\nThe map of a word (`cross_attention`: the mean over steps, layers and heads, "
        "each layer brought to the finest grid bilinearly) "
        "against the cells on which the judge sees the thing. *Overlap*: cells above the middle of the map, "
        f"intersection over union. *Greatest*: the largest cell lies on the thing. A patch of joint attention covers 2 "
        f"× 2 cells. Things that were drawn, of one and of two in a prompt: {drawn}.\n\n"
        + markdown(
            ["model", "things", "map of", "overlap", "greatest on it", "overlap, shuffled", "overlap, before training"],
            rows,
        )
    )


def both_counts(values: xarray.DataArray) -> str:
    """The same count in each set."""
    return "/".join(str(int(one)) for one in values.values)


def _hidden(found: Found) -> str:
    rows = [
        [name, which, *(_cells(found[f"maps{end}"].sel(things=things, hidden=which), "left") for things in (1, 2))]
        for end, name in MODELS.items() for which in HIDDEN
    ]  # fmt: skip
    return (
        "## What is left when words are hidden\n\nThe probability of the first thing, of those drawings that have it, "
        "when words are hidden from every patch at every layer and step (`hide_words`).\n\n"
        + markdown(["model", "hidden", "one thing", "two things"], rows)
    )


def _places(found: Found) -> str:
    rows = []
    for end, name in MODELS.items():
        for part in PARTS:
            for where in PLACES:
                one = found[f"places{end}"].sel(part=part, position=where)
                rows.append([name, part, where, _named(one, "in"), both(one["in_random"]), _named(one, "out")])
    gap = {name: found[f"places{end}"]["gap"] for end, name in MODELS.items()}
    gaps = "; ".join(
        f"{name} {listed([f'{part} {both(one.sel(part=part))}' for part in PARTS])}" for name, one in gap.items()
    )
    return (
        "## What positions of the prompt carry\n\nTwo prompts that differ in one word are drawn from the same noise; "
        "the states of the last layer of the text encoder that is read are put from one into the other, a kind of "
        "position at a time (`drawing_tracing`). *Put in*: the share of the gap that comes back. *Taken out*: the "
        f"share that is left. *Unrelated*: put in from another pair. The gap in the judge's probability: {gaps}.\n\n"
        + markdown(["model", "what differs", "position", "put in", "unrelated", "taken out, left"], rows)
    )


def _named(one: xarray.Dataset, way: str) -> str:
    return ranged(one[f"{way}_mean"], one[f"{way}_low"], one[f"{way}_high"])


def _layers(found: Found) -> str:
    one = found["layers"]
    rows = [
        [str(name), *(_named(one.sel(layer=name, part=part), way) for part in PARTS for way in ("in", "out"))]
        for name in one["layer"].values
    ]  # fmt: skip
    when = [
        [str(name), *(_named(one.sel(window=name, part=part), "when") for part in PARTS)]
        for name in one["window"].values
    ]
    return (
        "## Through which layers of the UNet, and when\n\nThe same with what the patches of a layer read of the prompt "
        "(its keys and values), at all steps; below, with all layers at some of the steps. Joint attention takes the "
        "prompt in at its first layer; what later ones read of it has been changed by patches since.\n\n"
        + markdown(["layers", *(f"{part}: {way}" for part in PARTS for way in ("put in", "taken out, left"))], rows)
        + "\n\n" + markdown(["steps", *(f"{part}: put in" for part in PARTS)], when)
    )  # fmt: skip


def _lens(found: Found) -> str:
    rows = []
    for end, name in MODELS.items():
        one = found[f"lens{end}"]
        for layer in one["layer"].values:
            here = [one.sel(layer=layer, part=part) for part in PARTS]
            told = [cell for own in here for cell in (_cells(own, "value"), both(own["random"]))]
            rows.append([name, str(layer), *told])
    return (
        "## What each layer of the text encoder gives\n\nThe probability of thing and background in what is drawn from "
        "the states behind each layer, as if the layers after it were not there (`diffusion_lens`; `embed`: what "
        "enters the first). *Another*: from the states of another prompt.\n\n"
        + markdown(["model", "layer", "thing", "another", "background", "another"], rows)
    )


def _edits(found: Found) -> str:
    rows = []
    for end, name in MODELS.items():
        one = found[f"edits{end}"]
        rows += [[name, str(way), *(_cells(one.sel(way=way), what) for what in ("new", "old", "kept", "untold"))]
                 for way in one["way"].values]  # fmt: skip
    return (
        "## Words that are given another meaning\n\nOne word at a time is exchanged for another in the maps through "
        "which the denoiser reads its prompt (`concept_edit`), and six things are told to stay. Shares of drawings "
        "that have the new thing, still the old one, the thing asked for of those six, and of six that the edit was "
        "not told of.\n\n"
        + markdown(["model", "weights", "new thing", "old thing", "told to stay", "not told of"], rows)
    )


def _limits() -> str:
    return (
        "## What this page cannot say\n\nThere is one trained model of each kind, and their text encoder is the same "
        "one. Things are told by one judge. Only drawings that have a thing are held against maps. What positions or "
        "layers bring back does not add up. The two models differ in more than how they attend to words: noise, "
        "target, size."
    )
