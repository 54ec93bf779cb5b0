"""The page on attribution: which data, which pixels, which picture, in the words of its own numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

from cutaway import __version__
from cutaway.data.prompts import DRAWABLE
from cutaway.report.findings_made import FIRST, SCENE, THINGS, WAYS
from cutaway.report.findings_page import About
from cutaway.report.findings_plots import saved
from cutaway.report.findings_traced import BEFORE, CHANCE, LIKENESS, WORLDS
from cutaway.report.findings_words import listed, markdown

Found = dict[str, xarray.Dataset]
FAMILIES = {"clip": "matches", "llava": "answers", "sd": "draws"}
MODELS = {"pixels_clip": "zoo:emoji-clip", "pixels_llava": "zoo:emoji-llava"}
PARTS = ("share", "overlap", "points", "gone")


def page(found: Found, about: About, figures: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    numbered = "\n".join(f"{i}. {said}" for i, said in enumerate(sentences(found), 1))
    front = (
        f"# Which data, which pixels, which picture: attribution held against truth\n\n{numbered}\n\n*Where two "
        "numbers stand with a slash between them, the same was measured on two sets: of retrained models, of scenes, "
        f"of things. A thing is said to be so where both show it.*\n\n![What scores of training items "
        f"foretell]({figures['data']})"
    )
    return "\n\n".join([front, _made(about), _data(found), _pixels(found), _pictures(found), _limits()]) + "\n"


# --- sentences --------------------------------------------------------------------------------------------------------


def sentences(found: Found) -> list[str]:
    """What a reader should know first: a sentence for each family's data, one for pixels, one for pictures."""
    made = []
    for name in WORLDS:
        one = found[f"data_{name}"]
        best = [str(way) for way in _best(one)]
        told = best[0] if best[0] == best[1] else f"{best[0]} in one half of the trainings, {best[1]} in the other"
        made.append(
            f"**Data, a model that {FAMILIES[name]}**: of {len(_trained(one))} methods that look at the trained model "
            f"the best foretells retrained models with a rank correlation (LDS) of {_pair(_of(one, best))} ({told}); "
            f"likeness of representations {_both(one, LIKENESS)}, chance {_both(one, CHANCE)}, gradients of the model "
            f"before training {_both(one, BEFORE)}; two seeds of training agree to "
            f"{_pair(one['ceiling'].mean('query').values)}."
        )
    lies = []
    for name, model in MODELS.items():
        one = found[name]["share"].mean("scene")
        above = [way for way in one["way"].values if (one.sel(way=way) > 2 * _area(found, name)).all("set")]
        lies.append(
            f"of {model} {listed([f'`{way}`' for way in above]) if above else 'none'} put more than twice as much "
            f"relevance on the named thing as chance ({_pair(_area(found, name).values)}) in both sets"
        )
    made.append(f"**Pixels**, of {found['pixels_clip'].sizes['way']} methods: {'; '.join(lies)}.")
    one, floor = found["pictures"], found["pictures_floor"]
    ranks = "; ".join(
        f"{way} {_pair(one['rank'].sel(way=way).median('thing').values, 0)} (before training "
        f"{_pair(floor['rank'].sel(way=way).median('thing').values, 0)})"
        for way in WAYS
    )
    made.append(
        f"**Pictures** made for a word raise its cosine to {_range(one['value'].sel(way=list(WAYS)).mean('thing'))} "
        f"where the best of 64 scenes has {_pair(one['value'].sel(way=SCENE).mean('thing').values)}; a judge that "
        f"knows {len(DRAWABLE)} things ranks the thing at {ranks} (medians over {THINGS} things; "
        f"{_pair(one['rank'].sel(way=SCENE).median('thing').values, 0)} in the best scene)."
    )
    return made


def _trained(one: xarray.Dataset) -> list[str]:
    return [str(way) for way in one["way"].values if way not in (CHANCE, LIKENESS, BEFORE)]


def _best(one: xarray.Dataset) -> list[str]:
    """The method with the highest mean LDS in each set."""
    values = one["lds"].mean("query").sel(way=_trained(one))
    return [str(values["way"].values[int(values.isel(set=at).argmax("way"))]) for at in range(values.sizes["set"])]


def _of(one: xarray.Dataset, ways: list[str]) -> np.ndarray:
    """The mean LDS in each set, of the method named for that set."""
    return np.array([float(one["lds"].isel(set=at).sel(way=way).mean()) for at, way in enumerate(ways)])


def _both(one: xarray.Dataset, way: str) -> str:
    return _pair(one["lds"].sel(way=way).mean("query").values)


def _pair(values: np.ndarray, digits: int = 2) -> str:
    return " / ".join("–" if np.isnan(one) else f"{one:.{digits}f}" for one in np.atleast_1d(values))


def _range(values: xarray.DataArray) -> str:
    """From the least to the largest of several ways, over both sets."""
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"


def _area(found: Found, name: str) -> xarray.DataArray:
    return found[name]["area"].mean("scene")


# --- parts ------------------------------------------------------------------------------------------------------------


def _made(about: About) -> str:
    seconds = sum(about.seconds.values())
    return (
        f"## How it was measured\n\n`cutaway findings {about.model} --about attribution --out {about.out} --n {about.n}"
        + (f" --seed {about.seed}" if about.seed else "")
        + f"` with cutaway {__version__}; {seconds / 60:.0f} minutes. How the retrained worlds are made, what is "
        "planted in them and what the loss of an item is: [attribution-truth](../attribution-truth.md); every method "
        "and more measures beside retrained models stand there as well. Maps: [relevance](../relevance.md). Pictures: "
        "[feature visualisation](../feature-visualisation.md)."
    )


def _data(found: Found) -> str:
    parts = []
    for name in WORLDS:
        one = found[f"data_{name}"]
        rows = []
        for way in map(str, one["way"].values):
            here = one.sel(way=way)
            kinds = [_pair(here["lds"].isel(query=np.flatnonzero(one["kind"].values.reshape(-1, one.sizes["query"])[0]
                     == kind)).mean("query").values) for kind in ("held", "copied", "misled")]  # fmt: skip
            planted = [_pair(here[part].values) for part in ("wrong", "copies", "cue")]
            rows.append([way, _pair(here["lds"].mean("query").values), *kinds, *planted])
        head = ["method", "LDS", "held", "copied", "misled", "wrong captions, AUC", "copies in the first 4", "cue, AUC"]
        parts.append(
            f"### A model that {FAMILIES[name]}\n\n{markdown(head, rows)}\n\nTwo seeds of training agree to "
            f"{_pair(one['ceiling'].mean('query').values)}."
        )
    return (
        "## Which data\n\nLDS: the rank correlation, over 32 models that were trained on random halves of the items, "
        "of a query's outcome with the sum of the scores of the items that were there; the mean over 40 queries "
        "(*held*: new scenes; *copied*: items that were there four times; *misled*: mistakes that a planted cue "
        "teaches). *Wrong captions*: how often an item with another's caption is above others by its score for itself. "
        "The two sets are two halves of the trainings; projections are drawn anew.\n\n" + "\n\n".join(parts)
    )


def _pixels(found: Found) -> str:
    parts = []
    for name, model in MODELS.items():
        one, floor = found[name], found[f"{name}_floor"]
        rows = [
            [f"`{way}`", *(_pair(one[part].sel(way=way).mean("scene").values) for part in PARTS),
             _pair(floor["share"].sel(way=way).mean("scene").values)]
            for way in map(str, one["way"].values)
        ]  # fmt: skip
        rows.append(["by chance", _pair(_area(found, name).values), "", "", "", ""])
        head = ["method", "relevance on it", "overlap", "pointing", "gone", "on it, before training"]
        parts.append(
            f"### {model}\n\n{markdown(head, rows)}\n\nBy chance {_pair(_area(found, name).values)} of the relevance "
            f"is on the thing; {one.sizes['scene']} scenes a set."
        )
    return (
        "## Which pixels\n\nScenes of two things; the text names the first (a cosine of the CLIP, the answer to "
        "whether it is there of the LLaVA). *Relevance on it*: the share on the patches of its exact mask. *Overlap*: "
        "IoU of the patches above the mean. *Pointing*: whether the strongest patch is one. *Gone*: whether the thing "
        "with more relevance a patch is the one whose absence, drawn again without it, changes the number more (one in "
        "two by chance).\n\n" + "\n\n".join(parts)
    )


def _pictures(found: Found) -> str:
    one, floor = found["pictures"], found["pictures_floor"]
    rows = []
    for way in map(str, one["way"].values):
        here, before = one.sel(way=way), floor.sel(way=way)
        rows.append([
            way, _pair(here["value"].mean("thing").values), _pair(here["rank"].median("thing").values, 0),
            _pair((here["rank"] <= FIRST).mean("thing").values), _pair(before["value"].mean("thing").values),
            _pair(before["rank"].median("thing").values, 0), _pair((before["rank"] <= FIRST).mean("thing").values),
        ])  # fmt: skip
    rows.append(["by chance", "", f"{(len(DRAWABLE) + 1) / 2:.0f}", "", "", "", ""])
    head = ["made by", "cosine", "judge's rank", f"in its first {FIRST}", "cosine, before training", "rank", "first"]
    return (
        f"## Which picture\n\nPictures made for the cosine of zoo:emoji-clip with “a thing”, {THINGS} things a set; "
        f"the judge was trained apart and knows {len(DRAWABLE)}, so that chance is a rank of "
        f"{(len(DRAWABLE) + 1) / 2:.0f}. *{SCENE}*: the scene whose cosine is highest.\n\n{markdown(head, rows)}"
    )


def _limits() -> str:
    return (
        "## What this can not tell\n\nThe retrained worlds are small and train in seconds: what foretells them need "
        "not foretell a model trained for months. LDS is about sums over many items, not about one. That relevance "
        "lies on a thing does not say that the model uses what the map says; *gone* is one intervention, of two "
        "things. A picture that a judge can read is not what the unit answers to among real pictures."
    )


# --- the figure -------------------------------------------------------------------------------------------------------


def draw_all(found: Found, folder: Path, stem: str) -> dict[str, str]:
    """Draw the figure; its path as the page beside the folder writes it."""
    return saved({"data": foretold(found)}, folder, stem)


def foretold(found: Found) -> Figure:
    """LDS of each method in each world, a dot a set, with the agreement of two seeds as a line."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, len(WORLDS))
    for ax, name in zip(np.atleast_1d(axes), WORLDS, strict=True):
        one = found[f"data_{name}"]
        ways, values = list(map(str, one["way"].values)), one["lds"].mean("query")
        grey = (CHANCE, LIKENESS, BEFORE)
        for at, way in enumerate(ways):
            here = values.sel(way=way).values
            ax.barh(at, here.mean(), color="#c6c6c6" if way in grey else "#2066a8")
            ax.plot(here, [at] * len(here), "o", color="black", markersize=3)
        ax.axvline(float(one["ceiling"].mean()), color="black", linestyle="--", linewidth=1)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_yticks(range(len(ways)), ways, fontsize=8)
        ax.set(title=f"a model that {FAMILIES[name]}", xlabel="LDS (dashed: two seeds)")
        ax.invert_yaxis()
    return figure
